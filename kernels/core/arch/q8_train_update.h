/* The update of int8 weights in vectors, written once: compilers mix bytes with 64-bit products
 * badly. A variant defines vec, LANES and the v_ functions, and includes q8_train_loops.h for what
 * is left at the end of a row. */

#define RANDOM(x, bits, factor) v_mul(v_xor(x, v_right(x, bits)), v_all((int32_t)(factor)))

/* seam_mix of each lane. */
static inline vec v_mix(vec h) {
    h = RANDOM(h, 16, 0x7FEB352Du);
    h = RANDOM(h, 15, 0x846CA68Bu);
    return v_xor(h, v_right(h, 16));
}

/* `shifted` with a shift a lane. */
typedef struct {
    vec half, left;
    vec down; /* all bits where the shift is to the right */
} shift_plan;

static inline shift_plan shift_of(vec bits) {
    const vec none = v_all(0);
    return (shift_plan){.half = v_max(v_sub(bits, v_all(1)), none),
                        .left = v_min(v_max(v_sub(none, bits), none), v_all(31)),
                        .down = v_above(bits, none)};
}

/* a / 2 rounded up is a - floor(a / 2), which no a overflows; where all is shifted out, 0 or -1 is
 * left of it before that, and 0 behind. */
static inline vec v_shifted(vec a, const shift_plan *s) {
    const vec twice = v_rights(a, s->half);
    const vec down = v_sub(twice, v_and(v_right_signed(twice, 1), s->down));
    return v_lefts(down, s->left);
}

typedef struct {
    vec up, keep, pull, speed;
    shift_plan keep_shift, pull_shift, speed_shift;
} motion_plan;

static inline motion_plan motion_plan_of(const seam_q8_motion *m) {
    return (motion_plan){.up = v_all(m->up),
                         .keep = v_all(m->keep),
                         .pull = v_all(m->pull),
                         .speed = v_all(m->speed),
                         .keep_shift = shift_of(v_all(m->keep_shift)),
                         .pull_shift = shift_of(v_all(m->pull_shift)),
                         .speed_shift = shift_of(v_all(m->speed_shift))};
}

/* LANES weights, rounded at random, with or without velocities (moving) and decay (pulled). */
FIXED void update_lanes(const int moving, const int pulled, int8_t *w, int8_t *v, vec dw, vec step,
                        const shift_plan *shift, vec counter, const motion_plan *m) {
    const vec old = v_bytes(w), random = v_mix(counter);
    vec velocity = v_shifted(v_multiply(v_lefts(dw, m->up), step, 31), shift);
    if (moving)
        velocity = v_add(velocity, v_shifted(v_mul(v_bytes(v), m->keep), &m->keep_shift));
    if (pulled)
        velocity = v_add(velocity, v_shifted(v_multiply(old, m->pull, 31 - 23), &m->pull_shift));
    const vec moved = v_shifted(v_multiply(v_left(velocity, 7), m->speed, 31), &m->speed_shift);
    const vec change = v_right_signed(v_add(moved, v_right(random, 16)), FRACTION);
    v_within_store(w, v_sub(old, change));
    if (moving)
        v_within_store(v, v_right_signed(v_add(velocity, v_and(random, v_all(0xFFFF))), FRACTION));
}

/* each: steps and shifts of each sum by itself. Returns how many are done. */
FIXED int32_t update_runs(const int moving, const int pulled, const int each, int8_t *w, int8_t *v,
                          const int32_t *dw, const int32_t *steps, const int32_t *shifts,
                          uint32_t first, int32_t count, const seam_q8_motion *motion) {
    const motion_plan m = motion_plan_of(motion);
    const vec next = v_all((int32_t)(LANES * SEAM_RANDOM_STEP));
    vec counter = v_add(v_all((int32_t)(motion->key + first * SEAM_RANDOM_STEP)),
                        v_mul(v_count(), v_all((int32_t)SEAM_RANDOM_STEP)));
    vec factor = v_all(*steps);
    shift_plan shift = shift_of(v_all(*shifts));
    int32_t i = 0;
    for (; i + LANES <= count; i += LANES, counter = v_add(counter, next)) {
        if (each) {
            factor = v_load_all(steps + i);
            shift = shift_of(v_load_all(shifts + i));
        }
        update_lanes(moving, pulled, w + i, moving ? v + i : NULL, v_load_all(dw + i), factor,
                     &shift, counter, &m);
    }
    return i;
}

static void update_vectors(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                           const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                           const seam_q8_motion *motion) {
    const int pulled = motion->pull != 0;
    int32_t i = 0;
#define RUNS(moving, pulled, each) \
    update_runs(moving, pulled, each, w, v, dw, steps, shifts, first, count, motion)
    if (motion->mode == SEAM_ROUND_STOCHASTIC && v != NULL && step)
        i = pulled ? RUNS(1, 1, 1) : RUNS(1, 0, 1);
    else if (motion->mode == SEAM_ROUND_STOCHASTIC && v != NULL)
        i = pulled ? RUNS(1, 1, 0) : RUNS(1, 0, 0);
    else if (motion->mode == SEAM_ROUND_STOCHASTIC && step)
        i = RUNS(0, 1, 1);
    else if (motion->mode == SEAM_ROUND_STOCHASTIC)
        i = RUNS(0, 1, 0);
#undef RUNS
    if (i < count)
        update(w + i, v != NULL ? v + i : NULL, dw + i, steps + i * step, shifts + i * step, step,
               first + (uint32_t)i, count - i, motion);
}
