/* The micro-kernels of int8 training a machine variant brings; every variant gives the bytes of the
 * generic one. */
#ifndef SEAM_ARCH_Q8_TRAIN_H
#define SEAM_ARCH_Q8_TRAIN_H

#include "../seam.h"
#include "compiler.h"

/* Two terms of 16 bits in one word, the first one low. */
static inline int32_t seam_pair(int32_t first, int32_t second) {
    return (int32_t)(((uint32_t)first & 0xFFFFu) | (uint32_t)second << 16);
}

/* c[row * c_row + col] += sum over terms of a[row * a_row + term * a_term] . b[term * b_term +
 * col], where a and b hold pairs and . is the sum of both products. */
typedef struct {
    ptrdiff_t c_row, a_row, a_term, b_term;
    int32_t rows, cols, terms;
} seam_q8_product;

/* One line of taps of a depthwise layer: pixels of y beside the inputs that one tap reads. */
typedef struct {
    ptrdiff_t y_step, x_step; /* from pixel to pixel */
    int32_t pixels, channels;
    int32_t x_zero;
} seam_q8_tap_line;

/* What an update does to the weights of one output channel, or of one tap of a depthwise layer;
 * shifts in bits to the right, left if negative. */
typedef struct {
    int32_t up;                 /* the sums are raised by so many bits first */
    int32_t keep, keep_shift;   /* of the velocity */
    int32_t pull, pull_shift;   /* of the weight itself */
    int32_t speed, speed_shift; /* from velocity to change */
    uint32_t key;               /* of the random stream */
    int mode;
} seam_q8_motion;

typedef struct {
    void (*product)(int32_t *c, const int32_t *a, const int32_t *b, const seam_q8_product *shape);
    /* Pairs of a[i] - zero and b[i] - zero; b may be NULL: then the second ones are 0. */
    void (*pairs)(int32_t *to, const int8_t *a, const int8_t *b, int32_t zero, int32_t count);
    /* sums[x] += dy * w and sums[w] += dy * (x - x_zero), where each channel reads its own. */
    void (*tap_inputs)(int32_t *sums, const int8_t *dy, const int8_t *w,
                       const seam_q8_tap_line *line);
    void (*tap_weights)(int32_t *sums, const int8_t *dy, const int8_t *x,
                        const seam_q8_tap_line *line);
    void (*weigh)(int8_t *out, const int8_t *dy, const uint16_t *ratios, int32_t channels,
                  size_t pixels, uint32_t key, int mode);
    /* sums[c] += dy of each pixel. */
    void (*bias)(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels);
    uint32_t (*peak)(const int32_t *sums, size_t count);
    void (*settle)(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits, uint32_t key,
                   uint32_t first, size_t count, int mode);
    /* For `count` weights side by side whose indices go up by one; steps and shifts of each sum by
     * itself (step 1) or of the first one (step 0). v may be NULL. */
    void (*update)(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                   const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                   const seam_q8_motion *motion);
} seam_q8_train_kernels;

extern const seam_q8_train_kernels seam_q8_train_generic;
extern const seam_q8_train_kernels seam_q8_train_avx2;
extern const seam_q8_train_kernels seam_q8_train_vnni;
extern const seam_q8_train_kernels seam_q8_train_neon;
extern const seam_q8_train_kernels seam_q8_train_m_dsp;

#endif
