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
    vec right, half, left, kept; /* kept: 0 where all is shifted out */
    vec down;                    /* all bits where the shift is to the right */
} shift_plan;

static inline shift_plan shift_of(vec bits) {
    const vec none = v_all(0), one = v_all(1), most = v_all(31);
    shift_plan s = {.right = v_min(v_max(bits, one), most)};
    s.half = v_sub(s.right, one);
    s.left = v_min(v_max(v_sub(none, bits), none), most);
    s.kept = v_above(v_all(32), bits);
    s.down = v_above(bits, none);
    return s;
}

static inline vec v_shifted(vec a, const shift_plan *s) {
    const vec down = v_add(v_rights(a, s->right), v_and(v_rights(a, s->half), v_all(1)));
    return v_pick(s->down, v_and(down, s->kept), v_lefts(a, s->left));
}

static inline vec v_within_most(vec x) {
    return v_min(v_max(x, v_all(-SEAM_Q8_MOST)), v_all(SEAM_Q8_MOST));
}

typedef struct {
    vec up, keep, pull, speed, key;
    shift_plan keep_shift, pull_shift, speed_shift;
} motion_plan;

static inline motion_plan motion_plan_of(const seam_q8_motion *m) {
    return (motion_plan){.up = v_all(m->up),
                         .keep = v_all(m->keep),
                         .pull = v_all(m->pull),
                         .speed = v_all(m->speed),
                         .key = v_all((int32_t)m->key),
                         .keep_shift = shift_of(v_all(m->keep_shift)),
                         .pull_shift = shift_of(v_all(m->pull_shift)),
                         .speed_shift = shift_of(v_all(m->speed_shift))};
}

/* LANES weights with velocities, rounded at random. */
static inline void update_lanes(int8_t *w, int8_t *v, vec dw, vec step, const shift_plan *shift,
                                uint32_t index, const motion_plan *m) {
    const vec old = v_bytes(w), from = v_mul(v_add(v_all((int32_t)index), v_count()),
                                             v_all((int32_t)SEAM_RANDOM_STEP));
    const vec random = v_mix(v_add(m->key, from));
    vec velocity = v_shifted(v_multiply(v_lefts(dw, m->up), step), shift);
    velocity = v_add(velocity, v_shifted(v_mul(v_bytes(v), m->keep), &m->keep_shift));
    velocity = v_add(velocity, v_shifted(v_multiply(v_left(old, 23), m->pull), &m->pull_shift));
    const vec moved = v_shifted(v_multiply(v_left(velocity, 7), m->speed), &m->speed_shift);
    const vec change = v_right_signed(v_add(moved, v_right(random, 16)), FRACTION);
    const vec low = v_and(random, v_all(0xFFFF));
    v_bytes_store(w, v_within_most(v_sub(old, change)));
    v_bytes_store(v, v_within_most(v_right_signed(v_add(velocity, low), FRACTION)));
}

static void update_vectors(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                           const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                           const seam_q8_motion *motion) {
    int32_t i = 0;
    if (motion->mode == SEAM_ROUND_STOCHASTIC && v != NULL) {
        const motion_plan m = motion_plan_of(motion);
        vec factor = v_all(*steps);
        shift_plan shift = shift_of(v_all(*shifts));
        for (; i + LANES <= count; i += LANES) {
            if (step) {
                factor = v_load_all(steps + i);
                shift = shift_of(v_load_all(shifts + i));
            }
            update_lanes(w + i, v + i, v_load_all(dw + i), factor, &shift, first + (uint32_t)i, &m);
        }
    }
    if (i < count)
        update(w + i, v != NULL ? v + i : NULL, dw + i, steps + i * step, shifts + i * step, step,
               first + (uint32_t)i, count - i, motion);
}
