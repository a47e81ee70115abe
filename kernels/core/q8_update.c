/* int8 weights, their velocities and int32 biases after a step, in place. */
#include "arch/arch.h"
#include "round.h"
#include "seam_number.h"

#define FRACTION 16     /* bits behind the point of a velocity while it is made */
#define BIAS_FRACTION 8 /* and of the velocity of a bias */
#define BIAS_MOST (1 << 30)
#define RUN 64 /* channels whose steps lie on the stack at a time */

seam_q8_order seam_q8_order_of(const seam_window *p, int32_t groups, int depthwise) {
    const int32_t taps = p->kernel_h * p->kernel_w, terms = taps * (p->in_c / groups);
    return depthwise ? (seam_q8_order){p->out_c, taps, 1, p->out_c}
                     : (seam_q8_order){p->out_c, terms, terms, 1};
}

static uint32_t peak_of(const int32_t *dw, const seam_q8_order *order, int32_t channel) {
    const int32_t *from = dw + (ptrdiff_t)channel * order->channel_step;
    if (order->term_step == 1)
        return seam_kernels_now()->train->peak(from, (size_t)order->terms);
    uint32_t most = 0;
    for (int32_t k = 0; k < order->terms; k++, from += order->term_step) {
        const uint32_t size = *from < 0 ? 0u - (uint32_t)*from : (uint32_t)*from;
        most = size > most ? size : most;
    }
    return most;
}

void seam_q8_bound_take(seam_q8_bound *bound, const int32_t *dw, const seam_q8_order *order,
                        int32_t first, const float *steps) {
    for (int32_t c = 0; c < order->channels; c++) {
        const uint32_t peak = peak_of(dw, order, c);
        const seam_number reach =
            seam_number_product_up(seam_number_up(peak, 31), seam_number_of(steps[first + c]));
        const seam_number most = {bound->mantissa, bound->exponent};
        if (seam_number_above(reach, most)) {
            bound->mantissa = reach.mantissa;
            bound->exponent = reach.exponent;
        }
        bound->peak = peak > bound->peak ? peak : bound->peak;
    }
}

/* Bytes throughout, for then it is made of vectors. */
static uint8_t most_of(const int8_t *values, size_t count) {
    uint8_t most = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t size = (uint8_t)(values[i] < 0 ? -values[i] : values[i]);
        most = size > most ? size : most;
    }
    return most;
}

static seam_number reach_of(const int8_t *values, size_t count, float factor) {
    const int counts = values != NULL && seam_number_of(factor).mantissa != 0;
    const uint32_t most = counts ? most_of(values, count) : 0u;
    return seam_number_product_up(seam_number_up(most, 31), seam_number_of(factor));
}

int32_t seam_q8_velocity_exponent(int *moves, const seam_q8_bound *bound, const int8_t *w,
                                  const int8_t *v, int32_t v_exponent, size_t count,
                                  const seam_q8_rates *rates) {
    seam_number total = {bound->mantissa, bound->exponent + rates->dw_exponent};
    seam_number kept = reach_of(v, count, rates->momentum);
    kept.exponent += v_exponent;
    total = seam_number_sum_up(total, kept);
    total = seam_number_sum_up(total, reach_of(w, count, rates->decay));
    *moves = total.mantissa != 0;
    return *moves ? total.exponent - 7 + (total.mantissa > (uint32_t)SEAM_Q8_MOST << 24)
                  : v_exponent;
}

/* Of one sum in steps of its weight: the factor, and the shift to the velocity's fraction. */
static void step_of(int32_t *step, int32_t *shift, float value, int32_t up, int32_t exponent) {
    const seam_number number = seam_number_of(value);
    *step = (int32_t)number.mantissa;
    *shift = up - (number.exponent + exponent);
}

static seam_q8_motion motion_of(const seam_q8_bound *bound, int has_velocity, int32_t old_exponent,
                                int32_t new_exponent, const seam_q8_rates *rates,
                                const seam_q8_noise *noise) {
    const seam_number momentum = seam_number_of(has_velocity ? rates->momentum : 0.0f);
    const seam_number decay = seam_number_of(rates->decay), rate = seam_number_of(rates->rate);
    const int32_t down = 31 - FRACTION - momentum.exponent;
    const int32_t speed_shift = 7 - (rate.exponent + new_exponent);
    return (seam_q8_motion){
        .up = 31 - seam_bit_length(bound->peak),
        .keep = down > 31 ? 0 : (int32_t)((momentum.mantissa + (1u << (down - 1))) >> down),
        .keep_shift = new_exponent - old_exponent,
        .pull = (int32_t)decay.mantissa,
        .pull_shift = 23 - (decay.exponent + FRACTION - new_exponent),
        .speed = (int32_t)rate.mantissa,
        .speed_shift = speed_shift > 0 ? speed_shift : 0,
        .key = seam_random_key(noise->seed, noise->stream),
        .mode = noise->mode};
}

void seam_q8_update(int8_t *w, int8_t *v, const int32_t *dw, const seam_q8_order *whole,
                    const seam_q8_order *order, int32_t first, const seam_q8_bound *bound,
                    int32_t v_exponent, int32_t new_exponent, const seam_q8_rates *rates,
                    const seam_q8_noise *noise) {
    const seam_q8_train_kernels *kernels = seam_kernels_now()->train;
    const seam_q8_motion motion =
        motion_of(bound, v != NULL, v_exponent, new_exponent, rates, noise);
    const int32_t exponent = rates->dw_exponent + FRACTION - new_exponent;
    const int by_terms = order->term_step == 1, run = by_terms ? 1 : RUN;
    for (int32_t c = 0; c < order->channels; c += run) {
        const int32_t n = order->channels - c < run ? order->channels - c : run;
        int32_t steps[RUN], shifts[RUN];
        for (int32_t i = 0; i < n; i++)
            step_of(steps + i, shifts + i, rates->steps[first + c + i], motion.up, exponent);
        for (int32_t k = 0; k < (by_terms ? 1 : order->terms); k++) {
            const ptrdiff_t at =
                (ptrdiff_t)(first + c) * whole->channel_step + (ptrdiff_t)k * whole->term_step;
            const ptrdiff_t from =
                (ptrdiff_t)c * order->channel_step + (ptrdiff_t)k * order->term_step;
            kernels->update(w + at, v != NULL ? v + at : NULL, dw + from, steps, shifts, !by_terms,
                            (uint32_t)at, by_terms ? order->terms : n, &motion);
        }
    }
}

/* round(value / 2^bits), ties up, within BIAS_MOST; not one bit down is too far. */
static int64_t shifted_wide(int64_t value, int32_t bits) {
    if (bits > 62)
        return 0;
    if (bits < 1)
        return value > 0 ? BIAS_MOST : value < 0 ? -BIAS_MOST : 0;
    const int64_t shifted = (value + ((int64_t)1 << (bits - 1))) >> bits;
    return shifted > BIAS_MOST ? BIAS_MOST : shifted < -BIAS_MOST ? -BIAS_MOST : shifted;
}

static int64_t change_of(int64_t value, int32_t bits, uint32_t random, int mode) {
    if (bits > 62)
        return 0;
    const int64_t part =
        bits >= 32 ? (int64_t)((uint64_t)random << (bits - 32)) : (int64_t)(random >> (32 - bits));
    if (mode == SEAM_ROUND_TRUNCATE)
        return value < 0 ? -(-value >> bits) : value >> bits;
    return (value + part) >> bits;
}

void seam_q8_update_bias(int32_t *b, int32_t *v, const int32_t *db, int32_t channels,
                         float per_input, int32_t most, const seam_q8_rates *rates,
                         const seam_q8_noise *noise) {
    const seam_number other = seam_number_of(per_input), rate = seam_number_of(rates->rate);
    const seam_q8_bound none = {0};
    const seam_q8_motion motion = motion_of(&none, v != NULL, 0, 0, rates, noise);
    const int32_t wanted = 31 - rate.exponent + BIAS_FRACTION, bits = wanted > 1 ? wanted : 1;
    for (int32_t c = 0; c < channels; c++) {
        const seam_number step = seam_number_of(rates->steps[c]);
        const int64_t both = (int64_t)(((uint64_t)step.mantissa * other.mantissa) >> 31);
        const int32_t exponent =
            step.exponent + other.exponent + rates->dw_exponent + BIAS_FRACTION;
        int64_t velocity = shifted_wide(db[c] * both, 31 - exponent);
        if (v != NULL)
            velocity += ((int64_t)v[c] * motion.keep + (1 << (FRACTION - 1))) >> FRACTION;
        velocity = velocity > BIAS_MOST ? BIAS_MOST : velocity < -BIAS_MOST ? -BIAS_MOST : velocity;
        const uint32_t random = seam_mix(motion.key + (uint32_t)c * SEAM_RANDOM_STEP);
        const int64_t change =
            change_of(velocity * rate.mantissa, bits,
                      noise->mode == SEAM_ROUND_STOCHASTIC ? random : 1u << 31, noise->mode);
        const int64_t moved = b[c] - change;
        b[c] = (int32_t)(moved > most ? most : moved < -most ? -most : moved);
        if (v != NULL)
            v[c] = (int32_t)velocity;
    }
}
