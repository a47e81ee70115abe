/* The table of micro-kernels a machine variant brings; every variant gives the bits of the generic
 * one. */
#ifndef SEAM_ARCH_H
#define SEAM_ARCH_H

#include "../seam.h"
#include "codec.h"
#include "q8.h"
#include "q8_train.h"

#define SEAM_TILE_MAX 8 /* pixels in a tile, any variant */
#define SEAM_LANES_MAX                                                         \
    16 /* floats in a vector, any variant: scratch sizes must not depend on it \
        */

/* What every pixel of a tile does: rows x cols runs of multiply-adds. Steps in floats; `a` is the
 * operand one pixel reads, `w` the weights, where the channels of a block lie side by side. */
typedef struct {
    const float *w;
    const float *start; /* [channels] to start the sums from; NULL: from what y holds */
    int32_t channels;   /* results per pixel in this block */
    int32_t rows, cols, run;
    ptrdiff_t a_row, a_col, w_row, w_col, w_term;
    /* Depthwise only: channel l of the block reads a[l * a_step / a_share + j] and w[l * w_step +
     * j]. */
    int32_t a_step, a_share, w_step;
} seam_job;

/* y[pixel][channel] += terms. All of a tile is read before any of it is written. */
typedef void seam_tile(float *const *y, const float *const *a, int32_t pixels, const seam_job *job);

/* Three nested loops over pixels: how often, and the steps of both operands in floats. */
typedef struct {
    int32_t count[3];
    ptrdiff_t a[3], b[3];
} seam_box;

/* Sums over pixels: c[p * c_p + l * c_l] += sum a[p] * b[l], p < scalars, l < channels. */
typedef struct {
    ptrdiff_t c_p, c_l;
    int32_t scalars, channels;
} seam_outer;

/* Depthwise weight gradients of `taps` kernel rows at once: dw[t * dw_tap + l] += sum over pixels
 * of dy[l] * x[t * x_tap + l], l < channels; taps <= SEAM_DEPTHWISE_TAPS. */
#define SEAM_DEPTHWISE_TAPS 3
typedef struct {
    int32_t taps, channels;
    ptrdiff_t dw_tap, x_tap;
} seam_tap_sums;

typedef struct {
    const char *name;
    int32_t lanes;      /* floats in a vector */
    int32_t pixels[3];  /* pixels in a tile whose block is 1, 2, 3 vectors of channels wide */
    int32_t scalars[3]; /* largest number of scalars beside 1, 2, 3 vectors in `outer` */
    int32_t depthwise_pixels;
    seam_tile *tile;      /* reads whole vectors of w */
    seam_tile *depthwise; /* w: [tap][all channels] */
    /* All channels of the pixels of a box (a and b: steps of a and y), for multiplier 1 and windows
     * of at most SEAM_DEPTHWISE_TAPS rows and columns. */
    void (*depthwise_box)(float *y, const float *a, const seam_job *job, const seam_box *box);
    /* packed[k * step + l] = w[l * w_step + k] for k < terms; l < lanes, zero from `used` on. */
    void (*pack)(float *packed, const float *w, ptrdiff_t step, ptrdiff_t w_step, int32_t used,
                 int32_t terms);
    void (*outer)(float *c, const float *a, const float *b, const seam_outer *shape,
                  const seam_box *box);
    /* dw[channel] += sum dy[channel * multiplier ...] * x[channel / multiplier] for one tap. */
    void (*depthwise_outer)(float *dw, const float *x, const float *dy, int32_t channels,
                            int32_t multiplier, const seam_box *box);
    void (*depthwise_taps)(float *dw, const float *x, const float *dy, const seam_tap_sums *taps,
                           const seam_box *box);
    void (*column_sum)(float *db, const float *dy, size_t pixels, int32_t channels);
    void (*sgd)(float *w, float *v, const float *dw, float rate, float momentum, float decay,
                size_t count);
    float (*peak)(uint32_t rounds); /* SEAM_PEAK_VECTORS * lanes multiply-adds a round */
    const seam_q8_kernels *q8;
    const seam_q8_train_kernels *train;
    const seam_codec_kernels *codec;
} seam_kernels;

extern const seam_kernels seam_kernels_generic;
extern const seam_kernels seam_kernels_avx2;
extern const seam_kernels seam_kernels_vnni;
extern const seam_kernels seam_kernels_neon;
extern const seam_kernels seam_kernels_neon_dotprod;

/* The table in use. */
const seam_kernels *seam_kernels_now(void);

#endif
