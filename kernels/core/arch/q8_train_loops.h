/* The loops of int8 training over single elements, written once; a variant includes this and the
 * compiler makes vectors of them. */
#include "../q8_requant.h"
#include "../round.h"
#include "q8_train.h"

#define FRACTION 16  /* bits behind the point in an update */
#define TAP_BLOCK 16 /* channels of a depthwise layer at a time */
#define FLAT 64      /* elements of a group of pixels of few channels */

/* Pairs of a[i] - zero and b[i] - zero; b may be NULL: then the second ones are 0. */
static void pairs(int32_t *to, const int8_t *a, const int8_t *b, int32_t zero, int32_t count) {
    for (int32_t i = 0; b == NULL && i < count; i++)
        to[i] = seam_pair(a[i] - zero, 0);
    for (int32_t i = 0; b != NULL && i < count; i++)
        to[i] = seam_pair(a[i] - zero, b[i] - zero);
}

/* round(a / 2^bits), ties up; bits of 1 to 31. */
static inline int32_t half_up(int32_t a, int32_t bits) {
    return (a >> bits) + ((a >> (bits - 1)) & 1);
}

/* The same for any bits: left if negative, 0 above 31. */
static inline int32_t shifted(int32_t a, int32_t bits) {
    const int32_t right = bits < 1 ? 1 : bits > 31 ? 31 : bits;
    const int32_t left = bits > 0 ? 0 : bits < -31 ? 31 : -bits;
    const int32_t down = bits > 31 ? 0 : half_up(a, right);
    return bits > 0 ? down : (int32_t)((uint32_t)a << left);
}

/* a / 2^bits to a whole number. random: as many bits; truncation adds what moves a negative value
 * up to the next whole number. */
static inline int32_t round_off(int32_t a, int32_t bits, int32_t random, int mode) {
    const int32_t up = (a >> 31) & (int32_t)((1u << bits) - 1u);
    return (a + (mode == SEAM_ROUND_TRUNCATE ? up : random)) >> bits;
}

static inline uint32_t random_at(uint32_t key, uint32_t index, int mode) {
    const uint32_t random = seam_mix(key + index * SEAM_RANDOM_STEP);
    return mode == SEAM_ROUND_STOCHASTIC ? random : 1u << 31;
}

static inline int8_t within_most(int32_t value) {
    return seam_q8_clamp(value, -SEAM_Q8_MOST, SEAM_Q8_MOST);
}

static inline void weigh_all(int8_t *out, const int8_t *dy, const uint16_t *ratios,
                             int32_t channels, size_t pixels, uint32_t key, int mode) {
    uint32_t index = 0;
    for (size_t p = 0; p < pixels; p++, out += channels, dy += channels)
        for (int32_t c = 0; c < channels; c++, index++) {
            const uint32_t random = random_at(key, index, mode) >> 17;
            out[c] = (int8_t)round_off(dy[c] * ratios[c], 15, (int32_t)random, mode);
        }
}

/* Pixels of so few channels that a group of them side by side, which reads its factors again for
 * each pixel, fills vectors better than one; 1 if there are none. */
static inline int32_t group_of(int32_t channels, int32_t most) {
    return channels > 0 && channels <= most / 2 ? most / channels : 1;
}

static inline void weigh_pixels(int8_t *out, const int8_t *dy, const uint16_t *ratios,
                                int32_t channels, size_t pixels, uint32_t key, int mode) {
    if (mode == SEAM_ROUND_STOCHASTIC)
        weigh_all(out, dy, ratios, channels, pixels, key, SEAM_ROUND_STOCHASTIC);
    else
        weigh_all(out, dy, ratios, channels, pixels, key, mode);
}

static void weigh(int8_t *out, const int8_t *dy, const uint16_t *ratios, int32_t channels,
                  size_t pixels, uint32_t key, int mode) {
    const int32_t group = group_of(channels, FLAT), width = group * channels;
    const size_t groups = pixels / (size_t)group, done = groups * (size_t)width;
    if (group > 1) {
        uint16_t again[FLAT];
        for (int32_t i = 0; i < width; i++)
            again[i] = ratios[i % channels];
        if (width == FLAT)
            weigh_pixels(out, dy, again, FLAT, groups, key, mode);
        else
            weigh_pixels(out, dy, again, width, groups, key, mode);
        out += done, dy += done, pixels -= groups * (size_t)group;
        key += (uint32_t)done * SEAM_RANDOM_STEP;
    }
    weigh_pixels(out, dy, ratios, channels, pixels, key, mode);
}

static inline void bias_of(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels) {
    for (size_t p = 0; p < pixels; p++, dy += channels)
        for (int32_t c = 0; c < channels; c++)
            sums[c] += dy[c];
}

/* sums[c] += dy of each pixel. */
static void bias(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels) {
    const int32_t group = group_of(channels, FLAT), width = group * channels;
    const size_t groups = pixels / (size_t)group;
    if (group > 1) {
        int32_t wide[FLAT] = {0};
        if (width == FLAT)
            bias_of(wide, dy, FLAT, groups);
        else
            bias_of(wide, dy, width, groups);
        for (int32_t i = 0; i < width; i++)
            sums[i % channels] += wide[i];
        dy += groups * (size_t)width, pixels -= groups * (size_t)group;
    }
    bias_of(sums, dy, channels, pixels);
}

static uint32_t peak(const int32_t *sums, size_t count) {
    int32_t most = 0, least = 0;
    for (size_t i = 0; i < count; i++) {
        most = sums[i] > most ? sums[i] : most;
        least = sums[i] < least ? sums[i] : least;
    }
    const uint32_t below = 0u - (uint32_t)least;
    return (uint32_t)most > below ? (uint32_t)most : below;
}

static inline void settle_all(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits,
                              uint32_t key, uint32_t first, size_t count, int mode) {
    for (size_t i = 0; i < count; i++) {
        const int32_t sum = multiplier ? seam_q8_multiply(sums[i], multiplier) : sums[i];
        const uint32_t random = random_at(key, first + (uint32_t)i, mode);
        g[i] =
            within_most(bits ? round_off(sum, bits, (int32_t)(random >> (32 - bits)), mode) : sum);
    }
}

/* One copy each, so that no loop asks again what is the same for all elements. */
static void settle(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits, uint32_t key,
                   uint32_t first, size_t count, int mode) {
    if (bits == 0)
        settle_all(g, sums, multiplier, 0, key, first, count, SEAM_ROUND_NEAREST);
    else if (mode != SEAM_ROUND_STOCHASTIC)
        settle_all(g, sums, multiplier, bits, key, first, count, mode);
    else if (multiplier)
        settle_all(g, sums, multiplier, bits, key, first, count, SEAM_ROUND_STOCHASTIC);
    else
        settle_all(g, sums, 0, bits, key, first, count, SEAM_ROUND_STOCHASTIC);
}

static inline void update_one(int8_t *w, int8_t *v, int32_t old, int32_t dw, int32_t step,
                              int32_t shift, uint32_t index, const seam_q8_motion *m, int mode) {
    const uint32_t random = random_at(m->key, index, mode);
    const int32_t high = (int32_t)(random >> 16);
    const int32_t low = mode == SEAM_ROUND_STOCHASTIC ? (int32_t)(random & 0xFFFFu) : high;
    const int32_t raised = (int32_t)((uint32_t)dw << m->up);
    int32_t velocity = shifted(seam_q8_multiply(raised, step), shift);
    velocity += shifted(old * m->keep, m->keep_shift);
    velocity += shifted(seam_q8_multiply(*w * (1 << 23), m->pull), m->pull_shift);
    const int32_t moved = shifted(seam_q8_multiply(velocity * 128, m->speed), m->speed_shift);
    *w = within_most(*w - round_off(moved, FRACTION, high, mode));
    if (v != NULL)
        *v = within_most(round_off(velocity, FRACTION, low, mode));
}

static inline void update_all(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                              const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                              const seam_q8_motion *motion, int mode) {
    const seam_q8_motion m = *motion;
    for (int32_t i = 0; i < count; i++)
        update_one(w + i, v ? v + i : NULL, v ? v[i] : 0, dw[i], steps[i * step], shifts[i * step],
                   first + (uint32_t)i, &m, mode);
}

static void update(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                   const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                   const seam_q8_motion *motion) {
    if (motion->mode != SEAM_ROUND_STOCHASTIC || v == NULL)
        update_all(w, v, dw, steps, shifts, step, first, count, motion, motion->mode);
    else if (step == 0)
        update_all(w, v, dw, steps, shifts, 0, first, count, motion, SEAM_ROUND_STOCHASTIC);
    else
        update_all(w, v, dw, steps, shifts, 1, first, count, motion, SEAM_ROUND_STOCHASTIC);
}

/* `count` channels of a line from the first on; with a constant the sums of weights stay in
 * registers. A copy of the line, for the sums might be what the pointer points to, for all the
 * compiler knows. */
static inline void inputs_of(int32_t *sums, const int8_t *dy, const int8_t *w,
                             const seam_q8_tap_line *line, int32_t count) {
    const seam_q8_tap_line at = *line;
    for (int32_t p = 0; p < at.pixels; p++, sums += at.x_step, dy += at.y_step)
        for (int32_t c = 0; c < count; c++)
            sums[c] += (int16_t)dy[c] * (int16_t)w[c];
}

static inline void weights_of(int32_t *sums, const int8_t *dy, const int8_t *x,
                              const seam_q8_tap_line *line, int32_t count) {
    const seam_q8_tap_line at = *line;
    int32_t own[TAP_BLOCK];
    for (int32_t c = 0; c < count; c++)
        own[c] = sums[c];
    for (int32_t p = 0; p < at.pixels; p++, x += at.x_step, dy += at.y_step)
        for (int32_t c = 0; c < count; c++)
            own[c] += (int16_t)dy[c] * (int16_t)(x[c] - at.x_zero);
    for (int32_t c = 0; c < count; c++)
        sums[c] = own[c];
}

/* How many pixels of the line fill a block, where both sides lie without a gap. */
static inline int32_t group_of_line(const seam_q8_tap_line *line) {
    const int32_t c = line->channels;
    const int flat = line->x_step == c && line->y_step == c && c > 0 && TAP_BLOCK % c == 0;
    return flat ? group_of(c, TAP_BLOCK) : 1;
}

/* The pixels of the line that make whole groups, taken as one pixel of a block of channels each. */
static inline seam_q8_tap_line groups_of(const seam_q8_tap_line *line, int32_t group) {
    return (seam_q8_tap_line){.y_step = TAP_BLOCK,
                              .x_step = TAP_BLOCK,
                              .pixels = line->pixels / group,
                              .channels = TAP_BLOCK,
                              .x_zero = line->x_zero};
}

static void tap_inputs(int32_t *sums, const int8_t *dy, const int8_t *w,
                       const seam_q8_tap_line *line) {
    const int32_t channels = line->channels, group = group_of_line(line);
    int32_t c = 0;
    if (group > 1) {
        const seam_q8_tap_line groups = groups_of(line, group);
        const ptrdiff_t done = (ptrdiff_t)groups.pixels * TAP_BLOCK;
        seam_q8_tap_line rest = *line;
        rest.pixels -= groups.pixels * group;
        int8_t again[TAP_BLOCK];
        for (int32_t i = 0; i < TAP_BLOCK; i++)
            again[i] = w[i % channels];
        inputs_of(sums, dy, again, &groups, TAP_BLOCK);
        inputs_of(sums + done, dy + done, w, &rest, channels);
        return;
    }
    for (; c + TAP_BLOCK <= channels; c += TAP_BLOCK)
        inputs_of(sums + c, dy + c, w + c, line, TAP_BLOCK);
    for (; c + TAP_BLOCK / 2 <= channels; c += TAP_BLOCK / 2)
        inputs_of(sums + c, dy + c, w + c, line, TAP_BLOCK / 2);
    if (c < channels)
        inputs_of(sums + c, dy + c, w + c, line, channels - c);
}

static void tap_weights(int32_t *sums, const int8_t *dy, const int8_t *x,
                        const seam_q8_tap_line *line) {
    const int32_t channels = line->channels, group = group_of_line(line);
    int32_t c = 0;
    if (group > 1) {
        const seam_q8_tap_line groups = groups_of(line, group);
        const ptrdiff_t done = (ptrdiff_t)groups.pixels * TAP_BLOCK;
        seam_q8_tap_line rest = *line;
        rest.pixels -= groups.pixels * group;
        int32_t wide[TAP_BLOCK] = {0};
        weights_of(wide, dy, x, &groups, TAP_BLOCK);
        for (int32_t i = 0; i < TAP_BLOCK; i++)
            sums[i % channels] += wide[i];
        weights_of(sums, dy + done, x + done, &rest, channels);
        return;
    }
    for (; c + TAP_BLOCK <= channels; c += TAP_BLOCK)
        weights_of(sums + c, dy + c, x + c, line, TAP_BLOCK);
    for (; c + TAP_BLOCK / 2 <= channels; c += TAP_BLOCK / 2)
        weights_of(sums + c, dy + c, x + c, line, TAP_BLOCK / 2);
    if (c < channels)
        weights_of(sums + c, dy + c, x + c, line, channels - c);
}
