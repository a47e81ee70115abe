/* How an int32 sum becomes int8: TFLite Micro's double rounding, as small functions for every
 * kernel. */
#ifndef SEAM_Q8_REQUANT_H
#define SEAM_Q8_REQUANT_H

#include <stdint.h>

/* round(a * b / 2^31), ties up; not both INT32_MIN. */
static inline int32_t seam_q8_multiply(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* round(a / 2^shift), ties away from zero; 0 <= shift <= 31. */
static inline int32_t seam_q8_shift_right(int32_t a, int32_t shift) {
    const int32_t mask = (int32_t)((1u << shift) - 1u);
    const int32_t half = (mask >> 1) + (a < 0 ? 1 : 0);
    return (a >> shift) + ((a & mask) > half ? 1 : 0);
}

/* round(round(a * 2^left * multiplier / 2^31) / 2^right): a positive shift is left, a negative one
 * right. The left shift wraps, as do all sums here. */
static inline int32_t seam_q8_rescale(int32_t a, int32_t multiplier, int32_t shift) {
    const int32_t left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
    const int32_t raised = (int32_t)((uint32_t)a << left);
    return seam_q8_shift_right(seam_q8_multiply(raised, multiplier), right);
}

static inline int8_t seam_q8_clamp(int32_t value, int32_t least, int32_t most) {
    value = value < least ? least : value;
    return (int8_t)(value > most ? most : value);
}

#endif
