/* The micro-kernels of the int8 layers a machine variant brings; every variant gives the bytes of
 * the generic one. */
#ifndef SEAM_ARCH_Q8_H
#define SEAM_ARCH_Q8_H

#include "../seam.h"
#include "compiler.h"

/* A Cortex-M has one variant: the best of what it is compiled for. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M' && defined(__ARMEL__)
#if defined(__ARM_FEATURE_MVE)
#define SEAM_M_MVE
#elif defined(__ARM_FEATURE_DSP)
#define SEAM_M_DSP
#endif
#if defined(__ARM_FP) && __ARM_FP & 4
#define SEAM_M_FPU /* of single floats */
#endif
#endif

/* Bytes a tile takes for one term of all its pixels, any variant: scratch sizes must not depend on
 * it. A variant has eight pixels of one byte or four of two. */
#define SEAM_Q8_TILE_BYTES 8
#define SEAM_Q8_TILE_MAX 8

#define SEAM_PEAK_VECTORS 12 /* enough to keep two units of latency 4 busy, and they fit */

/* Result channels of a tile of pixels. A pixel's terms come as a patch. */
typedef struct {
    const int8_t *w;    /* [channels][terms] */
    const void *packed; /* the same as `pack` made it, or NULL */
    const int32_t *bias;
    const int32_t *multiplier, *shift; /* [channels], or with scale_step 0 one of each */
    int32_t scale_step;                /* 0 or 1 */
    int32_t channels, terms;
    int32_t x_zero, y_zero, y_min, y_max;
    int32_t rows, run; /* for `line`: terms are rows of runs */
    int32_t falling;   /* sums are below 2^30 and every shift goes right: rescaling is short */
} seam_q8_job;

/* A line of pixels of a depthwise layer that all use the same taps; steps in values. */
typedef struct {
    seam_q8_job job; /* w: the first of these taps, [tap][all channels]; terms: of all taps */
    int32_t pixels, rows, cols;
    ptrdiff_t x_pixel, x_row, x_col, y_pixel, w_row, w_col;
} seam_q8_line;

/* Of a line of such a layer, pixels that use the same taps; `rows` x `cols` of them, the first is
 * `tap`. Assembly reads the first three. */
typedef struct {
    ptrdiff_t x_row, x_col;
    int32_t rows, cols, tap, pixels;
    ptrdiff_t x_pixel, y_pixel;
} seam_q8_part;

#define SEAM_Q8_STATE_WORDS 128 /* on the stack, any variant */

/* The terms of a pixel take whole vectors of any variant. */
static inline size_t seam_q8_padded(int32_t terms) {
    return ((size_t)terms + 63) / 64 * 64;
}

/* What seam_q8_job.falling says. */
static inline int seam_q8_falling(const seam_q8_job *job) {
    const int64_t room = (1 << 30) - 1 - (int64_t)job->terms * (128 * 255);
    if (room < 0)
        return 0;
    for (int32_t c = 0; c < job->channels; c++) {
        if (job->shift[c * job->scale_step] >= 0)
            return 0;
        if (job->bias != NULL && (job->bias[c] > room || job->bias[c] < -room))
            return 0;
    }
    return 1;
}

typedef struct {
    int32_t pixels; /* in a tile: 4 or 8 */
    /* From a pixel's patch to the next; 0: seam_q8_padded(terms) terms. */
    int32_t pixel_bytes;
    /* Bytes of packed weights; 0: this variant never wants them. */
    size_t (*packed_size)(int32_t channels, int32_t terms);
    void (*pack)(void *packed, const seam_q8_job *job);
    /* `rows` runs of `count` inputs, x_step apart, to terms at, at + to_step, ... of a patch; x
     * NULL: from the padding. */
    void (*patch)(void *patch, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero);
    /* The end of a patch, which the tile may read but does not use. */
    void (*patch_end)(void *patch, int32_t terms);
    /* y[p * y_step + channel] from at most a tile's patches. */
    void (*tile)(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job);
    /* y[channel] of a pixel whose terms lie side by side at x, and whose job has no packed
     * weights: a dense layer of one sample needs no patch. */
    void (*lone)(int8_t *y, const int8_t *x, const seam_q8_job *job);
    /* For a variant that reads inputs where they lie, or NULL: pixel i of a line has its rows of
     * runs at x + i * x_step, x_row apart, and each run may be read up to a multiple of four.
     * `pack` then fills runs up to that, patches are plain inputs, and packed_size counts such
     * terms. */
    void (*line)(int8_t *y, ptrdiff_t y_step, const int8_t *x, ptrdiff_t x_step, ptrdiff_t x_row,
                 int32_t pixels, const seam_q8_job *job);
    void (*depthwise)(int8_t *y, const int8_t *x, const seam_q8_line *line);
    /* A whole layer whose output channels each read their own input channel; 0: not done, because
     * it is none of the usual ones. May be NULL. */
    int (*depthwise_image)(int8_t *y, const int8_t *x, const seam_q8_job *job,
                           const seam_window *p);
    /* Depthwise, `block` channels over the whole image; 0: line by line only. `begin` fills a
     * state that `block_part` then reads; 0: this layer is none of the usual ones. */
    int32_t block;
    int (*block_begin)(void *state, const seam_q8_job *job, const seam_window *p, int32_t c);
    void (*block_part)(int8_t *y, const int8_t *x, const void *state, const seam_q8_part *part);
    void (*add)(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count);
    void (*requantise)(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count);
    int32_t peak_products;            /* in a vector */
    int32_t (*peak)(uint32_t rounds); /* SEAM_PEAK_VECTORS vectors of products a round, or NULL */
} seam_q8_kernels;

extern const seam_q8_kernels seam_q8_kernels_generic;
extern const seam_q8_kernels seam_q8_kernels_avx2;
extern const seam_q8_kernels seam_q8_kernels_vnni;
extern const seam_q8_kernels seam_q8_kernels_neon;
extern const seam_q8_kernels seam_q8_kernels_neon_dotprod;
extern const seam_q8_kernels seam_q8_kernels_m_dsp;
extern const seam_q8_kernels seam_q8_kernels_m_mve;

/* Of plain C, for Cortex-M. */
void seam_q8_generic_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line);

/* Of AVX-512. */
int seam_q8_vnni_depthwise(int8_t *y, const int8_t *x, const seam_q8_job *job,
                           const seam_window *p);
void seam_q8_vnni_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count);

/* Of AVX2, for other variants of x86. */
void seam_q8_avx2_lone(int8_t *y, const int8_t *x, const seam_q8_job *job);
void seam_q8_avx2_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line);
void seam_q8_avx2_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count);
void seam_q8_avx2_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count);

/* Of NEON, for other variants of aarch64. */
void seam_q8_neon_lone(int8_t *y, const int8_t *x, const seam_q8_job *job);
void seam_q8_neon_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line);
void seam_q8_neon_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count);
void seam_q8_neon_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count);

#endif
