/* The int8 residual sum: two scales in, one out. */
#include "arch/arch.h"

static int is_scale(int32_t multiplier, int32_t shift) {
    return multiplier >= 0 && shift >= -31 && shift <= 0; /* below 1: nothing may overflow */
}

static int is_value(int32_t value) {
    return value >= -128 && value <= 127;
}

int seam_q8_sum_check(const seam_q8_sum *how) {
    if (!is_scale(how->a_multiplier, how->a_shift) || !is_scale(how->b_multiplier, how->b_shift) ||
        !is_scale(how->y_multiplier, how->y_shift))
        return SEAM_E_ARGUMENT;
    if (!is_value(how->a_zero) || !is_value(how->b_zero) || !is_value(how->y_zero) ||
        !is_value(how->y_min) || !is_value(how->y_max) || how->y_min > how->y_max)
        return SEAM_E_ARGUMENT;
    return SEAM_OK;
}

void seam_q8_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                 size_t count) {
    seam_kernels_now()->q8->add(y, a, b, how, count);
}
