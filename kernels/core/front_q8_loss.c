/* The loss at the end of a whole int8 network: the one place that computes with floats. */
#include "front_q8.h"

/* Floats of one row of logits and of its gradient, where the output may be logits. */
uint64_t seam_q8_front_loss_size(const seam_plan *plan) {
    seam_tensor out;
    seam_plan_tensor(&out, plan, plan->output);
    return out.h == 1 && out.w == 1 && !plan->inference ? 8u * (uint64_t)out.c : 0u;
}

static float power_of_two(int32_t exponent) {
    const uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int32_t floor_of(float x) {
    const int32_t whole = (int32_t)x;
    return whole - (x < (float)whole);
}

typedef struct {
    float scale;
    int32_t zero, classes;
    float *logits, *gradient; /* [classes] */
} loss_row;

/* One sample: its logits, its loss, and the gradient with respect to the int8 values. */
static float row_loss(const loss_row *row, const int8_t *q, int32_t label, int32_t batch) {
    float loss;
    for (int32_t k = 0; k < row->classes; k++)
        row->logits[k] = (float)(q[k] - row->zero) * row->scale;
    seam_f32_softmax_cross_entropy(&loss, row->gradient, row->logits, &label, 1, row->classes,
                                   1.0f / (float)batch);
    for (int32_t k = 0; k < row->classes; k++)
        row->gradient[k] *= row->scale;
    return loss;
}

/* The least exponent with which 127 holds `most`. */
static int32_t exponent_for(float most) {
    const seam_number n = seam_number_of(most);
    const int32_t exponent = n.exponent - 7 + (n.mantissa > (uint32_t)SEAM_Q8_MOST << 24);
    return n.mantissa == 0 || exponent < -100 ? -100 : exponent;
}

static void quantise_row(int8_t *g, const loss_row *row, int32_t exponent, uint32_t first,
                         const seam_q8_noise *noise) {
    const float inverse = power_of_two(-exponent);
    for (int32_t k = 0; k < row->classes; k++) {
        const uint32_t random = seam_random(noise->seed, noise->stream, first + (uint32_t)k);
        const float up = noise->mode == SEAM_ROUND_STOCHASTIC
                             ? (float)(random >> 8) * 5.9604645e-8f /* 2^-24 */
                             : 0.5f;
        const int32_t whole = floor_of(row->gradient[k] * inverse + up);
        g[k] = (int8_t)(whole > 127 ? 127 : whole < -127 ? -127 : whole);
    }
}

int seam_q8_front_loss(seam_q8_front *front, float *loss_sum, uint32_t *correct, int32_t *exponent,
                       const int32_t *labels, const seam_q8_step *step) {
    seam_tensor out;
    seam_plan_tensor(&out, &front->plan, front->plan.output);
    if (seam_q8_front_loss_size(&front->plan) == 0)
        return SEAM_E_SHAPE;
    loss_row row = {.classes = (int32_t)out.values};
    row.scale = seam_q8_front_scale(&row.zero, front, front->plan.output);
    row.logits = front->row;
    row.gradient = row.logits + out.values;
    const int8_t *q = seam_q8_front_value(front, front->plan.output);
    int8_t *g = seam_q8_front_gradient(front, front->plan.output);
    const seam_q8_noise noise = {step->seed, front->plan.layers * (uint32_t)PURPOSES, step->mode};
    float most = 0.0f;
    *loss_sum = 0.0f;
    *correct = 0;
    for (int32_t i = 0; i < front->batch; i++) {
        const int8_t *at_row = q + (size_t)i * out.values;
        int32_t best = 0;
        if (labels[i] < 0 || labels[i] >= row.classes)
            return SEAM_E_DATA;
        for (int32_t k = 1; k < row.classes; k++)
            best = at_row[k] > at_row[best] ? k : best;
        *correct += best == labels[i];
        *loss_sum += row_loss(&row, at_row, labels[i], front->batch);
        for (int32_t k = 0; k < row.classes; k++) {
            const float size = row.gradient[k] < 0.0f ? -row.gradient[k] : row.gradient[k];
            most = size > most ? size : most;
        }
    }
    *exponent = exponent_for(most);
    for (int32_t i = 0; g != NULL && i < front->batch; i++) {
        const size_t first = (size_t)i * out.values;
        (void)row_loss(&row, q + first, labels[i], front->batch);
        quantise_row(g + first, &row, *exponent, (uint32_t)first, &noise);
    }
    return *loss_sum <= 3.4e38f ? SEAM_OK : SEAM_E_NOT_FINITE;
}

int32_t seam_q8_exit_answer(const seam_q8_front *front, uint32_t sample, float inverse,
                            float most) {
    seam_tensor out;
    int32_t zero;
    seam_plan_tensor(&out, &front->plan, front->plan.output);
    if (seam_q8_front_loss_size(&front->plan) == 0)
        return -1;
    const float scale = seam_q8_front_scale(&zero, front, front->plan.output);
    const int8_t *q = seam_q8_front_value(front, front->plan.output) + sample * out.values;
    for (uint32_t k = 0; k < out.values; k++)
        front->row[k] = (float)(q[k] - zero) * scale;
    return seam_exit_answer(front->row, (int32_t)out.values, inverse, most);
}
