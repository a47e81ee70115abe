/* int8 gradients: masked, weighed, summed where two meet, and made of int32 sums. */
#include "arch/arch.h"
#include "round.h"
#include "seam_number.h"

#include <string.h>

static const seam_q8_train_kernels *kernels(void) {
    return seam_kernels_now()->train;
}

void seam_q8_mask(int8_t *dy, const int8_t *y, int32_t y_min, int32_t y_max, size_t count) {
    for (size_t i = 0; i < count; i++)
        dy[i] = (int8_t)(dy[i] & -((y[i] > y_min) & (y[i] < y_max)));
}

int seam_q8_ratios_even(const uint16_t *ratios, int32_t channels) {
    for (int32_t c = 0; c < channels; c++)
        if (ratios[c] != SEAM_Q8_RATIO_ONE)
            return 0;
    return 1;
}

void seam_q8_weigh(int8_t *out, const int8_t *dy, const uint16_t *ratios, int32_t channels,
                   size_t pixels, uint32_t first, const seam_q8_noise *noise) {
    const uint32_t key = seam_random_key(noise->seed, noise->stream) + first * SEAM_RANDOM_STEP;
    kernels()->weigh(out, dy, ratios, channels, pixels, key, noise->mode);
}

void seam_q8_bias_sums(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels) {
    memset(sums, 0, (size_t)channels * sizeof *sums);
    kernels()->bias(sums, dy, channels, pixels);
}

int32_t seam_q8_add_sums(int32_t *sums, const int8_t *dy, float ratio, size_t count) {
    const seam_number number = seam_number_of(ratio);
    const int32_t factor = (int32_t)(number.mantissa >> 16);
    for (size_t i = 0; i < count; i++)
        sums[i] = dy[i] * factor;
    return number.exponent - 15;
}

int32_t seam_q8_join_sums(int32_t *sums, const int8_t *a, int32_t a_exponent, const int8_t *b,
                          int32_t b_exponent, size_t count) {
    const int8_t *large = a_exponent < b_exponent ? b : a, *small = large == a ? b : a;
    const int32_t apart =
        a_exponent < b_exponent ? b_exponent - a_exponent : a_exponent - b_exponent;
    const int32_t factor = apart <= 16 ? 1 << apart : 1, other = apart <= 16;
    for (size_t i = 0; i < count; i++)
        sums[i] = large[i] * factor + small[i] * other;
    return (a_exponent < b_exponent ? b_exponent : a_exponent) - (apart <= 16 ? apart : 0);
}

uint32_t seam_q8_largest(const int32_t *sums, size_t count) {
    return kernels()->peak(sums, count);
}

int32_t seam_q8_settle_bits(uint32_t peak, int32_t multiplier) {
    /* A peak of 2^31 - 1 at most: SEAM_Q8_INPUT_TERMS_MAX. */
    const uint32_t most =
        multiplier ? (uint32_t)(((uint64_t)peak * (uint32_t)multiplier + (1u << 30)) >> 31) : peak;
    const int32_t bits = seam_bit_length(most) - 7;
    return bits > 0 ? bits : 0;
}

void seam_q8_settle(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits,
                    uint32_t first, size_t count, const seam_q8_noise *noise) {
    kernels()->settle(g, sums, multiplier, bits, seam_random_key(noise->seed, noise->stream), first,
                      count, noise->mode);
}
