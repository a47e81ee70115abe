/* The front: forward, backward and update of the layers in a plan, inside the caller's arena. */
#include "seam_front.h"

#include <string.h>

static float *at(const seam_front *f, uint32_t offset) {
    return offset == SEAM_PLAN_NONE ? NULL : (float *)(void *)(f->arena + offset);
}

int seam_front_init(seam_front *front, const seam_plan *plan, void *arena, size_t arena_size) {
    if (arena_size < plan->arena_size)
        return SEAM_E_SPACE;
    if ((uintptr_t)arena % 16u != 0)
        return SEAM_E_ARGUMENT;
    size_t array = (size_t)seam_round16((uint64_t)plan->parameters * 4u);
    front->plan = *plan;
    front->arena = arena;
    front->parameters = at(front, 0);
    front->momentum = at(front, (uint32_t)array);
    front->gradients = at(front, (uint32_t)(2u * array));
    front->batch = 0;
    memset(arena, 0, 2u * array);
    return SEAM_OK;
}

float *seam_front_value(const seam_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.value_offset);
}

float *seam_front_gradient(const seam_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.gradient_offset);
}

float *seam_front_input(const seam_front *front) {
    return seam_front_value(front, 0);
}

static size_t count_of(const seam_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return (size_t)f->batch * t.values;
}

/* A layer with this batch's window and where its arrays are. */
typedef struct {
    seam_layer layer;
    int32_t n, pixels, inputs;
    float *x, *y, *w, *b, *dw, *db, *saved;
    void *scratch;
    size_t count; /* values in y */
} step;

static void open_step(step *s, const seam_front *f, uint32_t index) {
    seam_layer *l = &s->layer;
    seam_plan_layer(l, &f->plan, index);
    l->window.batch = f->batch;
    s->n = f->batch;
    s->pixels = l->window.in_h * l->window.in_w;
    s->inputs = s->pixels * l->window.in_c;
    s->x = seam_front_value(f, l->input);
    s->y = seam_front_value(f, l->output);
    uint32_t tail = l->kind == SEAM_LAYER_GROUP_NORM ? (uint32_t)l->window.in_c
                    : l->has_bias                    ? (uint32_t)l->window.out_c
                                                     : 0;
    uint32_t weights = l->parameter_count - tail;
    s->w = f->parameters + l->parameter_offset;
    s->dw = f->gradients + l->parameter_offset;
    s->b = tail ? s->w + weights : NULL;
    s->db = tail ? s->dw + weights : NULL;
    s->saved = l->kind == SEAM_LAYER_GROUP_NORM ? at(f, l->saved_offset) : NULL;
    s->scratch = at(f, f->plan.scratch_offset);
    s->count = count_of(f, l->output);
}

void seam_front_layer(const seam_front *f, uint32_t index) {
    step s;
    open_step(&s, f, index);
    const seam_layer *l = &s.layer;
    switch (l->kind) {
    case SEAM_LAYER_CONV2D:
        seam_f32_conv2d(s.y, s.x, s.w, s.b, &l->window, s.scratch);
        break;
    case SEAM_LAYER_DEPTHWISE:
        seam_f32_depthwise(s.y, s.x, s.w, s.b, &l->window, s.scratch);
        break;
    case SEAM_LAYER_DENSE:
        seam_f32_dense(s.y, s.x, s.w, s.b, s.n, s.inputs, l->window.out_c, s.scratch);
        break;
    case SEAM_LAYER_RELU:
        seam_f32_relu(s.y, s.x, l->constant, s.count);
        break;
    case SEAM_LAYER_MAX_POOL:
        seam_f32_max_pool2d(s.y, s.x, &l->window);
        break;
    case SEAM_LAYER_AVERAGE_POOL:
        seam_f32_average_pool2d(s.y, s.x, &l->window);
        break;
    case SEAM_LAYER_ADD:
        seam_f32_add(s.y, s.x, seam_front_value(f, l->second), s.count);
        break;
    case SEAM_LAYER_GROUP_NORM:
        seam_f32_group_norm(s.y, s.saved, s.x, s.w, s.b, s.n, s.pixels, l->window.in_c, l->groups,
                            l->constant);
        break;
    default: /* flatten: the same values under another shape */
        if (s.y != s.x)
            memcpy(s.y, s.x, s.count * sizeof(float));
        break;
    }
}

/* The gradient of an input, zeroed if nobody has added to it yet; NULL where none is wanted. */
static float *open_gradient(const seam_front *f, uint32_t tensor, uint32_t index, const float *dy) {
    float *dx = seam_front_gradient(f, tensor);
    if (dx != NULL && dx != dy && seam_plan_last_reader(&f->plan, tensor, index))
        memset(dx, 0, count_of(f, tensor) * sizeof(float));
    return dx;
}

static void backward(const seam_front *f, uint32_t index) {
    step s;
    open_step(&s, f, index);
    const seam_layer *l = &s.layer;
    const float *dy = seam_front_gradient(f, l->output);
    float *dx = open_gradient(f, l->input, index, dy);
    float *second = NULL;
    switch (l->kind) {
    case SEAM_LAYER_CONV2D:
        seam_f32_conv2d_backward(dx, s.dw, s.db, dy, s.x, s.w, &l->window, s.scratch);
        return;
    case SEAM_LAYER_DEPTHWISE:
        seam_f32_depthwise_backward(dx, s.dw, s.db, dy, s.x, s.w, &l->window, s.scratch);
        return;
    case SEAM_LAYER_DENSE:
        seam_f32_dense_backward(dx, s.dw, s.db, dy, s.x, s.w, s.n, s.inputs, l->window.out_c,
                                s.scratch);
        return;
    case SEAM_LAYER_GROUP_NORM:
        seam_f32_group_norm_backward(dx, s.dw, s.db, dy, s.x, s.saved, s.w, s.n, s.pixels,
                                     l->window.in_c, l->groups);
        return;
    case SEAM_LAYER_ADD:
        second = open_gradient(f, l->second, index, dy);
        if (second != NULL && second != dy)
            seam_f32_accumulate(second, dy, s.count);
        break;
    default:
        break;
    }
    if (dx == NULL)
        return;
    if (l->kind == SEAM_LAYER_RELU)
        seam_f32_relu_backward(dx, dy, s.y, l->constant, s.count);
    else if (l->kind == SEAM_LAYER_MAX_POOL)
        seam_f32_max_pool2d_backward(dx, dy, s.x, &l->window);
    else if (l->kind == SEAM_LAYER_AVERAGE_POOL)
        seam_f32_average_pool2d_backward(dx, dy, &l->window);
    else if (dx != dy) /* add, flatten */
        seam_f32_accumulate(dx, dy, s.count);
}

void seam_front_layer_back(const seam_front *f, uint32_t index) {
    for (uint32_t k = seam_plan_again_from(&f->plan, index); k < index; k++)
        seam_front_layer(f, k);
    backward(f, index);
}

void seam_front_forward(seam_front *front, int32_t n, uint32_t first, uint32_t end) {
    front->batch = n;
    for (uint32_t i = first; i < end; i++)
        seam_front_layer(front, i);
}

void seam_front_backward(seam_front *front, uint32_t end) {
    memset(front->gradients, 0, (size_t)front->plan.parameters * sizeof(float));
    for (uint32_t i = end; i-- > 0;)
        seam_front_layer_back(front, i);
    front->batch = 0; /* gradients now lie where the values were */
}

void seam_front_update(seam_front *front, uint32_t end, float rate, float momentum, float decay) {
    const seam_plan *plan = &front->plan;
    seam_f32_sgd(front->parameters, front->momentum, front->gradients, rate, momentum, decay,
                 end == plan->layers ? plan->parameters : plan->front_parameters);
}

int seam_front_loss(seam_front *front, float *loss_sum, uint32_t *correct, const int32_t *labels) {
    seam_tensor out;
    seam_plan_tensor(&out, &front->plan, front->plan.output);
    const float *logits = seam_front_value(front, front->plan.output);
    float *gradient_out = seam_front_gradient(front, front->plan.output);
    int32_t classes = (int32_t)out.values;
    *loss_sum = 0.0f;
    *correct = 0;
    for (int32_t i = 0; i < front->batch; i++) {
        if (labels[i] < 0 || labels[i] >= classes)
            return SEAM_E_DATA;
        const float *row = logits + (size_t)i * out.values;
        int32_t best = 0;
        for (int32_t k = 1; k < classes; k++)
            if (row[k] > row[best])
                best = k;
        *correct += best == labels[i];
        float loss;
        seam_f32_softmax_cross_entropy(&loss, gradient_out + (size_t)i * out.values, row,
                                       labels + i, 1, classes, 1.0f / (float)front->batch);
        *loss_sum += loss;
    }
    return *loss_sum <= 3.4e38f ? SEAM_OK : SEAM_E_NOT_FINITE; /* false for NaN too */
}
