/* The int8 front in the caller's arena: its sizes, where its arrays lie, what a layer finds there.
 */
#include "front_q8.h"

#define SPARE (SEAM_MESSAGE_HEADER + 16u) /* of an answer, beside its body */

static uint64_t state_size(const seam_plan *plan) {
    return seam_round16(8u * (uint64_t)plan->layers + 6u * (uint64_t)plan->tensors) +
           seam_q8_front_loss_size(plan);
}

uint64_t seam_q8_base(const seam_plan *plan) {
    return seam_round16(plan->blob_size) + seam_round16(plan->velocity_size) +
           seam_round16(state_size(plan));
}

seam_q8_room seam_q8_session_room(const seam_plan *plan) {
    seam_tensor in, out;
    seam_plan_tensor(&in, plan, 0);
    seam_plan_tensor(&out, plan, plan->seam);
    const uint32_t shape[4] = {plan->batch, out.h, out.w, out.c}, flat = plan->parameters;
    const uint64_t learned = flat > 0 ? seam_parcel_size(SEAM_CODEC_INT8, 1, &flat) : 0u;
    const uint64_t values = (uint64_t)plan->batch * in.values, size = seam_round16(4u * values);
    const uint64_t begin = in.value_offset, end = begin + seam_round16(values);
    /* Labels; with an exit its answers, too. */
    const uint64_t per_sample = plan->seam < plan->layers ? 4u : 2u;
    seam_q8_room room = {.answer = SPARE + 4u + per_sample * plan->batch +
                                   seam_parcel_size(SEAM_CODEC_INT8, 4, shape),
                         .weights = SPARE + 8u + learned + 2u * (uint64_t)plan->tensors};
    if (end + size <= plan->arena_size)
        room.samples_at = end;
    else if (seam_q8_base(plan) + size <= begin)
        room.samples_at = seam_q8_base(plan);
    return room;
}

static uint64_t more(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint32_t readers_of(const seam_plan *plan, uint32_t tensor) {
    uint32_t readers = 0;
    seam_layer l;
    for (uint32_t i = tensor; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        readers += l.input == tensor;
        readers += l.kind == SEAM_LAYER_ADD && l.second == tensor;
    }
    return readers;
}

/* Is a gradient that this layer gives to be joined with another? */
int seam_q8_front_joins(const seam_plan *plan, const seam_layer *l) {
    return readers_of(plan, l->input) > 1 ||
           (l->kind == SEAM_LAYER_ADD && readers_of(plan, l->second) > 1);
}

/* Rows of outputs that read one row of inputs, at most. */
static uint64_t rows_of(const seam_window *w) {
    const uint64_t reach = (uint64_t)(w->kernel_h - 1) * (uint64_t)w->dilation_h;
    const uint64_t rows = reach / (uint64_t)w->stride_h + 1u;
    return rows < (uint64_t)w->out_h ? rows : (uint64_t)w->out_h;
}

seam_q8_back_places seam_q8_front_places(const seam_layer *l, int joining) {
    const seam_window w = seam_q8_front_window(l);
    const uint64_t batch = (uint64_t)w.batch;
    const uint64_t x = batch * (uint64_t)w.in_h * (uint64_t)w.in_w * (uint64_t)w.in_c;
    const uint64_t line = (uint64_t)w.out_w * (uint64_t)w.out_c;
    const int through = l->kind == SEAM_LAYER_FLATTEN || l->kind == SEAM_LAYER_RELU;
    seam_q8_back_places places = {.joined = joining && !through ? seam_round16(x) : 0u};
    if (seam_q8_weights_of(l) > 0 && l->input != 0) {
        places.weighed = seam_round16(batch * (uint64_t)w.out_h * line);
        places.least = seam_round16(rows_of(&w) * line);
    }
    if (l->kind == SEAM_LAYER_CONV2D || seam_q8_is_dense(l)) {
        const uint64_t input = l->input != 0 ? seam_q8_conv2d_input_scratch(&w, 1) : 0u;
        places.kernel = seam_round16(more(input, seam_q8_conv2d_weight_scratch(&w, 1, w.out_c)));
    }
    return places;
}

/* What the sums of a layer may take: whole, and in the least piece. */
static void sums_of(seam_q8_layer_needs *needs, const seam_window *w, uint64_t weights,
                    int wants_input) {
    const uint64_t row = (uint64_t)w->in_w * (uint64_t)w->in_c;
    const uint64_t dx = wants_input ? row * (uint64_t)w->in_h * (uint64_t)w->batch : 0u;
    const uint64_t part = weights / (uint64_t)w->out_c;
    needs->sums = 4u * more(dx, weights);
    needs->piece = 4u * more(dx ? row : 0u, part);
    needs->sums = more(needs->sums, 4u * (uint64_t)w->out_c);
    needs->piece = more(needs->piece, 4u * (uint64_t)w->out_c);
}

seam_q8_layer_needs seam_q8_layer_scratch(const seam_layer *l, int joining, int inference) {
    const seam_window w = seam_q8_front_window(l);
    const int conv = l->kind == SEAM_LAYER_CONV2D || seam_q8_is_dense(l),
              learns = seam_q8_weights_of(l) > 0;
    seam_q8_layer_needs needs = {.fixed = conv ? seam_round16(seam_q8_conv2d_scratch(&w, 1)) : 0u};
    if (inference)
        return needs;
    const seam_q8_back_places places = seam_q8_front_places(l, joining);
    if (l->kind == SEAM_LAYER_FLATTEN || l->kind == SEAM_LAYER_RELU) { /* sums only to join */
        needs.piece = joining ? 64u : 0u;
        needs.sums = needs.piece;
        return needs;
    }
    sums_of(&needs, &w, learns ? seam_q8_weights_of(l) : 0u, l->input != 0 || !learns);
    needs.fixed = more(needs.fixed, places.kernel + places.joined);
    needs.sums = places.weighed + seam_round16(needs.sums);
    needs.piece = places.least + seam_round16(needs.piece);
    return needs;
}

uint64_t seam_q8_plan_scratch(const seam_plan *plan, const seam_layer *l) {
    const seam_q8_layer_needs needs =
        seam_q8_layer_scratch(l, seam_q8_front_joins(plan, l), plan->inference);
    if (needs.fixed + needs.piece > plan->scratch_size)
        return UINT64_MAX;
    const uint64_t whole = needs.fixed + needs.sums;
    return whole < plan->scratch_size ? whole : plan->scratch_size;
}

int seam_q8_front_init(seam_q8_front *front, const seam_plan *plan, void *arena,
                       size_t arena_size) {
    if (plan->dtype != SEAM_DTYPE_Q8)
        return SEAM_E_KIND;
    if (arena_size < plan->arena_size)
        return SEAM_E_SPACE;
    if ((uintptr_t)arena % 16u != 0)
        return SEAM_E_ARGUMENT;
    uint8_t *at = arena;
    *front = (seam_q8_front){.plan = *plan, .arena = arena, .blob = at};
    at += seam_round16(plan->blob_size);
    if (plan->momentum != SEAM_MOMENTUM_NONE)
        front->velocity = (int8_t *)at;
    at += seam_round16(plan->velocity_size);
    front->velocity_exponents = (int32_t *)(void *)at;
    front->fixed = (uint32_t *)(void *)(at + 4u * plan->layers);
    front->gradient_exponents = (int32_t *)(void *)(at + 8u * plan->layers);
    front->extremes = (int8_t *)(at + 8u * plan->layers + 4u * plan->tensors);
    front->row = (float *)(void *)(at + seam_round16(8u * (uint64_t)plan->layers +
                                                     6u * (uint64_t)plan->tensors));
    memset(arena, 0, (size_t)seam_q8_base(plan));
    uint64_t fixed = seam_round4(plan->parameters) + TENSOR_NUMBERS * plan->tensors;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        front->fixed[i] = (uint32_t)fixed;
        fixed += seam_q8_front_fixed_size(&l);
    }
    seam_q8_front_forget(front);
    return SEAM_OK;
}

static int8_t *at(const seam_q8_front *f, uint32_t offset) {
    return offset == SEAM_PLAN_NONE ? NULL : (int8_t *)(f->arena + offset);
}

int8_t *seam_q8_front_value(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.value_offset);
}

int8_t *seam_q8_front_gradient(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.gradient_offset);
}

size_t seam_q8_front_count(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return (size_t)f->batch * t.values;
}

int8_t *seam_q8_front_input(const seam_q8_front *front) {
    return seam_q8_front_value(front, 0);
}

void seam_q8_front_step(seam_q8_layer_step *s, const seam_q8_front *f, uint32_t index) {
    seam_layer *l = &s->layer;
    seam_plan_layer(l, &f->plan, index);
    l->window.batch = f->batch;
    s->window = seam_q8_front_window(l);
    s->numbers = seam_q8_front_numbers(f->blob + f->fixed[index], l);
    (void)seam_q8_front_scale(&s->x_zero, f, l->input);
    (void)seam_q8_front_scale(&s->y_zero, f, l->output);
    s->x = seam_q8_front_value(f, l->input);
    s->y = seam_q8_front_value(f, l->output);
    s->w = (int8_t *)(f->blob + l->parameter_offset);
    s->b = seam_q8_biases_of(l) ? (int32_t *)(void *)(f->blob + l->parameter_offset +
                                                      seam_round4(seam_q8_weights_of(l)))
                                : NULL;
    s->count = seam_q8_front_count(f, l->output);
    s->scratch = f->arena + f->plan.scratch_offset;
    seam_layer planned;
    seam_plan_layer(&planned, &f->plan, index);
    s->scratch_size = (size_t)seam_q8_plan_scratch(&f->plan, &planned);
}
