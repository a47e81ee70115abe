/* The int8 front forward, layer by layer. */
#include "front_q8.h"

static seam_q8_scaling scaling_of(const seam_q8_layer_step *s) {
    const seam_q8_numbers *n = &s->numbers;
    return (seam_q8_scaling){n->multiplier, n->shift, s->window.out_c, s->x_zero,
                             s->y_zero,     n->y_min, n->y_max};
}

/* Packed weights go where the sums of the backward pass will be, if they fit. */
static void forward_conv(const seam_q8_layer_step *s) {
    const seam_q8_scaling how = scaling_of(s);
    const size_t own = (size_t)seam_round16(seam_q8_conv2d_scratch(&s->window, 1));
    const size_t packed = seam_q8_conv2d_packed_size(&s->window, 1);
    uint8_t *room = packed > 0 && own + packed <= s->scratch_size ? s->scratch + own : NULL;
    if (room != NULL)
        seam_q8_conv2d_pack(room, s->w, &s->window, 1);
    seam_q8_conv2d(s->y, s->x, s->w, s->b, &how, &s->window, 1, room, s->scratch);
}

static void clamp(int8_t *y, const int8_t *x, const seam_q8_numbers *n, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < n->y_min ? n->y_min : x[i] > n->y_max ? n->y_max : x[i]);
}

void seam_q8_front_layer(const seam_q8_front *f, uint32_t index) {
    seam_q8_layer_step s;
    seam_q8_front_step(&s, f, index);
    const seam_layer *l = &s.layer;
    const seam_q8_numbers *n = &s.numbers;
    const seam_q8_scaling how = scaling_of(&s);
    seam_q8_sum sum = n->sum;
    switch (l->kind) {
    case SEAM_LAYER_CONV2D:
    case SEAM_LAYER_DENSE:
        forward_conv(&s);
        break;
    case SEAM_LAYER_DEPTHWISE:
        seam_q8_depthwise(s.y, s.x, s.w, s.b, &how, &s.window);
        break;
    case SEAM_LAYER_MAX_POOL:
        seam_q8_max_pool2d(s.y, s.x, &s.window, n->y_min, n->y_max);
        break;
    case SEAM_LAYER_AVERAGE_POOL:
        seam_q8_average_pool2d(s.y, s.x, &s.window, n->y_min, n->y_max);
        break;
    case SEAM_LAYER_ADD:
        sum.a_zero = s.x_zero;
        (void)seam_q8_front_scale(&sum.b_zero, f, l->second);
        sum.y_zero = s.y_zero;
        sum.y_min = n->y_min;
        sum.y_max = n->y_max;
        seam_q8_add(s.y, s.x, seam_q8_front_value(f, l->second), &sum, s.count);
        break;
    case SEAM_LAYER_RELU:
        clamp(s.y, s.x, n, s.count);
        break;
    default: /* flatten */
        if (s.y != s.x)
            memcpy(s.y, s.x, s.count);
        break;
    }
}

static void note_extremes(const seam_q8_front *f, uint32_t tensor) {
    const int8_t *x = seam_q8_front_value(f, tensor);
    const size_t count = seam_q8_front_count(f, tensor);
    int8_t least = f->extremes[2 * tensor], most = f->extremes[2 * tensor + 1];
    for (size_t i = 0; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    f->extremes[2 * tensor] = least;
    f->extremes[2 * tensor + 1] = most;
}

int seam_q8_front_quantise(const seam_q8_front *front, const float *x, int32_t n) {
    seam_tensor t;
    int32_t zero;
    seam_plan_tensor(&t, &front->plan, 0);
    const float scale = seam_q8_front_scale(&zero, front, 0);
    return scale > 0.0f ? seam_q8_quantise(seam_q8_front_value(front, 0), x, scale, zero,
                                           SEAM_HALF_AWAY, (size_t)n * t.values)
                        : SEAM_E_STATE;
}

void seam_q8_front_forward(seam_q8_front *front, int32_t n, uint32_t first, uint32_t end,
                           int note) {
    front->batch = n;
    if (note && first == 0)
        note_extremes(front, 0);
    for (uint32_t i = first; i < end; i++) {
        seam_q8_front_layer(front, i);
        if (note)
            note_extremes(front, i + 1);
    }
}
