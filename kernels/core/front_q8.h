/* What the files of the int8 front share: a layer's numbers, where its arrays lie, and what it
 * needs of the scratch memory. */
#ifndef SEAM_FRONT_Q8_H
#define SEAM_FRONT_Q8_H

#include "bytes.h"
#include "seam_front.h"
#include "seam_number.h"

/* Streams of random numbers of a layer; the loss has that of a layer behind the last one. */
enum { WEIGH, SETTLE, WEIGHTS, BIAS, SETTLE_SECOND, JOIN, JOIN_SECOND, PURPOSES = 8 };

#define TENSOR_NUMBERS 8u /* bytes in the blob: f32 scale, i32 zero point */

static inline uint64_t seam_round4(uint64_t size) {
    return (size + 3u) & ~(uint64_t)3u;
}

static inline uint32_t seam_q8_biases_of(const seam_layer *l) {
    return l->has_bias && l->parameter_count > 0 ? (uint32_t)l->window.out_c : 0u;
}

static inline uint32_t seam_q8_weights_of(const seam_layer *l) {
    return l->parameter_count - seam_q8_biases_of(l);
}

static inline int seam_q8_is_dense(const seam_layer *l) {
    return l->kind == SEAM_LAYER_DENSE;
}

/* A dense layer is a 1x1 convolution of a 1x1 image. */
static inline seam_window seam_q8_front_window(const seam_layer *l) {
    const seam_window *w = &l->window;
    return seam_q8_is_dense(l) ? seam_dense_window(w->batch, w->in_h * w->in_w * w->in_c, w->out_c)
                               : *w;
}

/* ---- front_q8_blob.c ---- */

/* Bytes of a layer's numbers behind what is learned. */
uint64_t seam_q8_front_fixed_size(const seam_layer *l);

/* A layer's numbers where they lie. */
typedef struct {
    const int32_t *multiplier, *shift; /* [out_c] */
    const float *steps;
    const uint16_t *ratios;
    float per_input;
    int32_t y_min, y_max;
    seam_q8_sum sum;
    float a_ratio, b_ratio;
} seam_q8_numbers;

seam_q8_numbers seam_q8_front_numbers(const uint8_t *at, const seam_layer *l);
/* No value was seen yet. */
void seam_q8_front_forget(const seam_q8_front *f);

/* ---- front_q8.c ---- */

/* Values of a tensor in this batch. */
size_t seam_q8_front_count(const seam_q8_front *f, uint32_t tensor);
/* Is a gradient that this layer gives to be joined with another? */
int seam_q8_front_joins(const seam_plan *plan, const seam_layer *l);

/* What lies in the scratch memory in front of the sums while a layer goes backward, in bytes.
 * least: of the weighed gradient, the rows that one row of inputs was read by. */
typedef struct {
    uint64_t kernel, joined, weighed, least;
} seam_q8_back_places;

seam_q8_back_places seam_q8_front_places(const seam_layer *l, int joining);

/* A layer with this batch's window, its numbers, and where its arrays are. */
typedef struct {
    seam_layer layer;
    seam_window window;
    seam_q8_numbers numbers;
    int32_t x_zero, y_zero;
    int8_t *x, *y, *w;
    int32_t *b;
    size_t count; /* values in y */
    uint8_t *scratch;
    size_t scratch_size;
} seam_q8_layer_step;

void seam_q8_front_step(seam_q8_layer_step *s, const seam_q8_front *f, uint32_t index);

/* ---- front_q8_forward.c, front_q8_backward.c, front_q8_loss.c ---- */

/* One layer forward; and back, with its update, the exponents of the gradients behind it set. */
void seam_q8_front_layer(const seam_q8_front *f, uint32_t index);
void seam_q8_front_layer_back(const seam_q8_front *f, uint32_t index, const seam_q8_step *step);
/* Bytes of one row of logits and of its gradient, where the output may be logits; else 0. */
uint64_t seam_q8_front_loss_size(const seam_plan *plan);

#endif
