/* The int8 front: its parameters, forward, and backward with the update, inside the caller's
 * arena. */
#include "bytes.h"
#include "seam_front.h"
#include "seam_number.h"

enum { WEIGH, SETTLE, WEIGHTS, BIAS, SETTLE_SECOND, JOIN, JOIN_SECOND, PURPOSES = 8 };

#define TENSOR_NUMBERS 8u /* bytes in the blob: f32 scale, i32 zero point */
#define CLAMP 4u          /* i8 y_min, i8 y_max, u16 zero */
#define SUM_NUMBERS 32u   /* of an add: six i32, two f32 */

static uint64_t round4(uint64_t size) {
    return (size + 3u) & ~(uint64_t)3u;
}

static uint32_t bias_of(const seam_layer *l) {
    return l->has_bias && l->parameter_count > 0 ? (uint32_t)l->window.out_c : 0u;
}

static uint32_t weights_of(const seam_layer *l) {
    return l->parameter_count - bias_of(l);
}

/* ---- the blob ---- */

/* Bytes of a layer's numbers behind what is learned. Channels: multiplier, shift, step, ratio. */
static uint64_t fixed_size(const seam_layer *l) {
    const uint64_t channels = (uint64_t)l->window.out_c;
    if (l->kind == SEAM_LAYER_ADD)
        return CLAMP + SUM_NUMBERS;
    return weights_of(l) > 0 ? CLAMP + 4u + 12u * channels + round4(2u * channels) : CLAMP;
}

uint64_t seam_q8_blob_size(const seam_plan *plan) {
    uint64_t size = round4(plan->parameters) + TENSOR_NUMBERS * plan->tensors;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        size += fixed_size(&l);
    }
    return size;
}

/* Floats of one row of logits and of its gradient, where the output may be logits. */
static uint64_t loss_size(const seam_plan *plan) {
    seam_tensor out;
    seam_plan_tensor(&out, plan, plan->output);
    return out.h == 1 && out.w == 1 && !plan->inference ? 8u * (uint64_t)out.c : 0u;
}

static uint64_t state_size(const seam_plan *plan) {
    return seam_round16(8u * (uint64_t)plan->layers + 6u * (uint64_t)plan->tensors) +
           loss_size(plan);
}

uint64_t seam_q8_base(const seam_plan *plan) {
    const int has = plan->has_velocity && !plan->inference;
    const uint64_t velocity = has ? seam_round16(plan->parameters) : 0u;
    return seam_round16(plan->blob_size) + velocity + seam_round16(state_size(plan));
}

/* A layer's numbers where they lie. */
typedef struct {
    const int32_t *multiplier, *shift; /* [out_c] */
    const float *steps;
    const uint16_t *ratios;
    float per_input;
    int32_t y_min, y_max;
    seam_q8_sum sum;
    float a_ratio, b_ratio;
} layer_numbers;

static layer_numbers numbers_at(const uint8_t *at, const seam_layer *l) {
    const size_t channels = (size_t)l->window.out_c;
    layer_numbers n = {.y_min = (int8_t)at[0], .y_max = (int8_t)at[1]};
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
    } else if (weights_of(l) > 0) {
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
    const uint8_t *at = f->blob + round4(f->plan.parameters) + (size_t)TENSOR_NUMBERS * tensor;
    *zero = (int32_t)seam_get32(at + 4);
    return seam_get_float(at);
}

static int is_number(float x, float most) {
    return x >= 0.0f && x <= most; /* false for NaN */
}

static int check_numbers(const layer_numbers *n, const seam_layer *l, const int32_t *bias,
                         int32_t x_zero, int32_t y_zero) {
    const seam_q8_scaling how = {n->multiplier, n->shift, l->window.out_c, x_zero,
                                 y_zero,        n->y_min, n->y_max};
    int status = seam_q8_scaling_check(&how, l->window.out_c);
    if (status == SEAM_OK)
        status =
            seam_q8_sums_check(bias, l->window.out_c, weights_of(l) / (uint32_t)l->window.out_c);
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
        layer_numbers n = numbers_at(blob + f->fixed[i], &l);
        const uint8_t *at = blob + l.parameter_offset;
        int status = n.y_min > n.y_max ? SEAM_E_ARGUMENT : SEAM_OK;
        for (uint32_t k = 0; status == SEAM_OK && k < weights_of(&l); k++)
            if (at[k] == 0x80u) /* -128 */
                status = SEAM_E_ARGUMENT;
        if (status == SEAM_OK && weights_of(&l) > 0) {
            const void *bias = at + round4(weights_of(&l));
            status = check_numbers(&n, &l, bias_of(&l) ? bias : NULL, zero, y_zero);
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

static void forget_extremes(const seam_q8_front *f) {
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
    forget_extremes(front);
    int status = check_blob(front, mine);
    if (status != SEAM_OK)
        memset(mine, 0, size);
    front->batch = 0;
    return status;
}

/* ---- memory ---- */

static int is_dense(const seam_layer *l) {
    return l->kind == SEAM_LAYER_DENSE;
}

/* A dense layer is a 1x1 convolution of a 1x1 image. */
static seam_window window_of(const seam_layer *l) {
    const seam_window *w = &l->window;
    return is_dense(l) ? seam_dense_window(w->batch, w->in_h * w->in_w * w->in_c, w->out_c) : *w;
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
static int joins(const seam_plan *plan, const seam_layer *l) {
    return readers_of(plan, l->input) > 1 ||
           (l->kind == SEAM_LAYER_ADD && readers_of(plan, l->second) > 1);
}

/* What lies in the scratch memory in front of the sums while a layer goes backward, in bytes.
 * least: of the weighed gradient, the rows that one row of inputs was read by. */
typedef struct {
    uint64_t kernel, joined, weighed, least;
} back_places;

/* Rows of outputs that read one row of inputs, at most. */
static uint64_t rows_of(const seam_window *w) {
    const uint64_t reach = (uint64_t)(w->kernel_h - 1) * (uint64_t)w->dilation_h;
    const uint64_t rows = reach / (uint64_t)w->stride_h + 1u;
    return rows < (uint64_t)w->out_h ? rows : (uint64_t)w->out_h;
}

static back_places places_of(const seam_layer *l, int joining) {
    const seam_window w = window_of(l);
    const uint64_t batch = (uint64_t)w.batch;
    const uint64_t x = batch * (uint64_t)w.in_h * (uint64_t)w.in_w * (uint64_t)w.in_c;
    const uint64_t line = (uint64_t)w.out_w * (uint64_t)w.out_c;
    const int through = l->kind == SEAM_LAYER_FLATTEN || l->kind == SEAM_LAYER_RELU;
    back_places places = {.joined = joining && !through ? seam_round16(x) : 0u};
    if (weights_of(l) > 0 && l->input != 0) {
        places.weighed = seam_round16(batch * (uint64_t)w.out_h * line);
        places.least = seam_round16(rows_of(&w) * line);
    }
    if (l->kind == SEAM_LAYER_CONV2D || is_dense(l)) {
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
    const seam_window w = window_of(l);
    const int conv = l->kind == SEAM_LAYER_CONV2D || is_dense(l), learns = weights_of(l) > 0;
    seam_q8_layer_needs needs = {.fixed = conv ? seam_round16(seam_q8_conv2d_scratch(&w, 1)) : 0u};
    if (inference)
        return needs;
    const back_places places = places_of(l, joining);
    if (l->kind == SEAM_LAYER_FLATTEN || l->kind == SEAM_LAYER_RELU) { /* sums only to join */
        needs.piece = joining ? 64u : 0u;
        needs.sums = needs.piece;
        return needs;
    }
    sums_of(&needs, &w, learns ? weights_of(l) : 0u, l->input != 0 || !learns);
    needs.fixed = more(needs.fixed, places.kernel + places.joined);
    needs.sums = places.weighed + seam_round16(needs.sums);
    needs.piece = places.least + seam_round16(needs.piece);
    return needs;
}

uint64_t seam_q8_plan_scratch(const seam_plan *plan, const seam_layer *l) {
    const seam_q8_layer_needs needs = seam_q8_layer_scratch(l, joins(plan, l), plan->inference);
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
    if (plan->has_velocity && !plan->inference) {
        front->velocity = (int8_t *)at;
        at += seam_round16(plan->parameters);
    }
    front->velocity_exponents = (int32_t *)(void *)at;
    front->fixed = (uint32_t *)(void *)(at + 4u * plan->layers);
    front->gradient_exponents = (int32_t *)(void *)(at + 8u * plan->layers);
    front->extremes = (int8_t *)(at + 8u * plan->layers + 4u * plan->tensors);
    front->row = (float *)(void *)(at + seam_round16(8u * (uint64_t)plan->layers +
                                                     6u * (uint64_t)plan->tensors));
    memset(arena, 0, (size_t)seam_q8_base(plan));
    uint64_t fixed = round4(plan->parameters) + TENSOR_NUMBERS * plan->tensors;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        front->fixed[i] = (uint32_t)fixed;
        fixed += fixed_size(&l);
    }
    forget_extremes(front);
    return SEAM_OK;
}

static int8_t *at(const seam_q8_front *f, uint32_t offset) {
    return offset == SEAM_PLAN_NONE ? NULL : (int8_t *)(f->arena + offset);
}

static int8_t *value(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.value_offset);
}

static int8_t *gradient(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return at(f, t.gradient_offset);
}

static size_t count_of(const seam_q8_front *f, uint32_t tensor) {
    seam_tensor t;
    seam_plan_tensor(&t, &f->plan, tensor);
    return (size_t)f->batch * t.values;
}

int8_t *seam_q8_front_input(const seam_q8_front *front) {
    return value(front, 0);
}
int8_t *seam_q8_front_output(const seam_q8_front *front) {
    return value(front, front->plan.output);
}
int8_t *seam_q8_front_output_gradient(const seam_q8_front *front) {
    return gradient(front, front->plan.output);
}

/* ---- forward ---- */

/* A layer with this batch's window, its numbers, and where its arrays are. */
typedef struct {
    seam_layer layer;
    seam_window window;
    layer_numbers numbers;
    int32_t x_zero, y_zero;
    int8_t *x, *y, *w;
    int32_t *b;
    size_t count; /* values in y */
    uint8_t *scratch;
    size_t scratch_size;
} layer_step;

static void open_step(layer_step *s, const seam_q8_front *f, uint32_t index) {
    seam_layer *l = &s->layer;
    seam_plan_layer(l, &f->plan, index);
    l->window.batch = f->batch;
    s->window = window_of(l);
    s->numbers = numbers_at(f->blob + f->fixed[index], l);
    (void)seam_q8_front_scale(&s->x_zero, f, l->input);
    (void)seam_q8_front_scale(&s->y_zero, f, l->output);
    s->x = value(f, l->input);
    s->y = value(f, l->output);
    s->w = (int8_t *)(f->blob + l->parameter_offset);
    s->b = bias_of(l) ? (int32_t *)(void *)(f->blob + l->parameter_offset + round4(weights_of(l)))
                      : NULL;
    s->count = count_of(f, l->output);
    s->scratch = f->arena + f->plan.scratch_offset;
    seam_layer planned;
    seam_plan_layer(&planned, &f->plan, index);
    s->scratch_size = (size_t)seam_q8_plan_scratch(&f->plan, &planned);
}

static seam_q8_scaling scaling_of(const layer_step *s) {
    const layer_numbers *n = &s->numbers;
    return (seam_q8_scaling){n->multiplier, n->shift, s->window.out_c, s->x_zero,
                             s->y_zero,     n->y_min, n->y_max};
}

/* Packed weights go where the sums of the backward pass will be, if they fit. */
static void forward_conv(const layer_step *s) {
    const seam_q8_scaling how = scaling_of(s);
    const size_t own = (size_t)seam_round16(seam_q8_conv2d_scratch(&s->window, 1));
    const size_t packed = seam_q8_conv2d_packed_size(&s->window, 1);
    uint8_t *room = packed > 0 && own + packed <= s->scratch_size ? s->scratch + own : NULL;
    if (room != NULL)
        seam_q8_conv2d_pack(room, s->w, &s->window, 1);
    seam_q8_conv2d(s->y, s->x, s->w, s->b, &how, &s->window, 1, room, s->scratch);
}

static void clamp(int8_t *y, const int8_t *x, const layer_numbers *n, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < n->y_min ? n->y_min : x[i] > n->y_max ? n->y_max : x[i]);
}

static void forward(const seam_q8_front *f, uint32_t index) {
    layer_step s;
    open_step(&s, f, index);
    const seam_layer *l = &s.layer;
    const layer_numbers *n = &s.numbers;
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
        seam_q8_add(s.y, s.x, value(f, l->second), &sum, s.count);
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
    const int8_t *x = value(f, tensor);
    const size_t count = count_of(f, tensor);
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
    return scale > 0.0f ? seam_q8_quantise(at(front, t.value_offset), x, scale, zero,
                                           SEAM_HALF_AWAY, (size_t)n * t.values)
                        : SEAM_E_STATE;
}

void seam_q8_front_forward(seam_q8_front *front, int32_t n, int note) {
    front->batch = n;
    if (note)
        note_extremes(front, 0);
    for (uint32_t i = 0; i < front->plan.layers; i++) {
        forward(front, i);
        if (note)
            note_extremes(front, i + 1);
    }
}

/* ---- backward ---- */

typedef struct {
    const seam_q8_front *f;
    const seam_q8_step *step;
    layer_step s;
    uint32_t index;
    int8_t *dy, *weighed, *joined;
    int by_rows; /* dy is weighed for each row of inputs anew: there is no room for all of it */
    int32_t exponent; /* of dy */
    uint8_t *kernel;
    int32_t *sums;
    size_t room; /* of the sums, in words */
} back_step;

static seam_q8_noise noise_of(const back_step *b, uint32_t purpose) {
    return (seam_q8_noise){b->step->seed, b->index * PURPOSES + purpose, b->step->mode};
}

static size_t lesser(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Sums for rows first .. first + rows of an input (of `line` values each); what makes them. */
typedef void make_rows(back_step *b, int32_t first, int32_t rows, int which);

/* The gradient of an input, from sums made whole, or in pieces and then twice: once for the largest
 * of them, once for good. */
static int32_t settle_rows(back_step *b, int8_t *dx, make_rows *make, int which, size_t line,
                           int32_t rows, int32_t multiplier, uint32_t purpose) {
    const seam_q8_noise noise = noise_of(b, purpose);
    const int32_t most = (int32_t)lesser(b->room / line, (size_t)rows);
    const int whole = most == rows;
    uint32_t peak = 0;
    for (int32_t row = 0; row < rows; row += most) {
        const int32_t n = (int32_t)lesser((size_t)(rows - row), (size_t)most);
        make(b, row, n, which);
        const uint32_t here = seam_q8_largest(b->sums, (size_t)n * line);
        peak = here > peak ? here : peak;
    }
    const int32_t bits = seam_q8_settle_bits(peak, multiplier);
    for (int32_t row = 0; row < rows; row += most) {
        const int32_t n = (int32_t)lesser((size_t)(rows - row), (size_t)most);
        if (!whole)
            make(b, row, n, which);
        seam_q8_settle(dx + (size_t)row * line, b->sums, multiplier, bits,
                       (uint32_t)((size_t)row * line), (size_t)n * line, &noise);
    }
    return bits;
}

static void join_in_pieces(back_step *b, int8_t *into, int32_t *exponent, const int8_t *other,
                           int32_t other_exponent, size_t count, uint32_t purpose) {
    const seam_q8_noise noise = noise_of(b, purpose);
    const size_t most = lesser(b->room, count);
    uint32_t peak = 0;
    int32_t raised = 0;
    for (size_t i = 0; i < count; i += most) {
        const size_t n = lesser(count - i, most);
        raised = seam_q8_join_sums(b->sums, into + i, *exponent, other + i, other_exponent, n);
        const uint32_t here = seam_q8_largest(b->sums, n);
        peak = here > peak ? here : peak;
    }
    const int32_t bits = seam_q8_settle_bits(peak, 0);
    for (size_t i = 0; i < count; i += most) {
        const size_t n = lesser(count - i, most);
        (void)seam_q8_join_sums(b->sums, into + i, *exponent, other + i, other_exponent, n);
        seam_q8_settle(into + i, b->sums, 0, bits, (uint32_t)i, n, &noise);
    }
    *exponent = raised + bits;
}

/* The gradient that `make` gives for input `which` (0 or 1): kept, or joined with what is there. */
static void give(back_step *b, make_rows *make, int which, int32_t exponent, int32_t multiplier) {
    const seam_layer *l = &b->s.layer;
    const uint32_t tensor = which ? l->second : l->input;
    int8_t *dx = gradient(b->f, tensor);
    if (dx == NULL)
        return;
    const int again = which && l->second == l->input; /* the same tensor twice */
    const int first = seam_plan_last_reader(&b->f->plan, tensor, b->index) && !again;
    const int32_t rows = b->f->batch * (is_dense(l) ? 1 : l->window.in_h);
    const size_t line = count_of(b->f, tensor) / (size_t)rows;
    int8_t *into = first ? dx : b->joined;
    const int32_t bits =
        settle_rows(b, into, make, which, line, rows, multiplier, which ? SETTLE_SECOND : SETTLE);
    int32_t *kept = b->f->gradient_exponents + tensor;
    if (first)
        *kept = exponent + bits;
    else
        join_in_pieces(b, dx, kept, into, exponent + bits, count_of(b->f, tensor),
                       which ? JOIN_SECOND : JOIN);
}

/* ---- layers with weights ---- */

static void input_sums(back_step *b, int32_t *sums, const int8_t *dy, int32_t first, int32_t rows) {
    const seam_window *p = &b->s.window;
    if (b->s.layer.kind == SEAM_LAYER_DEPTHWISE)
        seam_q8_depthwise_input_sums(sums, dy, b->s.w, p, first, rows);
    else
        seam_q8_conv2d_input_sums(sums, dy, b->s.w, p, 1, first, rows, b->kernel);
}

/* One row of inputs, from the rows of outputs that read it, weighed for this. */
static void weigh_row(back_step *b, int32_t *sums, int32_t row) {
    const seam_window *p = &b->s.window;
    const seam_q8_noise noise = noise_of(b, WEIGH);
    const int32_t bottom = row % p->in_h + p->pad_top;
    const int32_t top = bottom - (p->kernel_h - 1) * p->dilation_h;
    const int32_t first = top > 0 ? (top + p->stride_h - 1) / p->stride_h : 0;
    const int32_t last = bottom / p->stride_h < p->out_h ? bottom / p->stride_h : p->out_h - 1;
    const size_t line = (size_t)p->out_w * (size_t)p->out_c;
    const size_t at = ((size_t)(row / p->in_h) * (size_t)p->out_h + (size_t)first) * line;
    if (last >= first)
        seam_q8_weigh(b->weighed, b->dy + at, b->s.numbers.ratios, p->out_c,
                      (size_t)(last - first + 1) * (size_t)p->out_w, (uint32_t)at, &noise);
    /* Rows are counted from the tensor's first: seen from it, these lie where they should. */
    input_sums(b, sums, (const int8_t *)((uintptr_t)b->weighed - at), row, 1);
}

static void weight_rows(back_step *b, int32_t first, int32_t rows, int which) {
    const size_t line = (size_t)b->s.window.in_w * (size_t)b->s.window.in_c;
    (void)which;
    if (!b->by_rows)
        input_sums(b, b->sums, b->weighed, first, rows);
    else
        for (int32_t r = 0; r < rows; r++)
            weigh_row(b, b->sums + (size_t)r * line, first + r);
}

/* The largest of the layer's multipliers. */
static seam_number largest_multiplier(const layer_numbers *n, int32_t channels) {
    seam_number most = {0, 0};
    for (int32_t c = 0; c < channels; c++) {
        const seam_number one = {(uint32_t)n->multiplier[c], n->shift[c]};
        most = seam_number_above(one, most) ? one : most;
    }
    return most;
}

static void give_input(back_step *b) {
    const layer_numbers *n = &b->s.numbers;
    const int32_t channels = b->s.window.out_c;
    if (gradient(b->f, b->s.layer.input) == NULL)
        return;
    if (seam_q8_ratios_even(n->ratios, channels)) {
        b->weighed = b->dy;
        b->by_rows = 0;
    } else if (!b->by_rows) {
        const seam_q8_noise noise = noise_of(b, WEIGH);
        seam_q8_weigh(b->weighed, b->dy, n->ratios, channels, b->s.count / (size_t)channels, 0,
                      &noise);
    }
    const seam_number most = largest_multiplier(n, channels);
    /* All multipliers 0: nothing came through, and sums of 0 need no multiplier. */
    give(b, weight_rows, 0, b->exponent + most.exponent, (int32_t)most.mantissa);
}

static void make_weights(back_step *b, int32_t first, int32_t channels) {
    const seam_window *p = &b->s.window;
    if (b->s.layer.kind == SEAM_LAYER_DEPTHWISE)
        seam_q8_depthwise_weight_sums(b->sums, b->dy, b->s.x, b->s.x_zero, p, first, channels);
    else
        seam_q8_conv2d_weight_sums(b->sums, b->dy, b->s.x, b->s.x_zero, p, 1, first, channels,
                                   b->kernel);
}

static seam_q8_rates rates_of(const back_step *b) {
    return (seam_q8_rates){b->s.numbers.steps, b->exponent, b->step->rate, b->step->momentum,
                           b->step->decay};
}

static void learn_weights(back_step *b) {
    const seam_window *p = &b->s.window;
    const int depthwise = b->s.layer.kind == SEAM_LAYER_DEPTHWISE;
    const seam_q8_order order = seam_q8_order_of(p, 1, depthwise);
    const seam_q8_rates rates = rates_of(b);
    const seam_q8_noise noise = noise_of(b, WEIGHTS);
    const size_t weights = (size_t)order.channels * (size_t)order.terms;
    const int32_t most = (int32_t)lesser(b->room / (size_t)order.terms, (size_t)order.channels);
    int8_t *v = b->f->velocity ? b->f->velocity + b->s.layer.parameter_offset : NULL;
    int32_t *kept = b->f->velocity_exponents + b->index;
    seam_q8_bound bound = {0};
    int moves = 0;
    for (int pass = 0, whole = most == order.channels; pass < 2; pass++) {
        int32_t exponent = *kept;
        if (pass == 1)
            exponent = seam_q8_velocity_exponent(&moves, &bound, b->s.w, v, *kept, weights, &rates);
        if (pass == 1 && !moves)
            return;
        for (int32_t c = 0; c < order.channels; c += most) {
            seam_q8_order piece = order;
            piece.channels = order.channels - c < most ? order.channels - c : most;
            piece.term_step = depthwise ? piece.channels : 1;
            if (pass == 0 || !whole)
                make_weights(b, c, piece.channels);
            if (pass == 0)
                seam_q8_bound_take(&bound, b->sums, &piece, c, rates.steps);
            else
                seam_q8_update(b->s.w, v, b->sums, &order, &piece, c, &bound, *kept, exponent,
                               &rates, &noise);
        }
        *kept = exponent;
    }
}

static void learn_bias(back_step *b) {
    const seam_layer *l = &b->s.layer;
    const int32_t channels = b->s.window.out_c;
    const seam_q8_rates rates = rates_of(b);
    const seam_q8_noise noise = noise_of(b, BIAS);
    const size_t at_bias = l->parameter_offset + (size_t)round4(weights_of(l));
    const int64_t terms = weights_of(l) / (uint32_t)channels;
    seam_q8_bias_sums(b->sums, b->dy, channels, b->s.count / (size_t)channels);
    int32_t *v = b->f->velocity ? (int32_t *)(void *)(b->f->velocity + at_bias) : NULL;
    seam_q8_update_bias(b->s.b, v, b->sums, channels, b->s.numbers.per_input,
                        (int32_t)(INT32_MAX - terms * (128 * 255)), &rates, &noise);
}

/* ---- the other layers ---- */

static void pool_rows(back_step *b, int32_t first, int32_t rows, int which) {
    (void)which;
    if (b->s.layer.kind == SEAM_LAYER_MAX_POOL)
        seam_q8_max_pool2d_sums(b->sums, b->dy, b->s.x, &b->s.window, first, rows);
    else
        seam_q8_average_pool2d_sums(b->sums, b->dy, &b->s.window, first, rows);
}

static void add_rows(back_step *b, int32_t first, int32_t rows, int which) {
    const size_t line = (size_t)b->s.window.in_w * (size_t)b->s.window.in_c;
    const float ratio = which ? b->s.numbers.b_ratio : b->s.numbers.a_ratio;
    (void)seam_q8_add_sums(b->sums, b->dy + (size_t)first * line, ratio, (size_t)rows * line);
}

static int32_t add_exponent(float ratio) {
    return seam_number_of(ratio).exponent - 15;
}

static void give_through(back_step *b) {
    const uint32_t tensor = b->s.layer.input;
    int8_t *dx = gradient(b->f, tensor);
    if (dx == NULL)
        return;
    if (seam_plan_last_reader(&b->f->plan, tensor, b->index)) {
        if (dx != b->dy)
            memcpy(dx, b->dy, b->s.count);
        b->f->gradient_exponents[tensor] = b->exponent;
    } else {
        join_in_pieces(b, dx, b->f->gradient_exponents + tensor, b->dy, b->exponent, b->s.count,
                       JOIN);
    }
}

static void backward(back_step *b) {
    const layer_numbers *n = &b->s.numbers;
    switch (b->s.layer.kind) {
    case SEAM_LAYER_MAX_POOL:
        give(b, pool_rows, 0, b->exponent, 0);
        return;
    case SEAM_LAYER_AVERAGE_POOL:
        give(b, pool_rows, 0, b->exponent - 15, 0);
        return;
    case SEAM_LAYER_FLATTEN:
        give_through(b);
        return;
    default:
        break;
    }
    seam_q8_mask(b->dy, b->s.y, n->y_min, n->y_max, b->s.count);
    if (b->s.layer.kind == SEAM_LAYER_RELU) {
        give_through(b);
    } else if (b->s.layer.kind == SEAM_LAYER_ADD) {
        give(b, add_rows, 0, b->exponent + add_exponent(n->a_ratio), 0);
        give(b, add_rows, 1, b->exponent + add_exponent(n->b_ratio), 0);
    } else { /* the gradient of the input wants the old weights */
        give_input(b);
        learn_weights(b);
        if (b->s.b != NULL)
            learn_bias(b);
    }
}

static void open_back(back_step *b, const seam_q8_front *f, uint32_t index,
                      const seam_q8_step *step) {
    *b = (back_step){.f = f, .step = step, .index = index};
    open_step(&b->s, f, index);
    seam_layer planned;
    seam_plan_layer(&planned, &f->plan, index);
    const int joining = joins(&f->plan, &planned);
    const back_places places = places_of(&planned, joining);
    b->dy = gradient(f, planned.output);
    b->exponent = f->gradient_exponents[planned.output];
    b->kernel = b->s.scratch;
    b->joined = (int8_t *)(b->kernel + places.kernel);
    b->weighed = b->joined + places.joined;
    const uint64_t room = b->s.scratch_size - places.kernel - places.joined;
    const uint64_t piece = seam_q8_layer_scratch(&planned, joining, 0).piece - places.least;
    b->by_rows = places.weighed + piece > room;
    const uint64_t taken = b->by_rows ? places.least : places.weighed;
    b->sums = (int32_t *)(void *)(b->weighed + taken);
    b->room = (size_t)(room - taken) / sizeof(int32_t);
}

void seam_q8_front_backward(seam_q8_front *front, int32_t exponent, const seam_q8_step *step) {
    front->gradient_exponents[front->plan.output] = exponent;
    for (uint32_t i = front->plan.layers; i-- > 0;) {
        back_step b;
        for (uint32_t k = seam_plan_again_from(&front->plan, i); k < i; k++)
            forward(front, k);
        open_back(&b, front, i, step);
        backward(&b);
    }
    front->batch = 0; /* gradients now lie where the values were */
}

/* ---- the loss at the end of a whole network: the one place that computes with floats ---- */

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
    if (loss_size(&front->plan) == 0)
        return SEAM_E_SHAPE;
    loss_row row = {.classes = (int32_t)out.values};
    row.scale = seam_q8_front_scale(&row.zero, front, front->plan.output);
    row.logits = front->row;
    row.gradient = row.logits + out.values;
    const int8_t *q = seam_q8_front_output(front);
    int8_t *g = seam_q8_front_output_gradient(front);
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
