/* A front traced: the forward pass and one training step, a layer at a time, each with checksums.
 */
#include "seam_trace.h"

#include "front_q8.h"

enum { PLAN, PARAMETERS, SAMPLES, LABELS, GRADIENT, ARRAYS };

typedef struct {
    const uint8_t *at[ARRAYS];
    uint32_t size[ARRAYS];
    int32_t n, exponent;
    seam_q8_step step; /* of f32, too */
    seam_trace_hear *hear;
    void *context;
} tracer;

/* ---- the record ---- */

static int read_record(tracer *t, const uint8_t *record, size_t size) {
    size_t next = SEAM_TRACE_HEAD;
    if (size < SEAM_TRACE_HEAD || (uintptr_t)record % 16u != 0)
        return size < SEAM_TRACE_HEAD ? SEAM_E_SHORT : SEAM_E_ARGUMENT;
    for (int i = 0; i < ARRAYS; i++) {
        t->size[i] = seam_get32(record + 4 * i);
        if (size - next < seam_round16(t->size[i]))
            return SEAM_E_SHORT;
        t->at[i] = record + next;
        next += (size_t)seam_round16(t->size[i]);
    }
    t->n = (int32_t)seam_get32(record + 20);
    t->exponent = (int32_t)seam_get32(record + 24);
    t->step = (seam_q8_step){.rate = seam_get_float(record + 36),
                             .momentum = seam_get_float(record + 40),
                             .decay = seam_get_float(record + 44),
                             .seed = seam_get32(record + 28),
                             .mode = (int)seam_get32(record + 32)};
    return SEAM_OK;
}

/* item: bytes of a parameter and of a value of a gradient. */
static int fits(const tracer *t, const seam_plan *plan, uint32_t parameters, uint32_t item) {
    seam_tensor in, out;
    seam_plan_tensor(&in, plan, 0);
    seam_plan_tensor(&out, plan, plan->output);
    if (t->n <= 0 || t->n > plan->batch || t->step.mode < SEAM_ROUND_NEAREST ||
        t->step.mode > SEAM_ROUND_TRUNCATE || (t->size[LABELS] > 0 && t->size[GRADIENT] > 0))
        return SEAM_E_ARGUMENT;
    const uint64_t n = (uint64_t)t->n;
    const int whole = t->size[PARAMETERS] == parameters && t->size[SAMPLES] == 4u * n * in.values &&
                      (t->size[LABELS] == 0 || t->size[LABELS] == 4u * n) &&
                      (t->size[GRADIENT] == 0 || t->size[GRADIENT] == item * n * out.values);
    return whole ? SEAM_OK : SEAM_E_SHAPE;
}

/* ---- checksums ---- */

static void tell(const tracer *t, seam_trace_kind kind, uint32_t layer, const void *bytes,
                 size_t size) {
    t->hear(t->context, kind, layer, seam_crc32(0, bytes, size));
}

/* A tensor's values, or its gradient; item: bytes of a value. */
static uint32_t tensor_crc(const tracer *t, const seam_plan *plan, const uint8_t *arena,
                           uint32_t tensor, int gradient, uint32_t item, uint32_t crc) {
    seam_tensor x;
    seam_plan_tensor(&x, plan, tensor);
    const uint32_t offset = gradient ? x.gradient_offset : x.value_offset;
    if (offset == SEAM_PLAN_NONE)
        return crc;
    return seam_crc32(crc, arena + offset, (size_t)t->n * x.values * item);
}

static void tell_value(const tracer *t, const seam_plan *plan, const uint8_t *arena,
                       uint32_t tensor, uint32_t item) {
    const uint32_t crc = tensor_crc(t, plan, arena, tensor, 0, item, 0);
    if (tensor == 0)
        t->hear(t->context, SEAM_TRACE_INPUT, 0, crc);
    else
        t->hear(t->context, SEAM_TRACE_FORWARD, tensor - 1u, crc);
}

static void tell_gradient(const tracer *t, const seam_plan *plan, const uint8_t *arena,
                          uint32_t item) {
    const uint32_t crc = tensor_crc(t, plan, arena, plan->output, 1, item, 0);
    t->hear(t->context, SEAM_TRACE_GRADIENT, plan->layers - 1u, crc);
}

/* Nothing for a layer whose inputs want no gradient. */
static void tell_back(const tracer *t, const seam_plan *plan, const uint8_t *arena, uint32_t index,
                      uint32_t item) {
    seam_layer l;
    seam_plan_layer(&l, plan, index);
    uint32_t crc = tensor_crc(t, plan, arena, l.input, 1, item, 0);
    if (l.kind == SEAM_LAYER_ADD)
        crc = tensor_crc(t, plan, arena, l.second, 1, item, crc);
    if (l.input != 0 || (l.kind == SEAM_LAYER_ADD && l.second != 0))
        t->hear(t->context, SEAM_TRACE_BACKWARD, index, crc);
}

static void tell_loss(const tracer *t, float loss, uint32_t correct) {
    uint8_t bytes[8];
    seam_put_float(bytes, loss);
    seam_put32(bytes + 4, correct);
    tell(t, SEAM_TRACE_LOSS, 0, bytes, sizeof bytes);
}

/* ---- a front in f32 ---- */

/* Of each layer that has any. */
static void tell_parameters(const tracer *t, const seam_front *f, seam_trace_kind kind,
                            const float *values) {
    seam_layer l;
    for (uint32_t i = 0; i < f->plan.layers; i++) {
        seam_plan_layer(&l, &f->plan, i);
        if (l.parameter_count > 0)
            tell(t, kind, i, values + l.parameter_offset, l.parameter_count * sizeof(float));
    }
}

static int step_f32(const tracer *t, seam_front *f) {
    float loss;
    uint32_t correct;
    if (t->size[LABELS] > 0) {
        const int status =
            seam_front_loss(f, &loss, &correct, (const int32_t *)(const void *)t->at[LABELS]);
        if (status != SEAM_OK)
            return status;
        tell_loss(t, loss, correct);
    } else {
        memcpy(seam_front_gradient(f, f->plan.output), t->at[GRADIENT], t->size[GRADIENT]);
    }
    tell_gradient(t, &f->plan, f->arena, sizeof(float));
    memset(f->gradients, 0, (size_t)f->plan.parameters * sizeof(float));
    for (uint32_t i = f->plan.layers; i-- > 0;) {
        seam_front_layer_back(f, i);
        tell_back(t, &f->plan, f->arena, i, sizeof(float));
    }
    tell_parameters(t, f, SEAM_TRACE_WEIGHT_GRADIENTS, f->gradients);
    seam_front_update(f, f->plan.layers, t->step.rate, t->step.momentum, t->step.decay);
    tell_parameters(t, f, SEAM_TRACE_LEARNED, f->parameters);
    tell(t, SEAM_TRACE_MOMENTUM, 0, f->momentum, f->plan.parameters * sizeof(float));
    return SEAM_OK;
}

static int run_f32(const tracer *t, const seam_plan *plan, void *arena, size_t arena_size) {
    seam_front f;
    int status = fits(t, plan, plan->parameters * 4u, sizeof(float));
    if (status == SEAM_OK)
        status = seam_front_init(&f, plan, arena, arena_size);
    if (status != SEAM_OK)
        return status;
    memcpy(f.parameters, t->at[PARAMETERS], t->size[PARAMETERS]);
    memcpy(seam_front_input(&f), t->at[SAMPLES], t->size[SAMPLES]);
    f.batch = t->n;
    tell_value(t, plan, arena, 0, sizeof(float));
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_front_layer(&f, i);
        tell_value(t, plan, arena, i + 1u, sizeof(float));
    }
    return t->size[LABELS] + t->size[GRADIENT] > 0 ? step_f32(t, &f) : SEAM_OK;
}

/* ---- a front in int8 ---- */

static void tell_learned(const tracer *t, const seam_q8_front *f, uint32_t index) {
    seam_q8_layer_step s;
    seam_q8_front_step(&s, f, index);
    if (s.layer.parameter_count == 0)
        return;
    uint32_t crc = seam_crc32(0, (const uint8_t *)s.w, seam_q8_weights_of(&s.layer));
    if (s.b != NULL)
        crc = seam_crc32(crc, (const uint8_t *)s.b, 4u * seam_q8_biases_of(&s.layer));
    t->hear(t->context, SEAM_TRACE_LEARNED, index, crc);
}

static void tell_velocity(const tracer *t, const seam_q8_front *f) {
    uint32_t crc = 0;
    if (f->velocity != NULL)
        crc = seam_crc32(crc, (const uint8_t *)f->velocity, f->plan.velocity_size);
    crc = seam_crc32(crc, (const uint8_t *)f->velocity_exponents, 4u * f->plan.layers);
    t->hear(t->context, SEAM_TRACE_MOMENTUM, 0, crc);
}

static int step_q8(const tracer *t, seam_q8_front *f) {
    float loss;
    uint32_t correct;
    int32_t exponent = t->exponent;
    if (t->size[LABELS] > 0) {
        const int status = seam_q8_front_loss(
            f, &loss, &correct, &exponent, (const int32_t *)(const void *)t->at[LABELS], &t->step);
        if (status != SEAM_OK)
            return status;
        tell_loss(t, loss, correct);
    } else {
        memcpy(seam_q8_front_gradient(f, f->plan.output), t->at[GRADIENT], t->size[GRADIENT]);
    }
    tell_gradient(t, &f->plan, f->arena, 1);
    f->gradient_exponents[f->plan.output] = exponent;
    for (uint32_t i = f->plan.layers; i-- > 0;) {
        seam_q8_front_layer_back(f, i, &t->step);
        tell_back(t, &f->plan, f->arena, i, 1);
        tell_learned(t, f, i);
    }
    tell_velocity(t, f);
    return SEAM_OK;
}

static int run_q8(const tracer *t, const seam_plan *plan, void *arena, size_t arena_size) {
    seam_q8_front f;
    int status = plan->inference ? SEAM_E_KIND : fits(t, plan, plan->blob_size, 1);
    if (status == SEAM_OK)
        status = seam_q8_front_init(&f, plan, arena, arena_size);
    if (status == SEAM_OK)
        status = seam_q8_front_set(&f, t->at[PARAMETERS], t->size[PARAMETERS]);
    if (status == SEAM_OK)
        status = seam_q8_front_quantise(&f, (const float *)(const void *)t->at[SAMPLES], t->n);
    if (status != SEAM_OK)
        return status;
    f.batch = t->n;
    tell_value(t, plan, arena, 0, 1);
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_q8_front_layer(&f, i);
        tell_value(t, plan, arena, i + 1u, 1);
    }
    return t->size[LABELS] + t->size[GRADIENT] > 0 ? step_q8(t, &f) : SEAM_OK;
}

int seam_trace_run(const uint8_t *record, size_t size, void *arena, size_t arena_size,
                   seam_trace_hear *hear, void *context) {
    tracer t = {.hear = hear, .context = context};
    seam_plan plan;
    int status = read_record(&t, record, size);
    if (status == SEAM_OK)
        status = seam_plan_open(&plan, t.at[PLAN], t.size[PLAN]);
    if (status != SEAM_OK)
        return status;
    return plan.dtype == SEAM_DTYPE_Q8 ? run_q8(&t, &plan, arena, arena_size)
                                       : run_f32(&t, &plan, arena, arena_size);
}
