/* What the int8 micro-kernels for aarch64 have in common: how eight sums become bytes, and reading
 * and writing fewer values than fit into a vector. */
#ifndef SEAM_ARCH_Q8_NEON_H
#define SEAM_ARCH_Q8_NEON_H

#include "q8.h"

#if defined(SEAM_NEON)
#include <arm_neon.h>
#include <string.h>

#define FIXED static inline __attribute__((always_inline))
#define LANES 8 /* channels in a block of weights */

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

typedef struct {
    int32x4_t low, high;
} eight;

/* n <= 8 words, zeros behind. */
static inline eight load_words(const int32_t *p, int32_t n) {
    if (n == LANES)
        return (eight){vld1q_s32(p), vld1q_s32(p + 4)};
    int32_t words[LANES] = {0};
    memcpy(words, p, (size_t)n * sizeof *p);
    return (eight){vld1q_s32(words), vld1q_s32(words + 4)};
}

/* n <= 8 bytes, zeros behind. */
static inline int8x8_t load_bytes(const int8_t *p, int32_t n) {
    if (n == LANES)
        return vld1_s8(p);
    int8_t bytes[LANES] = {0};
    memcpy(bytes, p, (size_t)n);
    return vld1_s8(bytes);
}

static inline void store_bytes(int8_t *p, int8x8_t bytes, int32_t n) {
    if (n == LANES) {
        vst1_s8(p, bytes);
        return;
    }
    int8_t values[LANES];
    vst1_s8(values, bytes);
    memcpy(p, values, (size_t)n);
}

/* ---- Requantisation ---- */

typedef struct {
    eight multiplier, left, right; /* right: minus the shift to the right */
} scale8;

static inline scale8 scale_of(eight multiplier, eight shift) {
    const int32x4_t zero = vdupq_n_s32(0);
    return (scale8){multiplier,
                    {vmaxq_s32(shift.low, zero), vmaxq_s32(shift.high, zero)},
                    {vminq_s32(shift.low, zero), vminq_s32(shift.high, zero)}};
}

static inline scale8 scale_one(int32_t multiplier, int32_t shift) {
    const int32x4_t m = vdupq_n_s32(multiplier), s = vdupq_n_s32(shift);
    return scale_of((eight){m, m}, (eight){s, s});
}

/* Scales of channels [c, c + n), n <= 8. */
static inline scale8 scale_load(const seam_q8_job *job, int32_t c, int32_t n) {
    if (job->scale_step == 0)
        return scale_one(*job->multiplier, *job->shift);
    return scale_of(load_words(job->multiplier + c, n), load_words(job->shift + c, n));
}

/* The instructions round halves up; one less below zero, where the shift drops bits, is away from
 * zero. No product is so small that it wraps. */
static inline int32x4_t rescale4(int32x4_t a, int32x4_t multiplier, int32x4_t left,
                                 int32x4_t right) {
    const int32x4_t y = vqrdmulhq_s32(vshlq_s32(a, left), multiplier);
    const int32x4_t below = vshrq_n_s32(vandq_s32(y, right), 31);
    return vrshlq_s32(vaddq_s32(y, below), right);
}

static inline eight rescale(eight a, const scale8 *s) {
    return (eight){rescale4(a.low, s->multiplier.low, s->left.low, s->right.low),
                   rescale4(a.high, s->multiplier.high, s->left.high, s->right.high)};
}

typedef struct {
    int32x4_t zero;
    int8x8_t least, most;
} range8;

static inline range8 range_of(int32_t zero, int32_t least, int32_t most) {
    return (range8){vdupq_n_s32(zero), vdup_n_s8((int8_t)least), vdup_n_s8((int8_t)most)};
}

/* Eight clamped bytes. */
static inline int8x8_t narrow(eight y, const range8 *range) {
    const int16x4_t low = vqmovn_s32(vaddq_s32(y.low, range->zero));
    const int16x4_t high = vqmovn_s32(vaddq_s32(y.high, range->zero));
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(low, high));
    return vmin_s8(vmax_s8(bytes, range->least), range->most);
}

static inline eight bias_load(const seam_q8_job *job, int32_t c, int32_t n) {
    if (job->bias == NULL)
        return (eight){vdupq_n_s32(0), vdupq_n_s32(0)};
    return load_words(job->bias + c, n);
}

#endif
#endif
