/* The int8 front backward, with the update in the same pass: a gradient of weights is used up where
 * it is made. */
#include "front_q8.h"

typedef struct {
    const seam_q8_front *f;
    const seam_q8_step *step;
    seam_q8_layer_step s;
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
    int8_t *dx = seam_q8_front_gradient(b->f, tensor);
    if (dx == NULL)
        return;
    const int again = which && l->second == l->input; /* the same tensor twice */
    const int first = seam_plan_last_reader(&b->f->plan, tensor, b->index) && !again;
    const int32_t rows = b->f->batch * (seam_q8_is_dense(l) ? 1 : l->window.in_h);
    const size_t line = seam_q8_front_count(b->f, tensor) / (size_t)rows;
    int8_t *into = first ? dx : b->joined;
    const int32_t bits =
        settle_rows(b, into, make, which, line, rows, multiplier, which ? SETTLE_SECOND : SETTLE);
    int32_t *kept = b->f->gradient_exponents + tensor;
    if (first)
        *kept = exponent + bits;
    else
        join_in_pieces(b, dx, kept, into, exponent + bits, seam_q8_front_count(b->f, tensor),
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
static seam_number largest_multiplier(const seam_q8_numbers *n, int32_t channels) {
    seam_number most = {0, 0};
    for (int32_t c = 0; c < channels; c++) {
        const seam_number one = {(uint32_t)n->multiplier[c], n->shift[c]};
        most = seam_number_above(one, most) ? one : most;
    }
    return most;
}

static void give_input(back_step *b) {
    const seam_q8_numbers *n = &b->s.numbers;
    const int32_t channels = b->s.window.out_c;
    if (seam_q8_front_gradient(b->f, b->s.layer.input) == NULL)
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

/* Velocities of the layer's weights, or with `biases` of its biases; NULL: there are none. */
static void *velocity_of(const back_step *b, int biases) {
    const seam_plan *plan = &b->f->plan;
    const uint32_t weights = seam_q8_weights_of(&b->s.layer);
    size_t words = biases ? weights : 0u;
    seam_layer l;
    if (b->f->velocity == NULL)
        return NULL;
    if (plan->momentum == SEAM_MOMENTUM_INT8)
        return b->f->velocity + b->s.layer.parameter_offset +
               (biases ? (size_t)seam_round4(weights) : 0u);
    for (uint32_t i = 0; i < b->index; i++) {
        seam_plan_layer(&l, plan, i);
        words += l.parameter_count;
    }
    return b->f->velocity + 4u * words;
}

/* Channels c, c + 1, ... of the layer's weights, as many as sums of them have room. */
static seam_q8_order piece_of(const back_step *b, const seam_q8_order *order, int32_t c) {
    const size_t room = b->room / (size_t)order->terms;
    seam_q8_order piece = *order;
    piece.channels = (int32_t)lesser(room, (size_t)(order->channels - c));
    piece.term_step = b->s.layer.kind == SEAM_LAYER_DEPTHWISE ? piece.channels : 1;
    return piece;
}

/* Velocities in float32 know no bound: each piece is made once. */
static void learn_weights_float(back_step *b) {
    const int depthwise = b->s.layer.kind == SEAM_LAYER_DEPTHWISE;
    const seam_q8_order order = seam_q8_order_of(&b->s.window, 1, depthwise);
    const seam_q8_rates rates = rates_of(b);
    const seam_q8_noise noise = noise_of(b, WEIGHTS);
    seam_q8_order piece;
    for (int32_t c = 0; c < order.channels; c += piece.channels) {
        piece = piece_of(b, &order, c);
        make_weights(b, c, piece.channels);
        seam_q8_update_float(b->s.w, velocity_of(b, 0), b->sums, &order, &piece, c, &rates, &noise);
    }
}

static void learn_weights(back_step *b) {
    const seam_window *p = &b->s.window;
    const int depthwise = b->s.layer.kind == SEAM_LAYER_DEPTHWISE;
    const seam_q8_order order = seam_q8_order_of(p, 1, depthwise);
    const seam_q8_rates rates = rates_of(b);
    const seam_q8_noise noise = noise_of(b, WEIGHTS);
    const size_t weights = (size_t)order.channels * (size_t)order.terms;
    const int32_t most = piece_of(b, &order, 0).channels;
    int8_t *v = velocity_of(b, 0);
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
            const seam_q8_order piece = piece_of(b, &order, c);
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
    const int64_t terms = seam_q8_weights_of(l) / (uint32_t)channels;
    seam_q8_bias_sums(b->sums, b->dy, channels, b->s.count / (size_t)channels);
    seam_q8_update_bias(b->s.b, velocity_of(b, 1), b->sums, channels, b->s.numbers.per_input,
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
    int8_t *dx = seam_q8_front_gradient(b->f, tensor);
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
    const seam_q8_numbers *n = &b->s.numbers;
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
        if (b->f->plan.momentum == SEAM_MOMENTUM_FLOAT)
            learn_weights_float(b);
        else
            learn_weights(b);
        if (b->s.b != NULL)
            learn_bias(b);
    }
}

static void open_back(back_step *b, const seam_q8_front *f, uint32_t index,
                      const seam_q8_step *step) {
    *b = (back_step){.f = f, .step = step, .index = index};
    seam_q8_front_step(&b->s, f, index);
    seam_layer planned;
    seam_plan_layer(&planned, &f->plan, index);
    const int joining = seam_q8_front_joins(&f->plan, &planned);
    const seam_q8_back_places places = seam_q8_front_places(&planned, joining);
    b->dy = seam_q8_front_gradient(f, planned.output);
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

void seam_q8_front_layer_back(const seam_q8_front *f, uint32_t index, const seam_q8_step *step) {
    back_step b;
    for (uint32_t k = seam_plan_again_from(&f->plan, index); k < index; k++)
        seam_q8_front_layer(f, k);
    open_back(&b, f, index, step);
    backward(&b);
}

void seam_q8_front_backward(seam_q8_front *front, uint32_t end, int32_t exponent,
                            const seam_q8_step *step) {
    front->gradient_exponents[end] = exponent;
    for (uint32_t i = end; i-- > 0;)
        seam_q8_front_layer_back(front, i, step);
    front->batch = 0; /* gradients now lie where the values were */
}
