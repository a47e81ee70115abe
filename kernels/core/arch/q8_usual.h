/* A short way from sums to int8, for channels whose figures are usual: a scale between 2^-21 and
 * 1/2, a bias that leaves room, no clamp but that of int8. */
#ifndef SEAM_ARCH_Q8_USUAL_H
#define SEAM_ARCH_Q8_USUAL_H

#include "../q8_requant.h"
#include "q8.h"

#define SEAM_Q8_RIGHT_MAX 20 /* the zero point, so far up, leaves room */

/* What holds for all channels of a job. */
typedef struct {
    int32_t limit; /* with |bias| below it, every sum is below 2^30: it can be doubled; or 0 */
    int32_t round; /* 2 * y_zero + 1 */
} seam_q8_range;

static inline seam_q8_range seam_q8_range_of(const seam_q8_job *job, int32_t terms) {
    const int32_t most = (1 << 30) / (128 * 255);
    const int any = terms >= most || job->y_min > -128 || job->y_max < 127;
    return (seam_q8_range){any ? 0 : (1 << 30) - terms * (128 * 255), 2 * job->y_zero + 1};
}

/* Of a channel: a right shift, and what is added before it. */
typedef struct {
    int32_t multiplier, right, round;
} seam_q8_usual;

/* 0: its figures are not usual. */
static inline int seam_q8_usual_of(seam_q8_usual *s, const seam_q8_job *job, int32_t c,
                                   int32_t bias, const seam_q8_range *range) {
    const int32_t at = c * job->scale_step, less = -1 - job->shift[at];
    if ((uint32_t)less >= SEAM_Q8_RIGHT_MAX ||
        (uint32_t)bias + (uint32_t)range->limit >= 2u * (uint32_t)range->limit)
        return 0;
    s->multiplier = job->multiplier[at];
    s->right = less + 1;
    s->round = range->round * (1 << less); /* half, and the zero point */
    return 1;
}

/* round(a * b / 2^32), ties up. */
static inline int32_t seam_q8_multiply_high(int32_t a, int32_t b) {
#if defined(SEAM_M_DSP)
    int32_t high;
    __asm("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
#else
    const int64_t product = (int64_t)a * b;
    return (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
#endif
}

static inline int8_t seam_q8_saturate(int32_t value) {
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M' && defined(__ARM_FEATURE_SAT)
    __asm("ssat %0, #8, %0" : "+r"(value));
    return (int8_t)value;
#else
    value = value < -128 ? -128 : value;
    return (int8_t)(value > 127 ? 127 : value);
#endif
}

/* doubled: a sum, twice. */
static inline int8_t seam_q8_usual_finish(int32_t doubled, const seam_q8_usual *s) {
    const int32_t y = seam_q8_multiply_high(doubled, s->multiplier);
    return seam_q8_saturate((y + (y >> 31) + s->round) >> s->right); /* halves away from zero */
}

#endif
