/* The table of loops between floats and a parcel's bytes; every variant gives the bytes of the
 * generic one. */
#ifndef SEAM_ARCH_CODEC_H
#define SEAM_ARCH_CODEC_H

#include "../seam.h"

#define SEAM_CODEC_PART 64         /* values at a time where one loop hands to the next */
#define SEAM_CODEC_SURE 0x3EFFF000 /* 0.5 - 2^-13: a rest with smaller bits is not near a half */

typedef struct {
    float inv, zero, low, high; /* q = clamp(floor(fma(x, inv, zero) + u), low, high) */
    uint32_t key, first;        /* stochastic: of the random stream, at the first value */
    int stochastic;             /* u: 24 random bits as a fraction, or a half */
} seam_quantiser;

typedef struct {
    /* Smallest and largest of x and 0. Returns 0 if a NaN or an infinity is among x. */
    int (*range)(float *low, float *high, const float *x, size_t count);
    /* y = the little-endian floats. Returns 0 if one is not finite. */
    int (*copy)(float *y, const uint8_t *bytes, size_t count);
    void (*quantise)(int8_t *q, const float *x, const seam_quantiser *how, size_t count);
    /* Two values of four bits a byte, the earlier one low; a missing last one is 0. */
    void (*quantise_pairs)(uint8_t *pairs, const float *x, const seam_quantiser *how, size_t count);
    void (*dequantise)(float *x, const int8_t *q, float scale, int32_t zero, size_t count);
    void (*dequantise_pairs)(float *x, const uint8_t *pairs, float scale, int32_t zero,
                             size_t count);
    /* clamp(round(x / scale) + zero). Returns 0 if a NaN is among x. */
    int (*round)(int8_t *q, const float *x, float scale, int32_t zero, seam_half half,
                 size_t count);
} seam_codec_kernels;

extern const seam_codec_kernels seam_codec_generic;
extern const seam_codec_kernels seam_codec_avx2;
extern const seam_codec_kernels seam_codec_vnni;

#endif
