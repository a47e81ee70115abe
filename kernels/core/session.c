/* The device's session: one state machine for Linux and firmware. Bytes in, an action out; it never
 * waits. */
#include "bytes.h"
#include "front_q8.h"

#include <string.h>

enum { STATE_HELLO, STATE_WELCOMED, STATE_MEMORY, STATE_READY, STATE_TRAIN, STATE_TEST };

#define H SEAM_MESSAGE_HEADER
#define PLAN_BODY 24u
#define STEP_BODY 12u
#define GRAD_BODY 8u
#define LOCAL_BODY 12u /* of a GRAD whose gradient the exit has */
#define EVAL_BODY 8u
#define EXIT_BODY 16u /* of an EVAL that the exit may answer */
#define UNSURE 0xFFFFu
#define WEIGHTS_BODY 8u
#define CODECS ((1u << SEAM_CODEC_KEPT) - 1u) /* all that are parcels by themselves */
#define LAYERS (0x3FEu | 1u << 31)            /* kinds 1..9; int8 fronts */
#define RATE_MAX 1048576.0f

/* ---- The front, of either arithmetic ---- */

static const seam_plan *plan_of(const seam_session *s) {
    return s->q8 ? &s->q8_front.plan : &s->front.plan;
}

static uint32_t batch_of(const seam_session *s) {
    return (uint32_t)(s->q8 ? s->q8_front.batch : s->front.batch);
}

/* Forward of n samples through layers `first` to end - 1. */
static void forward(seam_session *s, int32_t n, uint32_t first, uint32_t end) {
    if (s->q8)
        seam_q8_front_forward(&s->q8_front, n, first, end, s->state != STATE_TEST);
    else
        seam_front_forward(&s->front, n, first, end);
}

/* Of this request: how an int8 front learns from it. */
static seam_q8_step q8_step(const seam_session *s, uint32_t kind, uint32_t step) {
    return (seam_q8_step){.rate = s->rate,
                          .momentum = s->momentum,
                          .decay = s->decay,
                          .seed = seam_random(s->seed, s->round * 2654435761u + kind, step),
                          .mode = s->q8 - 1};
}

/* ---- Answers ---- */

static int answer(seam_session *s, uint8_t *bytes, uint8_t kind, uint32_t body_size) {
    seam_message m = {.kind = kind,
                      .flags = 0,
                      .session = s->number,
                      .round = s->round,
                      .step = s->step,
                      .body_size = body_size,
                      .body = NULL};
    seam_message_header(bytes, &m);
    s->answer = bytes;
    s->answer_size = H + body_size;
    return SEAM_DO_SEND;
}

static int error(seam_session *s, int status, uint8_t kind) {
    const char *text = seam_status_text(status);
    size_t size = strlen(text);
    uint8_t *body = s->small + H;
    seam_put16(body, (uint32_t)-status);
    body[2] = kind;
    body[3] = 0;
    seam_put16(body + 4, (uint32_t)size);
    memcpy(body + 6, text, size);
    s->answered = 0;
    s->act_open = 0;
    if (s->state > STATE_READY)
        s->state = STATE_READY;
    return answer(s, s->small, SEAM_ERROR, (uint32_t)(6u + size));
}

/* The header of the answer kept says how long it is. */
static int again(seam_session *s) {
    s->answer = s->kept;
    s->answer_size = H + seam_get32(s->kept + 20);
    return SEAM_DO_SEND;
}

static int is_finite(float x) {
    return x - x == 0.0f;
}

/* Something this front computed is not finite. The host gives it parameters again, but not its
 * momentum: if that is lost too, it starts from nothing, or the device would fail for ever. */
static int diverged(seam_session *s, int status) {
    const seam_front *f = &s->front;
    uint32_t i = 0;
    if (s->q8)
        return error(s, status, s->kind);
    while (i < f->plan.parameters && is_finite(f->momentum[i]))
        i++;
    if (status == SEAM_E_NOT_FINITE && i < f->plan.parameters)
        memset(f->momentum, 0, f->plan.parameters * sizeof(float));
    return error(s, status, s->kind);
}

static int answered(seam_session *s, uint8_t *bytes, uint8_t kind, uint32_t body_size) {
    s->answered = 1;
    s->state = STATE_READY;
    s->kept = bytes;
    return answer(s, bytes, kind, body_size);
}

static int ready(seam_session *s) {
    uint8_t *body = s->out + H;
    memset(body, 0, 12);
    seam_put32(body, plan_of(s)->arena_size);
    seam_put32(body + 4, s->facts.saved_round);
    body[8] = s->facts.has_checkpoint;
    if (!s->q8)
        return answered(s, s->out, SEAM_READY, 12);
    seam_put_float(body + 12, s->facts.least);
    seam_put_float(body + 16, s->facts.most);
    return answered(s, s->out, SEAM_READY, 20);
}

/* What was learned as raw bytes, then the least and the largest value of each tensor. */
static int64_t q8_weights(const seam_session *s, uint8_t *out, size_t space) {
    const seam_q8_front *f = &s->q8_front;
    const size_t extremes = 2u * (size_t)f->plan.tensors;
    int64_t size =
        seam_parcel_put(out, space, (const int8_t *)f->blob, 1.0f, 0, 1, &f->plan.parameters);
    if (size < 0 || (size_t)size + extremes > space)
        return size < 0 ? size : SEAM_E_SPACE;
    memcpy(out + size, f->extremes, extremes);
    return size + (int64_t)extremes;
}

static int weights(seam_session *s) {
    const int momentum = s->kind == SEAM_WEIGHTS_GET && (s->flags & SEAM_FLAG_MOMENTUM);
    const float *x = momentum ? s->front.momentum : s->front.parameters;
    uint8_t *body = s->all + H;
    uint32_t count = plan_of(s)->parameters;
    seam_put32(body, s->facts.training_samples);
    seam_put_float(body + 4, s->local_done ? s->loss_sum / (float)s->local_done : 0.0f);
    if (count == 0)
        return error(s, SEAM_E_SHAPE, s->kind);
    const size_t space = s->all_space - H - WEIGHTS_BODY;
    int64_t size = s->q8 ? q8_weights(s, body + WEIGHTS_BODY, space)
                         : seam_parcel_pack(body + WEIGHTS_BODY, space, x, SEAM_CODEC_F32,
                                            SEAM_ROUND_NEAREST, 0, 1, &count);
    if (size < 0)
        return diverged(s, (int)size);
    return answered(s, s->all, SEAM_WEIGHTS, WEIGHTS_BODY + (uint32_t)size);
}

/* A parcel of the first n samples of what crosses the seam. */
static int64_t pack_crossing(const seam_session *s, uint8_t *out, size_t space, uint8_t kind,
                             uint32_t n) {
    const seam_plan *plan = plan_of(s);
    seam_tensor t;
    seam_plan_tensor(&t, plan, plan->seam);
    const uint32_t shape[4] = {n, t.h, t.w, t.c};
    if (!s->q8)
        return seam_parcel_pack(
            out, space, seam_front_value(&s->front, plan->seam), s->codec_up, s->rounding,
            seam_random(s->seed, s->round * 2654435761u + kind, s->step), 4, shape);
    int32_t zero;
    const float scale = seam_q8_front_scale(&zero, &s->q8_front, plan->seam);
    return seam_parcel_put(out, space, seam_q8_front_value(&s->q8_front, plan->seam), scale, zero,
                           4, shape);
}

static int put_labels(const seam_session *s, uint8_t *to, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (s->labels[i] < 0 || s->labels[i] > 0xFFFF)
            return SEAM_E_DATA;
        seam_put16(to + 2 * i, (uint32_t)s->labels[i]);
    }
    return SEAM_OK;
}

/* Count, labels and what crosses the seam, packed: the body of ACT and of RESULT. */
static int activation(seam_session *s, uint8_t kind) {
    uint8_t *body = s->out + H;
    const uint32_t n = batch_of(s), head = 4 + 2 * n;
    seam_put16(body, n);
    seam_put16(body + 2, 0);
    if (put_labels(s, body + 4, n) != SEAM_OK)
        return error(s, SEAM_E_DATA, s->kind);
    const int64_t size = pack_crossing(s, body + head, s->out_space - H - head, kind, n);
    if (size < 0)
        return diverged(s, (int)size);
    return answered(s, s->out, kind, head + (uint32_t)size);
}

/* Does the exit answer sample i? Its class or UNSURE. */
static uint32_t exit_answer(const seam_session *s, uint32_t i) {
    const seam_plan *plan = plan_of(s);
    seam_tensor t;
    seam_plan_tensor(&t, plan, plan->output);
    const size_t at = (size_t)i * t.values;
    const int32_t best = s->q8 ? seam_q8_exit_answer(&s->q8_front, i, s->exit_inverse, s->exit_most)
                               : seam_exit_answer(seam_front_value(&s->front, plan->output) + at,
                                                  (int32_t)t.values, s->exit_inverse, s->exit_most);
    return best < 0 ? UNSURE : (uint32_t)best;
}

/* Of what crosses the seam: sample `from` becomes sample `to`. */
static void move_crossing(const seam_session *s, uint32_t to, uint32_t from) {
    const uint32_t seam = plan_of(s)->seam;
    seam_tensor t;
    seam_plan_tensor(&t, plan_of(s), seam);
    const size_t size = t.values * (s->q8 ? 1u : sizeof(float));
    uint8_t *all = s->q8 ? (uint8_t *)seam_q8_front_value(&s->q8_front, seam)
                         : (uint8_t *)seam_front_value(&s->front, seam);
    if (to != from)
        memcpy(all + to * size, all + from * size, size);
}

/* Count, how many are left to the host, labels, the exit's answers, and the activations of those
 * it is not sure of. */
static int exit_result(seam_session *s) {
    uint8_t *body = s->out + H;
    const uint32_t n = batch_of(s), head = 4 + 4 * n;
    uint32_t rest = 0;
    if (put_labels(s, body + 4, n) != SEAM_OK)
        return error(s, SEAM_E_DATA, s->kind);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t found = exit_answer(s, i);
        seam_put16(body + 4 + 2 * n + 2 * i, found);
        if (found == UNSURE)
            move_crossing(s, rest++, i);
    }
    seam_put16(body, n);
    seam_put16(body + 2, rest);
    const int64_t size =
        rest == 0 ? 0 : pack_crossing(s, body + head, s->out_space - H - head, SEAM_RESULT, rest);
    if (size < 0)
        return diverged(s, (int)size);
    return answered(s, s->out, SEAM_RESULT, head + (uint32_t)size);
}

/* ---- Requests ---- */

/* The parcel in `bytes` must hold exactly `values` floats, which go to x; a parcel is finite. */
static int take(float *x, size_t values, const uint8_t *bytes, size_t size) {
    seam_parcel parcel;
    int status = seam_parcel_parse(&parcel, bytes, size);
    if (status != SEAM_OK)
        return status;
    if (parcel.values != values || parcel.size != size)
        return SEAM_E_SHAPE;
    return seam_parcel_unpack(x, values, &parcel);
}

/* The int8 parcel in `bytes`, which holds exactly `values`. */
static int take_bytes(seam_parcel *parcel, size_t values, const uint8_t *bytes, size_t size) {
    int status = seam_parcel_parse(parcel, bytes, size);
    if (status != SEAM_OK)
        return status;
    if (parcel->codec != SEAM_CODEC_INT8)
        return SEAM_E_KIND;
    if (parcel->zero != 0)
        return SEAM_E_ARGUMENT;
    return parcel->values == values && parcel->size == size ? SEAM_OK : SEAM_E_SHAPE;
}

static int take_blob(seam_session *s, const uint8_t *bytes, size_t size) {
    seam_parcel parcel;
    int status = take_bytes(&parcel, plan_of(s)->blob_size, bytes, size);
    if (status != SEAM_OK)
        return status;
    if (parcel.scale != 1.0f)
        return SEAM_E_ARGUMENT;
    return seam_q8_front_set(&s->q8_front, parcel.payload, parcel.payload_size);
}

/* A gradient for an int8 front: a power of two is its scale, -128 is no value of one. */
static int take_gradient(seam_session *s, int32_t *exponent, const uint8_t *bytes, size_t size) {
    seam_tensor t;
    seam_parcel parcel;
    seam_plan_tensor(&t, plan_of(s), plan_of(s)->seam);
    int status = take_bytes(&parcel, (size_t)batch_of(s) * t.values, bytes, size);
    if (status != SEAM_OK)
        return status;
    uint32_t bits;
    memcpy(&bits, &parcel.scale, sizeof bits);
    if ((bits & 0x807FFFFFu) != 0 || bits >> 23 == 0)
        return SEAM_E_ARGUMENT;
    *exponent = (int32_t)(bits >> 23) - 127;
    for (size_t i = 0; i < parcel.payload_size; i++)
        if (parcel.payload[i] == 0x80u)
            return SEAM_E_ARGUMENT;
    memcpy(seam_q8_front_gradient(&s->q8_front, plan_of(s)->seam), parcel.payload,
           parcel.payload_size);
    return SEAM_OK;
}

static int take_weights(seam_session *s, const seam_message *m, uint32_t head) {
    const int momentum = m->kind == SEAM_WEIGHTS && (m->flags & SEAM_FLAG_MOMENTUM);
    float *x = momentum ? s->front.momentum : s->front.parameters;
    if (s->q8)
        return take_blob(s, m->body + head, m->body_size - head);
    return take(x, s->front.plan.parameters, m->body + head, m->body_size - head);
}

static int need(seam_session *s, uint8_t state, uint32_t first, uint32_t count) {
    s->state = state;
    s->need_first = first;
    s->need_count = count;
    return state == STATE_TEST ? SEAM_DO_TEST : SEAM_DO_TRAIN;
}

static int welcome(seam_session *s, const seam_message *m) {
    if (m->body_size < 4)
        return SEAM_E_SHORT;
    if (m->body[0] != SEAM_WIRE_VERSION)
        return SEAM_E_VERSION;
    s->number = m->session;
    s->state = STATE_WELCOMED;
    s->answered = s->act_open = s->has_trained = 0;
    s->act_step = 0;
    return SEAM_DO_NOTHING;
}

/* Bytes of the answers, and of the memory for them beside the arena: an int8 front's has room. */
static uint64_t size_answers(seam_session *s, const seam_plan *plan) {
    if (s->q8) {
        const seam_q8_room room = seam_q8_session_room(plan);
        s->out_space = (uint32_t)room.answer;
        s->all_space = (uint32_t)room.weights;
        return 0;
    }
    seam_tensor out;
    seam_plan_tensor(&out, plan, plan->seam);
    const uint32_t shape[4] = {plan->batch, out.h, out.w, out.c}, flat = plan->parameters;
    const uint32_t numbers = plan->seam < plan->layers ? 4u : 2u; /* labels, an exit's answers */
    const uint64_t act =
        4u + numbers * (uint64_t)plan->batch + seam_parcel_size(s->codec_up, 4, shape);
    const uint64_t all = WEIGHTS_BODY + (flat ? seam_parcel_size(SEAM_CODEC_F32, 1, &flat) : 0u);
    s->out_space = s->all_space = (uint32_t)(H + (act > all ? act : all) + 16u);
    return seam_round16(s->out_space);
}

/* Where the answers and samples go; next: behind the labels. */
static void place_answers(seam_session *s, const seam_plan *plan, uint8_t *arena, uint8_t *next) {
    if (s->q8) {
        const seam_q8_room room = seam_q8_session_room(plan);
        s->out = arena + plan->answer_offset;
        s->all = arena + seam_q8_base(plan);
        s->inputs = (float *)(void *)(arena + room.samples_at);
    } else {
        s->out = s->all = next;
        s->inputs = seam_front_input(&s->front);
    }
}

/* Of the first front, or of another one between two rounds: the one before it is gone. */
static int plan(seam_session *s, const seam_message *m) {
    seam_plan opened;
    s->state = STATE_WELCOMED;
    s->round = m->round;
    s->step = m->step;
    s->answered = s->act_open = 0;
    if (m->body_size < PLAN_BODY)
        return error(s, SEAM_E_SHORT, m->kind);
    const uint8_t *b = m->body;
    s->seed = seam_get32(b);
    s->batch = seam_get16(b + 4);
    s->codec_up = b[6];
    s->rounding = b[8];
    const uint8_t q8_rounding = b[9];
    s->momentum = seam_get_float(b + 12);
    s->decay = seam_get_float(b + 16);
    s->plan_size = seam_get32(b + 20);
    if (s->plan_size != m->body_size - PLAN_BODY)
        return error(s, SEAM_E_SHORT, m->kind);
    if (s->codec_up >= SEAM_CODEC_KEPT || s->rounding > SEAM_ROUND_STOCHASTIC ||
        q8_rounding > SEAM_ROUND_TRUNCATE)
        return error(s, SEAM_E_KIND, m->kind);
    if (!is_finite(s->momentum) || !is_finite(s->decay))
        return error(s, SEAM_E_NOT_FINITE, m->kind);
    int status = seam_plan_open(&opened, b + PLAN_BODY, s->plan_size);
    if (status == SEAM_OK && (s->batch == 0 || s->batch > opened.batch))
        status = SEAM_E_LIMIT;
    s->q8 = status == SEAM_OK && opened.dtype == SEAM_DTYPE_Q8 ? (uint8_t)(q8_rounding + 1u) : 0u;
    if (s->q8 && (s->codec_up != SEAM_CODEC_INT8 || opened.inference))
        status = SEAM_E_KIND;
    if (s->q8 &&
        !(s->momentum >= 0.0f && s->momentum < 1.0f && s->decay >= 0.0f && s->decay < RATE_MAX))
        status = SEAM_E_ARGUMENT;
    if (status != SEAM_OK)
        return error(s, status, m->kind);
    s->need_bytes = seam_round16(opened.arena_size) + seam_round16(s->plan_size) +
                    seam_round16((uint64_t)opened.batch * 4u) + size_answers(s, &opened);
    s->pending_plan = b + PLAN_BODY;
    s->state = STATE_MEMORY;
    return SEAM_DO_MEMORY;
}

int seam_session_memory(seam_session *s, void *memory) {
    if (s->state != STATE_MEMORY)
        return SEAM_E_STATE;
    s->state = STATE_WELCOMED;
    s->front_plan_size = 0; /* if there is a front there, it is written over */
    if (memory == NULL)
        return error(s, SEAM_E_MEMORY, SEAM_PLAN);
    seam_plan opened;
    uint8_t *next = memory;
    int status = seam_plan_open(&opened, s->pending_plan, s->plan_size);
    if (status != SEAM_OK)
        return status;
    uint8_t *arena = next;
    next += seam_round16(opened.arena_size);
    memcpy(next, s->pending_plan, s->plan_size);
    opened.bytes = next;
    next += seam_round16(s->plan_size);
    s->labels = (int32_t *)(void *)next;
    next += seam_round16((uint64_t)opened.batch * 4u);
    status = s->q8 ? seam_q8_front_init(&s->q8_front, &opened, arena, opened.arena_size)
                   : seam_front_init(&s->front, &opened, arena, opened.arena_size);
    if (status != SEAM_OK)
        return status;
    place_answers(s, &opened, arena, next);
    s->front_plan_size = s->plan_size;
    s->front_q8 = s->q8 != 0;
    s->local_done = 0;
    s->kind = SEAM_PLAN;
    return ready(s);
}

/* Would it be of use to go on with it? One that diverged must not stay. */
static int is_front_finite(const seam_session *s) {
    for (uint32_t i = 0; !s->q8 && i < s->front.plan.parameters; i++)
        if (!is_finite(s->front.parameters[i]) || !is_finite(s->front.momentum[i]))
            return 0;
    return 1;
}

int seam_session_go_on(seam_session *s) {
    const int same = s->front_plan_size == s->plan_size && s->front_q8 == (s->q8 != 0);
    if (s->state != STATE_MEMORY || !same || s->trained_round == 0 ||
        memcmp(plan_of(s)->bytes, s->pending_plan, s->plan_size) != 0 || !is_front_finite(s))
        return SEAM_E_STATE;
    if (s->q8)
        seam_q8_front_forget(&s->q8_front);
    s->state = STATE_WELCOMED;
    s->facts.has_checkpoint = 1;
    s->facts.saved_round = s->trained_round;
    s->local_done = 0;
    s->kind = SEAM_PLAN;
    return ready(s);
}

void seam_session_forget_momentum(seam_session *s) {
    const seam_q8_front *f = &s->q8_front;
    if (!s->q8) {
        memset(s->front.momentum, 0, s->front.plan.parameters * sizeof(float));
        return;
    }
    if (f->velocity != NULL)
        memset(f->velocity, 0, f->plan.velocity_size);
    memset(f->velocity_exponents, 0, f->plan.layers * sizeof(int32_t));
}

void seam_session_kept(seam_session *s, seam_part parts[SEAM_KEPT_PARTS]) {
    const uint32_t floats = (uint32_t)sizeof(float) * s->front.plan.parameters;
    const seam_q8_front *q8 = &s->q8_front;
    const uint32_t exponents = (uint32_t)sizeof(int32_t) * q8->plan.layers;
    parts[SEAM_KEPT_SEED] = (seam_part){&s->seed, sizeof s->seed};
    parts[SEAM_KEPT_PLAN] = (seam_part){(void *)(uintptr_t)plan_of(s)->bytes, s->plan_size};
    parts[SEAM_KEPT_MOMENTUM] =
        s->q8 ? (seam_part){q8->velocity, q8->velocity == NULL ? 0u : q8->plan.velocity_size}
              : (seam_part){s->front.momentum, floats};
    parts[SEAM_KEPT_REST] = s->q8 ? (seam_part){q8->velocity_exponents, exponents}
                                  : (seam_part){s->front.parameters, floats};
}

static int is_rate(const seam_session *s) {
    return s->q8 ? s->rate >= 0.0f && s->rate < RATE_MAX : is_finite(s->rate);
}

static int train_step(seam_session *s, const seam_message *m) {
    if (m->body_size < STEP_BODY)
        return error(s, SEAM_E_SHORT, m->kind);
    s->rate = seam_get_float(m->body);
    s->next_batch = seam_get32(m->body + 4);
    s->local_left = m->flags & SEAM_FLAG_LOCAL ? seam_get16(m->body + 8) : 0u;
    s->local_done = 0;
    s->loss_sum = 0.0f;
    s->act_open = 0;
    s->act_step = 0;
    if (!is_rate(s))
        return error(s, SEAM_E_NOT_FINITE, m->kind);
    if (m->flags & SEAM_FLAG_WEIGHTS) {
        int status = take_weights(s, m, STEP_BODY);
        if (status != SEAM_OK)
            return error(s, status, m->kind);
    }
    if ((m->flags & SEAM_FLAG_LOCAL) && s->local_left == 0)
        return error(s, SEAM_E_ARGUMENT, m->kind);
    s->trained_round = m->round;
    s->has_trained = 1;
    return need(s, STATE_TRAIN, s->next_batch, s->batch);
}

/* The gradient in a GRAD, applied. */
static int learn(seam_session *s, const seam_message *m) {
    const uint32_t seam = s->front.plan.seam;
    seam_tensor t;
    seam_plan_tensor(&t, &s->front.plan, seam);
    int status = take(seam_front_gradient(&s->front, seam), (size_t)s->front.batch * t.values,
                      m->body + GRAD_BODY, m->body_size - GRAD_BODY);
    if (status == SEAM_OK) {
        seam_front_backward(&s->front, seam);
        seam_front_update(&s->front, seam, s->rate, s->momentum, s->decay);
    }
    return status;
}

static int learn_q8(seam_session *s, const seam_message *m) {
    int32_t exponent = 0;
    const seam_q8_step step = q8_step(s, SEAM_GRAD, s->step);
    int status = take_gradient(s, &exponent, m->body + GRAD_BODY, m->body_size - GRAD_BODY);
    if (status == SEAM_OK)
        seam_q8_front_backward(&s->q8_front, plan_of(s)->seam, exponent, &step);
    return status;
}

/* The loss of the last forward, and with `train` a step of it. */
static int local_loss(seam_session *s, float *loss, uint32_t *correct, int train) {
    const seam_q8_step step = q8_step(s, SEAM_STEP, s->local_done);
    const uint32_t layers = plan_of(s)->layers;
    int32_t exponent = 0;
    int status = s->q8
                     ? seam_q8_front_loss(&s->q8_front, loss, correct, &exponent, s->labels, &step)
                     : seam_front_loss(&s->front, loss, correct, s->labels);
    if (status != SEAM_OK || !train)
        return status;
    if (s->q8) {
        seam_q8_front_backward(&s->q8_front, layers, exponent, &step);
    } else {
        seam_front_backward(&s->front, layers);
        seam_front_update(&s->front, layers, s->rate, s->momentum, s->decay);
    }
    return SEAM_OK;
}

/* A step of the batch at hand by the device's own loss. */
static int local_step(seam_session *s) {
    float loss;
    uint32_t correct;
    int status = local_loss(s, &loss, &correct, 1);
    if (status == SEAM_OK) {
        s->loss_sum += loss / (float)s->batch;
        s->local_done++;
        s->next_batch++;
    }
    return status;
}

/* The batch whose activation is out learns from the exit behind it. */
static int learn_local(seam_session *s, const seam_message *m) {
    const seam_plan *plan = plan_of(s);
    if (m->body_size < LOCAL_BODY)
        return SEAM_E_SHORT;
    s->local_left = seam_get16(m->body + GRAD_BODY);
    forward(s, (int32_t)batch_of(s), plan->seam, plan->layers);
    return local_step(s);
}

static int round_ended(seam_session *s) {
    return s->flags & SEAM_FLAG_PERSONAL ? ready(s) : weights(s);
}

static int train_gradient(seam_session *s, const seam_message *m) {
    const int local = m->flags & SEAM_FLAG_LOCAL;
    if (m->body_size < GRAD_BODY)
        return error(s, SEAM_E_SHORT, m->kind);
    s->rate = seam_get_float(m->body);
    if (!is_rate(s))
        return error(s, SEAM_E_NOT_FINITE, m->kind);
    if (local || !(m->flags & SEAM_FLAG_FROZEN)) {
        int status = local ? learn_local(s, m) : s->q8 ? learn_q8(s, m) : learn(s, m);
        if (status != SEAM_OK)
            return local ? diverged(s, status) : error(s, status, m->kind);
    }
    s->act_open = 0;
    s->act_step++; /* applied: when it comes again it is old */
    if (!local) {
        s->loss_sum = seam_get_float(m->body + 4);
        s->local_done = 1;
        s->next_batch++;
    }
    if ((m->flags & SEAM_FLAG_LAST) && (!local || s->local_left == 0))
        return round_ended(s);
    return need(s, STATE_TRAIN, s->next_batch, s->batch);
}

static int evaluate(seam_session *s, const seam_message *m) {
    const uint32_t head = m->flags & SEAM_FLAG_EXIT ? EXIT_BODY : EVAL_BODY;
    if (m->body_size < head)
        return error(s, SEAM_E_SHORT, m->kind);
    if (m->flags & SEAM_FLAG_EXIT) {
        s->exit_inverse = seam_get_float(m->body + EVAL_BODY);
        s->exit_most = seam_get_float(m->body + EVAL_BODY + 4);
        if (!(s->exit_inverse > 0.0f) || !is_finite(s->exit_inverse) || !is_finite(s->exit_most))
            return error(s, SEAM_E_ARGUMENT, m->kind);
        if (plan_of(s)->seam == plan_of(s)->layers)
            return error(s, SEAM_E_STATE, m->kind);
    }
    uint32_t first = seam_get32(m->body), count = seam_get16(m->body + 4);
    if (count == 0 || count > plan_of(s)->batch || first >= s->facts.test_samples ||
        count > s->facts.test_samples - first)
        return error(s, SEAM_E_ARGUMENT, m->kind);
    if (m->flags & SEAM_FLAG_WEIGHTS) {
        int status = take_weights(s, m, head);
        if (status != SEAM_OK)
            return error(s, status, m->kind);
    }
    return need(s, STATE_TEST, first, count);
}

static int set_weights(seam_session *s, const seam_message *m) {
    int status = SEAM_E_KIND; /* an int8 front's momentum has its own scales: it stays here */
    if (!(s->q8 && (m->flags & SEAM_FLAG_MOMENTUM)))
        status = m->body_size < WEIGHTS_BODY ? SEAM_E_SHORT : take_weights(s, m, WEIGHTS_BODY);
    return status == SEAM_OK ? ready(s) : error(s, status, m->kind);
}

/* A request in a ready session: repeated, old, out of turn, or new work. */
static int request(seam_session *s, const seam_message *m) {
    int training = m->kind == SEAM_STEP || m->kind == SEAM_GRAD;
    if (training && m->kind == s->kind && m->round == s->round && m->step == s->step) {
        if (s->answered)
            return again(s);
        if (s->state != STATE_READY)
            return SEAM_DO_NOTHING; /* in work */
    }
    if (s->state != STATE_READY)
        return error(s, SEAM_E_STATE, m->kind);
    if (training && s->has_trained &&
        (m->round < s->trained_round || m->round < s->round ||
         (m->kind == SEAM_STEP && m->round == s->trained_round)))
        return SEAM_DO_NOTHING; /* older than what was applied */
    if (m->kind == SEAM_GRAD) {
        if (m->round == s->trained_round && m->step < s->act_step)
            return SEAM_DO_NOTHING;
        if (!s->act_open || m->round != s->trained_round || m->step != s->act_step)
            return error(s, SEAM_E_STATE, m->kind);
    }
    s->kind = m->kind;
    s->flags = m->flags;
    s->round = m->round;
    s->step = m->step;
    s->answered = 0;
    switch (m->kind) {
    case SEAM_STEP:
        return train_step(s, m);
    case SEAM_GRAD:
        return train_gradient(s, m);
    case SEAM_EVAL:
        s->act_open = 0;
        return evaluate(s, m);
    case SEAM_WEIGHTS:
        s->act_open = 0;
        return set_weights(s, m);
    case SEAM_WEIGHTS_GET:
        s->act_open = 0; /* in int8 the weights go where activations are */
        s->local_done = 0;
        if (s->q8 && (m->flags & SEAM_FLAG_MOMENTUM))
            return error(s, SEAM_E_KIND, m->kind);
        return weights(s);
    default:
        return error(s, SEAM_E_KIND, m->kind);
    }
}

static int probe(seam_session *s, const seam_message *m) {
    int large = m->body_size > sizeof s->small - H;
    const int busy = s->q8 ? s->state != STATE_READY : s->state < STATE_READY;
    if (large && (busy || m->body_size > s->out_space - H))
        return error(s, SEAM_E_SPACE, m->kind);
    uint8_t *bytes = large ? s->out : s->small;
    memcpy(bytes + H, m->body, m->body_size);
    if (large)
        s->answered = 0; /* the answer kept was in this buffer */
    seam_message echo = *m;
    echo.kind = SEAM_PROBE_ECHO;
    echo.flags = 0;
    seam_message_header(bytes, &echo);
    s->answer = bytes;
    s->answer_size = H + m->body_size;
    return SEAM_DO_SEND;
}

/* READY may be lost; once there is work, it cannot be. */
static int plan_again(seam_session *s, const seam_message *m) {
    const int last = s->kind == SEAM_PLAN && s->answered && m->round == s->round;
    return last ? again(s) : SEAM_DO_NOTHING;
}

static int failed(seam_session *s, const seam_message *m) {
    if (m->body_size < 6)
        return SEAM_E_SHORT;
    uint32_t size = seam_get16(m->body + 4);
    if (size > m->body_size - 6 || size > SEAM_TEXT_MAX)
        return SEAM_E_LIMIT;
    s->failed_code = seam_get16(m->body);
    s->failed_size = (uint16_t)size;
    s->failed_text = m->body + 6;
    return SEAM_DO_FAIL;
}

int seam_session_receive(seam_session *s, const uint8_t *bytes, size_t size) {
    seam_message m;
    int status = seam_message_parse(&m, bytes, size);
    if (status != SEAM_OK)
        return status;
    if (m.kind == SEAM_ERROR)
        return failed(s, &m);
    if (m.kind == SEAM_WELCOME)
        return s->state == STATE_HELLO ? welcome(s, &m) : SEAM_DO_NOTHING;
    if (s->state == STATE_HELLO || m.session != s->number)
        return SEAM_E_SESSION;
    if (m.kind == SEAM_BYE)
        return SEAM_DO_END;
    if (m.kind == SEAM_PROBE)
        return probe(s, &m);
    if (m.kind == SEAM_PLAN)
        return s->state == STATE_WELCOMED || (s->state == STATE_READY && m.round > s->round)
                   ? plan(s, &m)
                   : plan_again(s, &m);
    if (s->state < STATE_READY)
        return error(s, SEAM_E_STATE, m.kind);
    return request(s, &m);
}

/* ---- The batch is there ---- */

static int batch_local(seam_session *s) {
    const int status = local_step(s);
    if (status != SEAM_OK)
        return diverged(s, status);
    s->local_left--;
    if (s->local_left == 0 && (s->kind == SEAM_STEP || (s->flags & SEAM_FLAG_LAST)))
        return round_ended(s);
    return need(s, STATE_TRAIN, s->next_batch, s->batch);
}

static int batch_train(seam_session *s) {
    if (s->local_left > 0)
        return batch_local(s);
    /* A gradient asks for the next step; the request keeps its own, by which a repeat is known. */
    uint32_t asked = s->step;
    s->act_step = s->kind == SEAM_GRAD ? asked + 1 : asked;
    s->step = s->act_step;
    int action = activation(s, SEAM_ACT);
    s->step = asked;
    s->act_open = s->answered;
    return action;
}

static int batch_test(seam_session *s) {
    if (s->flags & SEAM_FLAG_EXIT)
        return exit_result(s);
    if (!(s->flags & SEAM_FLAG_LOCAL))
        return activation(s, SEAM_RESULT);
    float loss;
    uint32_t correct;
    int status = local_loss(s, &loss, &correct, 0);
    if (status != SEAM_OK)
        return diverged(s, status);
    uint8_t *body = s->out + H;
    seam_put32(body, correct);
    seam_put32(body + 4, batch_of(s));
    seam_put_float(body + 8, loss);
    return answered(s, s->out, SEAM_RESULT, 12);
}

int seam_session_batch(seam_session *s) {
    if (s->state != STATE_TRAIN && s->state != STATE_TEST)
        return SEAM_E_STATE;
    const int32_t n = (int32_t)s->need_count;
    const seam_plan *plan = plan_of(s);
    const int whole =
        s->state == STATE_TRAIN ? s->local_left > 0 : s->flags & (SEAM_FLAG_LOCAL | SEAM_FLAG_EXIT);
    const int status = s->q8 ? seam_q8_front_quantise(&s->q8_front, s->inputs, n) : SEAM_OK;
    if (status != SEAM_OK)
        return error(s, status, s->kind);
    forward(s, n, 0, whole ? plan->layers : plan->seam);
    return s->state == STATE_TRAIN ? batch_train(s) : batch_test(s);
}

int seam_session_refuse(seam_session *s, int status) {
    if (status >= 0)
        return SEAM_E_ARGUMENT;
    return error(s, status, s->kind);
}

/* ---- Beginning ---- */

void seam_session_init(seam_session *s, const seam_device_facts *facts) {
    memset(s, 0, sizeof *s);
    s->facts = *facts;
}

void seam_session_hello(seam_session *s) {
    uint8_t *b = s->small + H;
    const seam_device_facts *f = &s->facts;
    s->state = STATE_HELLO;
    s->number = s->round = s->step = 0;
    s->kind = s->answered = s->act_open = s->has_trained = 0;
    b[0] = b[1] = SEAM_WIRE_VERSION;
    seam_put16(b + 2, SEAM_ARITHMETIC_VERSION);
    memcpy(b + 4, f->boot_id, 8);
    seam_put32(b + 12, f->ram);
    seam_put32(b + 16, f->flash);
    seam_put32(b + 20, CODECS);
    seam_put32(b + 24, LAYERS);
    seam_put32(b + 28, f->training_samples);
    seam_put32(b + 32, f->test_samples);
    b[36] = f->id_size;
    memcpy(b + 37, f->id, f->id_size);
    (void)answer(s, s->small, SEAM_HELLO, 37u + f->id_size);
}
