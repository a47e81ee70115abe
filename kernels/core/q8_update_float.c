/* int8 weights after a step whose velocities are float32, in place: each operation in one order. */
#include "seam.h"
#include "seam_math.h"

#define MOST 1073741824.0f           /* 2^30: of a velocity, in steps of a weight */
#define LEAST 8.673617379884035e-19f /* 2^-60: below it a velocity is nothing */
#define STEP_MOST 256.0f             /* more takes a weight past its range as well */
#define POWER_MOST 252               /* two float32 hold it as a product */

static float power_of_two(int32_t exponent) {
    return seam_from_bits((uint32_t)(exponent + 127) << 23);
}

static float held(float x, float most) {
    return x > most ? most : x < -most ? -most : x;
}

/* step * 2^exponent; the largest number instead of infinity. */
static float scale_of(float step, int32_t exponent) {
    const int32_t power = exponent > POWER_MOST    ? POWER_MOST
                          : exponent < -POWER_MOST ? -POWER_MOST
                                                   : exponent;
    const float scale = step * power_of_two(power / 2) * power_of_two(power - power / 2);
    return scale > 3.4028235e38f ? 3.4028235e38f : scale;
}

/* A velocity that is none, out of a damaged checkpoint, counts as 0. */
static float velocity_of(float v, float sum, int32_t w, const seam_q8_rates *rates) {
    const float kept = v >= -MOST && v <= MOST ? v : 0.0f;
    const float pushed = seam_fma(rates->decay, (float)w, held(sum, MOST));
    const float moved = held(seam_fma(rates->momentum, kept, pushed), MOST);
    return moved < LEAST && moved > -LEAST ? 0.0f : moved;
}

/* Whole steps, by 24 bits of the random number. */
static int32_t steps_of(float change, uint32_t random, int mode) {
    if (mode == SEAM_ROUND_TRUNCATE)
        return (int32_t)change;
    const uint32_t bits = mode == SEAM_ROUND_STOCHASTIC ? random : 1u << 31;
    const float raised = change + (float)(int32_t)(bits >> 8) * 5.9604645e-8f; /* 2^-24 */
    const int32_t whole = (int32_t)raised;
    return whole - (raised < (float)whole);
}

void seam_q8_update_float(int8_t *w, float *v, const int32_t *dw, const seam_q8_order *whole,
                          const seam_q8_order *order, int32_t first, const seam_q8_rates *rates,
                          const seam_q8_noise *noise) {
    for (int32_t c = 0; c < order->channels; c++) {
        const float scale = scale_of(rates->steps[first + c], rates->dw_exponent);
        const int32_t *sum = dw + (ptrdiff_t)c * order->channel_step;
        ptrdiff_t at = (ptrdiff_t)(first + c) * whole->channel_step;
        for (int32_t k = 0; k < order->terms; k++, at += whole->term_step) {
            const float velocity = velocity_of(v[at], (float)*sum * scale, w[at], rates);
            const uint32_t random = seam_random(noise->seed, noise->stream, (uint32_t)at);
            const float change = held(rates->rate * velocity, STEP_MOST);
            const int32_t moved = w[at] - steps_of(change, random, noise->mode);
            w[at] = (int8_t)(moved > SEAM_Q8_MOST    ? SEAM_Q8_MOST
                             : moved < -SEAM_Q8_MOST ? -SEAM_Q8_MOST
                                                     : moved);
            v[at] = velocity;
            sum += order->term_step;
        }
    }
}
