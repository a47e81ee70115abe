/* A float32 taken apart by its bits, and bounds that are rounded up: integers in place of floats,
 * for processors without them and for equal bytes everywhere. */
#ifndef SEAM_NUMBER_H
#define SEAM_NUMBER_H

#include <stdint.h>
#include <string.h>

/* mantissa * 2^(exponent - 31); the mantissa has 31 bits, or all is 0. */
typedef struct {
    uint32_t mantissa;
    int32_t exponent;
} seam_number;

static inline int32_t seam_bit_length(uint32_t value) {
    int32_t bits = 0;
    for (; value != 0; value >>= 1)
        bits++;
    return bits;
}

/* value >= 0; subnormal ones count as 0. */
static inline seam_number seam_number_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t exponent = bits >> 23 & 255u;
    if (exponent == 0)
        return (seam_number){0, 0};
    return (seam_number){((bits & 0x7FFFFFu) | 1u << 23) << 7, (int32_t)exponent - 126};
}

/* mantissa * 2^(exponent - 31), mantissa below 2^32, as a number not smaller. */
static inline seam_number seam_number_up(uint64_t mantissa, int32_t exponent) {
    if (mantissa == 0)
        return (seam_number){0, 0};
    if (mantissa >> 31 != 0) {
        mantissa = (mantissa + 1) >> 1;
        exponent++;
        if (mantissa >> 31 != 0)
            return (seam_number){1u << 30, exponent + 1};
    }
    const int32_t down = 31 - seam_bit_length((uint32_t)mantissa);
    return (seam_number){(uint32_t)mantissa << down, exponent - down};
}

static inline seam_number seam_number_product_up(seam_number a, seam_number b) {
    const uint64_t product = (uint64_t)a.mantissa * b.mantissa;
    return seam_number_up((product + 0x7FFFFFFFu) >> 31, a.exponent + b.exponent);
}

static inline seam_number seam_number_sum_up(seam_number a, seam_number b) {
    if (a.mantissa == 0 || b.mantissa == 0)
        return b.mantissa == 0 ? a : b;
    const seam_number most = a.exponent < b.exponent ? b : a,
                      least = a.exponent < b.exponent ? a : b;
    const int32_t gap = most.exponent - least.exponent, apart = gap < 31 ? gap : 31;
    const uint64_t rest = ((uint64_t)least.mantissa + ((1u << apart) - 1u)) >> apart;
    return seam_number_up(most.mantissa + rest, most.exponent);
}

static inline int seam_number_above(seam_number a, seam_number b) {
    if (a.mantissa == 0 || b.mantissa == 0)
        return a.mantissa != 0 && b.mantissa == 0;
    return a.exponent != b.exponent ? a.exponent > b.exponent : a.mantissa > b.mantissa;
}

#endif
