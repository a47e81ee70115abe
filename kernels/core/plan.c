/* Plans: reading the layer table, and the one check of everything a plan from outside can get
 * wrong. */
#include "bytes.h"
#include "seam_front.h"

#define MAGIC 0x4E504C53u /* "SLPN" */
#define CRC_AT 44u
#define SEAM_AT 18u       /* layers in front of the exit; 0: there is no exit */
#define COUNT_AT 24u      /* of a layer: how many parameters */
#define NO_SECOND 0xFFFFu /* of a layer that reads one tensor */

static const uint8_t *tensor_at(const seam_plan *plan, uint32_t index) {
    return plan->bytes + SEAM_PLAN_HEADER + index * SEAM_PLAN_TENSOR;
}

static const uint8_t *layer_at(const seam_plan *plan, uint32_t index) {
    return tensor_at(plan, plan->tensors) + index * SEAM_PLAN_LAYER;
}

void seam_plan_tensor(seam_tensor *tensor, const seam_plan *plan, uint32_t index) {
    const uint8_t *p = tensor_at(plan, index);
    tensor->h = seam_get16(p);
    tensor->w = seam_get16(p + 2);
    tensor->c = seam_get16(p + 4);
    tensor->value_offset = seam_get32(p + 8);
    tensor->gradient_offset = seam_get32(p + 12);
    tensor->values = seam_get32(p + 16);
}

void seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index) {
    const uint8_t *p = layer_at(plan, index);
    seam_tensor in, out;
    layer->kind = p[0];
    layer->again = p[1] & SEAM_LAYER_AGAIN;
    layer->input = seam_get16(p + 2);
    layer->second = seam_get16(p + 4);
    layer->output = seam_get16(p + 6);
    layer->groups = seam_get16(p + 18);
    layer->parameter_offset = seam_get32(p + 20);
    layer->parameter_count = seam_get32(p + COUNT_AT);
    layer->saved_offset = seam_get32(p + 28);
    layer->constant = seam_get_float(p + 32);
    layer->has_bias = p[36];
    seam_plan_tensor(&in, plan, layer->input);
    seam_plan_tensor(&out, plan, layer->output);
    layer->window = (seam_window){.batch = plan->batch,
                                  .in_h = in.h,
                                  .in_w = in.w,
                                  .in_c = in.c,
                                  .out_h = out.h,
                                  .out_w = out.w,
                                  .out_c = out.c,
                                  .kernel_h = p[8],
                                  .kernel_w = p[9],
                                  .stride_h = p[10],
                                  .stride_w = p[11],
                                  .dilation_h = p[12],
                                  .dilation_w = p[13],
                                  .pad_top = p[14],
                                  .pad_bottom = p[15],
                                  .pad_left = p[16],
                                  .pad_right = p[17]};
}

size_t seam_layer_scratch(const seam_layer *layer) {
    const seam_window *w = &layer->window;
    seam_window dense = seam_dense_window(w->batch, w->in_h * w->in_w * w->in_c, w->out_c);
    switch (layer->kind) {
    case SEAM_LAYER_DENSE:
        w = &dense;
        /* fall through */
    case SEAM_LAYER_CONV2D: /* nobody wants the gradient of tensor 0 */
        return layer->input == 0 ? seam_f32_conv2d_first_scratch(w) : seam_f32_conv2d_scratch(w);
    case SEAM_LAYER_DEPTHWISE:
        return seam_f32_depthwise_scratch(w);
    default:
        return 0;
    }
}

int seam_plan_last_reader(const seam_plan *plan, uint32_t tensor, uint32_t index) {
    seam_layer l;
    for (uint32_t i = index + 1; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        if (l.input == tensor || (l.kind == SEAM_LAYER_ADD && l.second == tensor))
            return 0;
    }
    return 1;
}

static int is_again(const seam_plan *plan, uint32_t index) {
    seam_layer l;
    seam_plan_layer(&l, plan, index);
    return l.again;
}

uint32_t seam_plan_again_from(const seam_plan *plan, uint32_t index) {
    uint32_t first = index;
    if (is_again(plan, index)) /* inside a run, which was made as a whole */
        return index;
    while (first > 0 && is_again(plan, first - 1))
        first--;
    return first;
}

/* Reserved bytes: a later version may give them a meaning this one must not guess. */
static int all_zero(const uint8_t *bytes, uint32_t size) {
    for (uint32_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return 0;
    return 1;
}

/* Does [offset, offset + size) lie in the arena, 16-aligned, behind the parameter arrays? */
static int in_arena(const seam_plan *plan, uint32_t offset, uint64_t size) {
    uint64_t parameters = plan->dtype == SEAM_DTYPE_Q8
                              ? seam_q8_base(plan)
                              : 3u * seam_round16((uint64_t)plan->parameters * 4u);
    return offset % 16u == 0 && offset >= parameters && offset + size <= plan->arena_size;
}

/* Bytes of a tensor of so many values a sample. */
static uint64_t bytes_of(const seam_plan *plan, uint64_t values) {
    return values * plan->batch * (plan->dtype == SEAM_DTYPE_Q8 ? 1u : 4u);
}

static int check_tensor(const seam_plan *plan, uint32_t index) {
    seam_tensor t;
    seam_plan_tensor(&t, plan, index);
    if (t.h == 0 || t.w == 0 || t.c == 0)
        return SEAM_E_SHAPE;
    uint64_t values = (uint64_t)t.h * t.w * t.c;
    if (values * plan->batch > SEAM_PARCEL_VALUES_MAX)
        return SEAM_E_LIMIT;
    if (values != t.values)
        return SEAM_E_SHAPE;
    if (!all_zero(tensor_at(plan, index) + 6, 2))
        return SEAM_E_ARGUMENT;
    uint64_t size = bytes_of(plan, values);
    if (!in_arena(plan, t.value_offset, size))
        return SEAM_E_LIMIT;
    /* The input has none, and kernels' scratch relies on that; all others have one. */
    const int none = index == 0 || plan->inference;
    if ((t.gradient_offset == SEAM_PLAN_NONE) != none)
        return SEAM_E_ARGUMENT;
    return none || in_arena(plan, t.gradient_offset, size) ? SEAM_OK : SEAM_E_LIMIT;
}

/* Parameters this layer must have; sets *status if its shapes do not fit together. */
static uint64_t check_shapes(const seam_plan *plan, const seam_layer *l, int *status) {
    const seam_window *w = &l->window;
    uint64_t taps = (uint64_t)w->kernel_h * (uint64_t)w->kernel_w;
    uint64_t bias = l->has_bias ? (uint64_t)w->out_c : 0;
    seam_tensor in, out, second;
    seam_plan_tensor(&in, plan, l->input);
    seam_plan_tensor(&out, plan, l->output);
    int same = in.h == out.h && in.w == out.w && in.c == out.c;
    *status = SEAM_OK;
    switch (l->kind) {
    case SEAM_LAYER_CONV2D:
        *status = seam_window_check(w);
        return taps * (uint64_t)w->in_c * (uint64_t)w->out_c + bias;
    case SEAM_LAYER_DEPTHWISE:
        *status = w->out_c % w->in_c ? SEAM_E_SHAPE : seam_window_check(w);
        return taps * (uint64_t)w->out_c + bias;
    case SEAM_LAYER_DENSE:
        if (out.h != 1 || out.w != 1)
            *status = SEAM_E_SHAPE;
        return (uint64_t)in.values * out.values + bias;
    case SEAM_LAYER_MAX_POOL:
    case SEAM_LAYER_AVERAGE_POOL:
        *status = in.c != out.c ? SEAM_E_SHAPE : seam_window_check(w);
        return 0;
    case SEAM_LAYER_RELU:
        if (!same || !(l->constant > 0.0f))
            *status = SEAM_E_SHAPE;
        return 0;
    case SEAM_LAYER_ADD:
        if (l->second >= l->output) {
            *status = SEAM_E_ARGUMENT;
            return 0;
        }
        seam_plan_tensor(&second, plan, l->second);
        if (!same || second.h != in.h || second.w != in.w || second.c != in.c)
            *status = SEAM_E_SHAPE;
        return 0;
    case SEAM_LAYER_GROUP_NORM:
        if (!same || l->groups == 0 || in.c % l->groups || !(l->constant >= 0.0f))
            *status = SEAM_E_SHAPE;
        else if (!in_arena(plan, l->saved_offset, (uint64_t)plan->batch * l->groups * 8u))
            *status = SEAM_E_LIMIT;
        return 2u * (uint64_t)in.c;
    case SEAM_LAYER_FLATTEN:
        if (in.values != out.values || out.h != 1 || out.w != 1)
            *status = SEAM_E_SHAPE;
        return 0;
    default:
        *status = SEAM_E_KIND;
        return 0;
    }
}

/* Arrays one layer uses at the same time. */
typedef struct {
    uint64_t start[6], end[6];
    uint32_t count;
} places;

static void place(places *p, uint32_t offset, uint64_t size) {
    if (offset == SEAM_PLAN_NONE || size == 0)
        return;
    p->start[p->count] = offset;
    p->end[p->count++] = offset + size;
}

/* Kernels rely on arrays that do not overlap; the first `together` may be the same array. */
static int apart(const places *p, uint32_t together) {
    for (uint32_t i = 0; i < p->count; i++)
        for (uint32_t k = 0; k < i; k++) {
            int same = p->start[i] == p->start[k] && p->end[i] == p->end[k];
            if (p->start[i] < p->end[k] && p->start[k] < p->end[i] && !(i < together && same))
                return 0;
        }
    return 1;
}

static int check_places(const seam_plan *plan, const seam_layer *l) {
    int add = l->kind == SEAM_LAYER_ADD, relu = l->kind == SEAM_LAYER_RELU;
    int in_place = add || relu || l->kind == SEAM_LAYER_FLATTEN;
    uint64_t saved = l->kind == SEAM_LAYER_GROUP_NORM ? (uint64_t)plan->batch * l->groups * 8u : 0u;
    seam_tensor x, y, second;
    seam_plan_tensor(&x, plan, l->input);
    seam_plan_tensor(&y, plan, l->output);
    seam_plan_tensor(&second, plan, add ? l->second : l->input);
    uint64_t in = bytes_of(plan, x.values), out = bytes_of(plan, y.values);
    places forward = {.count = 0}, backward = {.count = 0};
    place(&forward, x.value_offset, in);
    place(&forward, y.value_offset, out);
    place(&forward, second.value_offset, add ? in : 0u);
    place(&backward, x.gradient_offset, in);
    place(&backward, y.gradient_offset, out);
    place(&backward, second.gradient_offset, add ? in : 0u);
    /* Values may lie together, and gradients; never a value with a gradient. */
    const uint32_t values = in_place ? forward.count : 0u;
    const uint32_t gradients = in_place ? backward.count : 0u;
    if (!in_place && l->kind != SEAM_LAYER_AVERAGE_POOL)
        place(&backward, x.value_offset, in);
    place(&backward, y.value_offset, relu ? out : 0u);
    for (int i = 0; i < 2; i++) {
        place(i ? &backward : &forward, l->saved_offset, saved);
        place(i ? &backward : &forward, plan->scratch_offset, seam_layer_scratch(l));
    }
    return apart(&forward, values) && apart(&backward, gradients) ? SEAM_OK : SEAM_E_LIMIT;
}

/* The int8 front: the output gradient is masked before anything else of a layer, so what comes
 * after may lie where the output was. A sum may go over one of its inputs. */
static int check_q8_places(const seam_plan *plan, const seam_layer *l, uint64_t scratch) {
    int add = l->kind == SEAM_LAYER_ADD;
    int through = l->kind == SEAM_LAYER_RELU || l->kind == SEAM_LAYER_FLATTEN;
    int masks = add || l->kind == SEAM_LAYER_RELU || l->parameter_count > 0;
    seam_tensor x, y, second;
    seam_plan_tensor(&x, plan, l->input);
    seam_plan_tensor(&y, plan, l->output);
    seam_plan_tensor(&second, plan, add ? l->second : l->input);
    uint64_t in = bytes_of(plan, x.values), out = bytes_of(plan, y.values);
    uint64_t other = add && l->second != l->input ? in : 0u;
    places forward = {.count = 0}, mask = {.count = 0}, backward = {.count = 0};
    place(&forward, x.value_offset, in);
    place(&forward, y.value_offset, out);
    place(&forward, second.value_offset, other);
    const uint32_t values = through || add ? forward.count : 0u;
    place(&forward, plan->scratch_offset, scratch);
    if (!apart(&forward, values))
        return SEAM_E_LIMIT;
    if (plan->inference)
        return SEAM_OK;
    place(&mask, y.gradient_offset, out);
    place(&mask, y.value_offset, masks ? out : 0u);
    place(&backward, x.gradient_offset, in);
    place(&backward, y.gradient_offset, out);
    place(&backward, second.gradient_offset, other);
    const uint32_t gradients = through ? backward.count : 0u;
    place(&backward, plan->scratch_offset, scratch);
    if (l->parameter_count > 0 || l->kind == SEAM_LAYER_MAX_POOL)
        place(&backward, x.value_offset, in);
    return apart(&mask, 0) && apart(&backward, gradients) ? SEAM_OK : SEAM_E_LIMIT;
}

static uint64_t q8_biases(const seam_layer *l) {
    return l->has_bias && l->parameter_count > 0 ? (uint64_t)l->window.out_c : 0u;
}

/* int8 weights, padded to whole words, and int32 biases. */
static uint64_t q8_learned_bytes(const seam_layer *l) {
    const uint64_t bias = q8_biases(l);
    return ((l->parameter_count - bias + 3u) & ~(uint64_t)3u) + 4u * bias;
}

/* int32 sums of a layer may not leave int32, and what is learned lies at whole words. */
static int check_q8_layer(const seam_plan *plan, const seam_layer *l) {
    const seam_window *w = &l->window;
    if (l->kind == SEAM_LAYER_GROUP_NORM)
        return SEAM_E_KIND;
    const uint64_t weights = l->parameter_count - q8_biases(l);
    if (l->parameter_offset % 4u != 0 ||
        l->parameter_offset + q8_learned_bytes(l) > plan->parameters)
        return SEAM_E_LIMIT;
    if (weights > 0) {
        uint64_t depthwise = l->kind == SEAM_LAYER_DEPTHWISE, channels = (uint64_t)w->out_c;
        uint64_t pixels =
            l->kind == SEAM_LAYER_DENSE ? 1u : (uint64_t)w->out_h * (uint64_t)w->out_w;
        uint64_t readers = depthwise
                               ? weights / (uint64_t)w->in_c
                               : weights / (uint64_t)(l->kind == SEAM_LAYER_DENSE ? 1 : w->in_c);
        int status = seam_q8_sums_check(NULL, 0, (int64_t)(weights / channels));
        if (status != SEAM_OK)
            return status;
        if (!plan->inference &&
            (pixels * plan->batch > SEAM_Q8_WEIGHT_TERMS_MAX || readers > SEAM_Q8_INPUT_TERMS_MAX))
            return SEAM_E_LIMIT;
    }
    if (l->kind == SEAM_LAYER_MAX_POOL || l->kind == SEAM_LAYER_AVERAGE_POOL) {
        int status = seam_q8_pool_check(w);
        if (status == SEAM_OK)
            status = seam_q8_pool_sums_check(w);
        if (status != SEAM_OK)
            return status;
    }
    const uint64_t scratch = seam_q8_plan_scratch(plan, l);
    return scratch <= plan->scratch_size ? check_q8_places(plan, l, scratch) : SEAM_E_LIMIT;
}

/* Of all layers before one is read: what a layer needs can depend on those behind it. Tensor i + 1
 * is what layer i makes: execution order needs no further proof. */
static int check_tensors_of(const seam_plan *plan) {
    for (uint32_t i = 0; i < plan->layers; i++) {
        const uint8_t *p = layer_at(plan, i);
        if (seam_get16(p + 6) != i + 1 || seam_get16(p + 2) > i)
            return SEAM_E_ARGUMENT;
    }
    return SEAM_OK;
}

static int check_layer(const seam_plan *plan, uint32_t index) {
    seam_layer l;
    const uint8_t *p = layer_at(plan, index);
    /* Nothing lies behind the last layer that could have it made again. */
    if (p[1] > (index + 1 < plan->layers ? SEAM_LAYER_AGAIN : 0u) || p[36] > 1u ||
        !all_zero(p + 37, SEAM_PLAN_LAYER - 37u))
        return SEAM_E_ARGUMENT;
    seam_plan_layer(&l, plan, index);
    if (l.kind != SEAM_LAYER_ADD && l.second != NO_SECOND)
        return SEAM_E_ARGUMENT;
    int status;
    uint64_t parameters = check_shapes(plan, &l, &status);
    if (status != SEAM_OK)
        return status;
    if (parameters != l.parameter_count)
        return SEAM_E_SHAPE;
    if (plan->dtype == SEAM_DTYPE_Q8)
        return check_q8_layer(plan, &l);
    if ((uint64_t)l.parameter_offset + parameters > plan->parameters)
        return SEAM_E_LIMIT;
    return seam_layer_scratch(&l) <= plan->scratch_size ? check_places(plan, &l) : SEAM_E_LIMIT;
}

/* What is learned lies layer by layer without gaps: no weight is part of a bias, whose bounds it
 * would not know. */
static int check_q8_learned(const seam_plan *plan) {
    uint64_t next = 0;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        if (l.parameter_count == 0)
            continue;
        if (l.parameter_offset != next)
            return SEAM_E_ARGUMENT;
        next += q8_learned_bytes(&l);
    }
    if (next != plan->parameters || plan->blob_size != seam_q8_blob_size(plan))
        return SEAM_E_SHAPE;
    return SEAM_OK;
}

/* Every tensor but the last has a reader: else no gradient would ever come to what made it. */
static int check_readers(const seam_plan *plan) {
    uint8_t wanted[SEAM_PLAN_TENSORS_MAX] = {0};
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        wanted[l.input] = 1;
        if (l.kind == SEAM_LAYER_ADD)
            wanted[l.second] = 1;
    }
    for (uint32_t t = 0; t < plan->layers; t++)
        if (!wanted[t])
            return SEAM_E_ARGUMENT;
    return SEAM_OK;
}

/* The exit reads nothing in front of the seam but what crosses it, which is at hand, and its
 * parameters lie behind the front's: either part goes without the other. */
static int check_exit(seam_plan *plan) {
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        const int add = l.kind == SEAM_LAYER_ADD, learns = l.parameter_count > 0;
        if (i < plan->seam) {
            const uint32_t end = l.parameter_offset + l.parameter_count;
            if (learns && end > plan->front_parameters)
                plan->front_parameters = end;
            if (i + 1u == plan->seam && l.again)
                return SEAM_E_ARGUMENT;
        } else if (l.input < plan->seam || (add && l.second < plan->seam) ||
                   (learns && l.parameter_offset < plan->front_parameters)) {
            return SEAM_E_ARGUMENT;
        }
    }
    return SEAM_OK;
}

static int check_crc(const uint8_t *bytes, size_t size) {
    static const uint8_t zeros[4] = {0, 0, 0, 0};
    uint32_t crc = seam_crc32(0, bytes, CRC_AT);
    crc = seam_crc32(crc, zeros, sizeof zeros);
    crc = seam_crc32(crc, bytes + SEAM_PLAN_HEADER, size - SEAM_PLAN_HEADER);
    return crc == seam_get32(bytes + CRC_AT) ? SEAM_OK : SEAM_E_CHECK;
}

static int trains_q8(const seam_plan *plan) {
    return plan->dtype == SEAM_DTYPE_Q8 && !plan->inference;
}

/* A session's answers and samples lie in the arena of an int8 front. */
static int check_room(const seam_plan *plan) {
    if (!trains_q8(plan))
        return SEAM_OK;
    const seam_q8_room room = seam_q8_session_room(plan);
    const uint64_t behind = seam_q8_base(plan) + room.weights;
    return room.samples_at != 0 && behind <= plan->arena_size &&
                   in_arena(plan, plan->answer_offset, room.answer)
               ? SEAM_OK
               : SEAM_E_LIMIT;
}

/* The flags of the header, and the room that momentum takes with them. */
static int take_flags(seam_plan *plan) {
    const uint32_t flags = plan->bytes[7];
    const uint32_t kinds = flags & (SEAM_PLAN_NO_MOMENTUM | SEAM_PLAN_FLOAT_MOMENTUM);
    if (flags > (plan->dtype == SEAM_DTYPE_Q8 ? SEAM_PLAN_INFERENCE + kinds : 0u) ||
        kinds == (SEAM_PLAN_NO_MOMENTUM | SEAM_PLAN_FLOAT_MOMENTUM))
        return SEAM_E_ARGUMENT;
    if (plan->dtype != SEAM_DTYPE_Q8 || plan->inference || kinds == SEAM_PLAN_NO_MOMENTUM)
        return SEAM_OK;
    plan->momentum = kinds == 0 ? SEAM_MOMENTUM_INT8 : SEAM_MOMENTUM_FLOAT;
    uint64_t count = 0;
    for (uint32_t i = 0; i < plan->layers; i++)
        count += seam_get32(layer_at(plan, i) + COUNT_AT);
    if (count > SEAM_PARCEL_VALUES_MAX)
        return SEAM_E_LIMIT;
    plan->velocity_size = kinds == 0 ? plan->parameters : 4u * (uint32_t)count;
    return SEAM_OK;
}

int seam_plan_open(seam_plan *plan, const uint8_t *bytes, size_t size) {
    if (size < SEAM_PLAN_HEADER)
        return SEAM_E_SHORT;
    if (seam_get32(bytes) != MAGIC)
        return SEAM_E_MAGIC;
    if (seam_get16(bytes + 4) != SEAM_WIRE_VERSION)
        return SEAM_E_VERSION;
    if (bytes[6] > SEAM_DTYPE_Q8)
        return SEAM_E_KIND;
    *plan = (seam_plan){.bytes = bytes,
                        .dtype = bytes[6],
                        .inference = bytes[7] & SEAM_PLAN_INFERENCE,
                        .layers = seam_get16(bytes + 8),
                        .tensors = seam_get16(bytes + 10),
                        .batch = seam_get16(bytes + 12),
                        .output = seam_get16(bytes + 16),
                        .seam = seam_get16(bytes + SEAM_AT),
                        .parameters = seam_get32(bytes + 20),
                        .arena_size = seam_get32(bytes + 24),
                        .scratch_offset = seam_get32(bytes + 28),
                        .scratch_size = seam_get32(bytes + 32),
                        .blob_size = seam_get32(bytes + 36),
                        .answer_offset = seam_get32(bytes + 40)};
    if (plan->layers == 0 || plan->layers > SEAM_PLAN_LAYERS_MAX)
        return SEAM_E_LIMIT;
    if (plan->tensors != plan->layers + 1u)
        return SEAM_E_ARGUMENT;
    if (plan->batch == 0 || plan->batch > SEAM_BATCH_MAX)
        return SEAM_E_LIMIT;
    if (plan->parameters > SEAM_PARCEL_VALUES_MAX)
        return SEAM_E_LIMIT;
    size_t table =
        (size_t)plan->tensors * SEAM_PLAN_TENSOR + (size_t)plan->layers * SEAM_PLAN_LAYER;
    if (size < SEAM_PLAN_HEADER + table)
        return SEAM_E_SHORT;
    if (size > SEAM_PLAN_HEADER + table)
        return SEAM_E_LIMIT;
    int status = check_crc(bytes, size);
    if (status != SEAM_OK)
        return status;
    if (seam_get16(bytes + 14) != 0 || plan->output != plan->layers)
        return SEAM_E_ARGUMENT;
    if ((status = take_flags(plan)) != SEAM_OK)
        return status;
    if (plan->answer_offset != 0 && !trains_q8(plan))
        return SEAM_E_ARGUMENT;
    if (plan->seam >= plan->layers)
        return SEAM_E_ARGUMENT;
    if (plan->seam == 0)
        plan->seam = plan->layers;
    if (plan->dtype == SEAM_DTYPE_F32 ? plan->blob_size != 0
                                      : plan->blob_size > SEAM_PARCEL_VALUES_MAX)
        return SEAM_E_LIMIT;
    if (!in_arena(plan, plan->scratch_offset, plan->scratch_size))
        return SEAM_E_LIMIT;
    for (uint32_t i = 0; i < plan->tensors; i++)
        if ((status = check_tensor(plan, i)) != SEAM_OK)
            return status;
    if ((status = check_tensors_of(plan)) != SEAM_OK)
        return status;
    for (uint32_t i = 0; i < plan->layers; i++)
        if ((status = check_layer(plan, i)) != SEAM_OK)
            return status;
    if (plan->dtype == SEAM_DTYPE_Q8 && (status = check_q8_learned(plan)) != SEAM_OK)
        return status;
    if ((status = check_room(plan)) != SEAM_OK || (status = check_readers(plan)) != SEAM_OK)
        return status;
    return check_exit(plan);
}
