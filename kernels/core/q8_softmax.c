/* int8 softmax in fixed point: e^x from a cubic and a table of powers, one Newton reciprocal a row.
 * A number of "n whole bits" is an int32 that stands for itself / 2^(31 - n). */
#include "q8_requant.h"
#include "seam.h"

#define ONE INT32_MAX /* the largest number below 1 with no whole bits */

static int32_t raise(int32_t a, int32_t bits) {
    const int64_t wide = (int64_t)a * ((int64_t)1 << bits);
    return wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* e^x, -1/4 <= x < 0, no whole bits: Taylor to the fourth power around -1/8. */
static int32_t exp_quarter(int32_t x) {
    const int32_t exp_eighth = 1895147668, third = 715827883; /* e^(-1/8), 1/3 */
    const int32_t d = x + (1 << 28);
    const int32_t d2 = seam_q8_multiply(d, d), d3 = seam_q8_multiply(d2, d),
                  d4 = seam_q8_multiply(d2, d2);
    const int32_t tail =
        seam_q8_shift_right(seam_q8_multiply(seam_q8_shift_right(d4, 2) + d3, third) + d2, 1);
    return exp_eighth + seam_q8_multiply(exp_eighth, d + tail);
}

/* e^x for x <= 0 with five whole bits; the result has none. */
static int32_t exp_negative(int32_t x) {
    /* e^-(1/4), e^-(1/2), e^-1, ... e^-16: one for each bit of what is left of x. */
    static const int32_t powers[7] = {1672461947, 1302514674, 790015084, 290630308,
                                      39332535,   720401,     242};
    const int32_t quarter = 1 << 24;
    if (x == 0)
        return ONE;
    const int32_t part = (x & (quarter - 1)) - quarter;
    int32_t result = exp_quarter(raise(part, 5));
    const int32_t rest = part - x;
    for (int i = 0; i < 7; i++)
        result =
            rest & (int32_t)((uint32_t)quarter << i) ? seam_q8_multiply(result, powers[i]) : result;
    return result;
}

/* 1 / (1 + x), 0 <= x < 1, no whole bits: three Newton steps with two whole bits. */
static int32_t reciprocal(int32_t x) {
    const int32_t start = 1515870810, slope = -1010580540;      /* 48/17, -32/17 */
    const int32_t half = (int32_t)(((int64_t)x + ONE + 1) / 2); /* of the denominator */
    int32_t y = start + seam_q8_multiply(half, slope);
    for (int i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - seam_q8_multiply(half, y);
        y += raise(seam_q8_multiply(y, error), 2);
    }
    return raise(y, 1);
}

static int leading_zeros(uint32_t x) {
    int zeros = 0;
    for (; zeros < 32 && (x & 0x80000000u) == 0; zeros++)
        x <<= 1;
    return zeros;
}

static void softmax_row(int8_t *y, const int8_t *x, int32_t classes, int32_t multiplier,
                        int32_t shift) {
    const int32_t whole_bits = 12; /* of the sum: SEAM_Q8_CLASSES_MAX times 1 */
    const int32_t least = -(int32_t)(((int64_t)31 << 26) >> shift); /* further down is nothing */
    int32_t top = x[0], sum = 0;
    for (int32_t c = 1; c < classes; c++)
        top = x[c] > top ? x[c] : top;
    for (int32_t c = 0; c < classes; c++)
        if (x[c] - top >= least)
            sum += seam_q8_shift_right(exp_negative(seam_q8_rescale(x[c] - top, multiplier, shift)),
                                       whole_bits);
    const int zeros = leading_zeros((uint32_t)sum);
    const int32_t scale = reciprocal((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
    const int32_t down = whole_bits - zeros + 31 - 8;
    for (int32_t c = 0; c < classes; c++) {
        y[c] = -128;
        if (x[c] - top < least || down > 31) /* of hundreds of equals none gets half a step */
            continue;
        const int32_t power = exp_negative(seam_q8_rescale(x[c] - top, multiplier, shift));
        y[c] = seam_q8_clamp(seam_q8_shift_right(seam_q8_multiply(scale, power), down) - 128, -128,
                             127);
    }
}

void seam_q8_softmax(int8_t *y, const int8_t *x, size_t rows, int32_t classes, int32_t multiplier,
                     int32_t shift) {
    for (size_t r = 0; r < rows; r++, x += classes, y += classes)
        softmax_row(y, x, classes, multiplier, shift);
}
