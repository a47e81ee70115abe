/* The parameters of an int8 front: where they lie in their blob, and the one check of everything a
 * blob from outside can get wrong. */
#include "front_q8.h"

#define CLAMP 4u        /* bytes: i8 y_min, i8 y_max, u16 zero */
#define SUM_NUMBERS 32u /* of an add: six i32, two f32 */

/* Bytes of a layer's numbers behind what is learned. Channels: multiplier, shift, step, ratio. */
uint64_t seam_q8_front_fixed_size(const seam_layer *l) {
    const uint64_t channels = (uint64_t)l->window.out_c;
    if (l->kind == SEAM_LAYER_ADD)
        return CLAMP + SUM_NUMBERS;
    return seam_q8_weights_of(l) > 0 ? CLAMP + 4u + 12u * channels + seam_round4(2u * channels)
                                     : CLAMP;
}

uint64_t seam_q8_blob_size(const seam_plan *plan) {
    uint64_t size = seam_round4(plan->parameters) + TENSOR_NUMBERS * plan->tensors;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        size += seam_q8_front_fixed_size(&l);
    }
    return size;
}

seam_q8_numbers seam_q8_front_numbers(const uint8_t *at, const seam_layer *l) {
    const size_t channels = (size_t)l->window.out_c;
    seam_q8_numbers n = {.y_min = (int8_t)at[0], .y_max = (int8_t)at[1]};
    at += CLAMP;
    if (l->kind == SEAM_LAYER_ADD) {
        n.sum.a_multiplier = (int32_t)seam_get32(at);
        n.sum.a_shift = (int32_t)seam_get32(at + 4);
        n.sum.b_multiplier = (int32_t)seam_get32(at + 8);
        n.sum.b_shift = (int32_t)seam_get32(at + 12);
        n.sum.y_multiplier = (int32_t)seam_get32(at + 16);
        n.sum.y_shift = (int32_t)seam_get32(at + 20);
        n.a_ratio = seam_get_float(at + 24);
        n.b_ratio = seam_get_float(at + 28);
    } else if (seam_q8_weights_of(l) > 0) {
        n.per_input = seam_get_float(at);
        n.multiplier = (const int32_t *)(const void *)(at + 4);
        n.shift = n.multiplier + channels;
        n.steps = (const float *)(const void *)(n.shift + channels);
        n.ratios = (const uint16_t *)(const void *)(n.steps + channels);
    }
    return n;
}

/* Every processor this runs on is little-endian: numbers of the blob are read where they lie. */
float seam_q8_front_scale(int32_t *zero, const seam_q8_front *f, uint32_t tensor) {
    const uint8_t *at = f->blob + seam_round4(f->plan.parameters) + (size_t)TENSOR_NUMBERS * tensor;
    *zero = (int32_t)seam_get32(at + 4);
    return seam_get_float(at);
}

static int is_number(float x, float most) {
    return x >= 0.0f && x <= most; /* false for NaN */
}

static int check_numbers(const seam_q8_numbers *n, const seam_layer *l, const int32_t *bias,
                         int32_t x_zero, int32_t y_zero) {
    const seam_q8_scaling how = {n->multiplier, n->shift, l->window.out_c, x_zero,
                                 y_zero,        n->y_min, n->y_max};
    int status = seam_q8_scaling_check(&how, l->window.out_c);
    if (status == SEAM_OK)
        status = seam_q8_sums_check(bias, l->window.out_c,
                                    seam_q8_weights_of(l) / (uint32_t)l->window.out_c);
    if (status != SEAM_OK)
        return status;
    if (!is_number(n->per_input, 1e30f))
        return SEAM_E_NOT_FINITE;
    for (int32_t c = 0; c < l->window.out_c; c++) {
        if (!is_number(n->steps[c], 1e30f))
            return SEAM_E_NOT_FINITE;
        if (n->ratios[c] > SEAM_Q8_RATIO_ONE)
            return SEAM_E_ARGUMENT;
    }
    return SEAM_OK;
}

static int check_blob(const seam_q8_front *f, const uint8_t *blob) {
    seam_q8_front given = *f;
    given.blob = (uint8_t *)(uintptr_t)blob; /* only read */
    seam_layer l;
    int32_t zero, y_zero;
    for (uint32_t i = 0; i < f->plan.tensors; i++) {
        const float scale = seam_q8_front_scale(&zero, &given, i);
        if (!(scale >= 1.1754944e-38f && scale <= 1e30f))
            return SEAM_E_NOT_FINITE;
        if (zero < -128 || zero > 127)
            return SEAM_E_ARGUMENT;
    }
    for (uint32_t i = 0; i < f->plan.layers; i++) {
        seam_plan_layer(&l, &f->plan, i);
        (void)seam_q8_front_scale(&zero, &given, l.input);
        (void)seam_q8_front_scale(&y_zero, &given, l.output);
        seam_q8_numbers n = seam_q8_front_numbers(blob + f->fixed[i], &l);
        const uint8_t *at = blob + l.parameter_offset;
        int status = n.y_min > n.y_max ? SEAM_E_ARGUMENT : SEAM_OK;
        for (uint32_t k = 0; status == SEAM_OK && k < seam_q8_weights_of(&l); k++)
            if (at[k] == 0x80u) /* -128 */
                status = SEAM_E_ARGUMENT;
        if (status == SEAM_OK && seam_q8_weights_of(&l) > 0) {
            const void *bias = at + seam_round4(seam_q8_weights_of(&l));
            status = check_numbers(&n, &l, seam_q8_biases_of(&l) ? bias : NULL, zero, y_zero);
        } else if (status == SEAM_OK && l.kind == SEAM_LAYER_ADD) {
            n.sum.a_zero = n.sum.b_zero = n.sum.y_zero = 0;
            n.sum.y_min = n.y_min;
            n.sum.y_max = n.y_max;
            status = seam_q8_sum_check(&n.sum);
            if (status == SEAM_OK && (!is_number(n.a_ratio, 1e30f) || !is_number(n.b_ratio, 1e30f)))
                status = SEAM_E_NOT_FINITE;
        }
        if (status != SEAM_OK)
            return status;
    }
    return SEAM_OK;
}

void seam_q8_front_forget(const seam_q8_front *f) {
    for (uint32_t t = 0; t < f->plan.tensors; t++) {
        f->extremes[2 * t] = 127;
        f->extremes[2 * t + 1] = -128;
    }
}

int seam_q8_front_set(seam_q8_front *front, const uint8_t *blob, size_t size) {
    if (size != front->plan.blob_size)
        return SEAM_E_SHAPE;
    /* Checked where it comes to lie: whole words lie at whole words there. If it is refused, what
     * was there before is lost, and the front has no parameters: zero scales compute nothing. */
    uint8_t *mine = front->blob;
    memcpy(mine, blob, size);
    seam_q8_front_forget(front);
    int status = check_blob(front, mine);
    if (status != SEAM_OK)
        memset(mine, 0, size);
    front->batch = 0;
    return status;
}
