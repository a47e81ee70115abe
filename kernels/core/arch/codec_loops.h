/* Loops between floats and a parcel's bytes, in plain C that compilers turn into vectors. A file
 * that includes this defines CODEC, the table's name. */
#include "../bytes.h"
#include "../round.h"
#include "../seam_math.h"
#include "codec.h"

#define PART 64            /* values at a time where one loop hands to the next */
#define LARGEST 0x7F7FFFFF /* place of the largest float */

/* A float's place among all floats, and back: integers have a smallest and a largest that need no
 * order of comparing. */
static inline int32_t place_of(float x) {
    const int32_t bits = (int32_t)seam_to_bits(x);
    return bits ^ (bits >> 31 & 0x7FFFFFFF);
}

static inline float at_place(int32_t place) {
    return seam_from_bits((uint32_t)(place ^ (place >> 31 & 0x7FFFFFFF)));
}

static int range(float *restrict low, float *restrict high, const float *restrict x, size_t count) {
    int32_t least = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        const int32_t place = place_of(x[i]);
        least = place < least ? place : least;
        most = place > most ? place : most;
    }
    *low = at_place(least) + 0.0f; /* of -0, 0 */
    *high = at_place(most);
    return most <= LARGEST && least >= -LARGEST - 1;
}

/* As above, but x are bytes of little-endian floats that go to y. */
static int copy(float *restrict y, const uint8_t *restrict bytes, size_t count) {
    int32_t least = 0, most = 0;
    for (size_t i = 0; i < count; i++) {
        y[i] = seam_get_float(bytes + 4 * i);
        const int32_t place = place_of(y[i]);
        least = place < least ? place : least;
        most = place > most ? place : most;
    }
    return most <= LARGEST && least >= -LARGEST - 1;
}

/* What is added to PART values before the floor of their sums. */
static void fractions(float *restrict u, const seam_quantiser *how, uint32_t first) {
    const uint32_t key = how->key + (how->first + first) * SEAM_RANDOM_STEP;
    for (uint32_t k = 0; k < PART; k++)
        u[k] = (float)(int32_t)(seam_mix(key + k * SEAM_RANDOM_STEP) >> 8) * 0x1p-24f;
}

static void halves(float *u) {
    for (uint32_t k = 0; k < PART; k++)
        u[k] = 0.5f;
}

static inline void quantise_some(int8_t *restrict q, const float *restrict x,
                                 const float *restrict u, const seam_quantiser *how, size_t count) {
    const float inv = how->inv, zero = how->zero, low = how->low, high = how->high;
    for (size_t i = 0; i < count; i++) {
        float t = seam_fma(x[i], inv, zero) + u[i];
        t = t < low ? low : t;
        t = t > high ? high : t;
        const int32_t whole = (int32_t)t; /* towards zero, then down to the floor */
        q[i] = (int8_t)(whole - (t < (float)whole ? 1 : 0));
    }
}

static inline void pair_up(uint8_t *restrict pairs, const int8_t *restrict q, size_t count) {
    for (size_t k = 0; k < count; k++)
        pairs[k] = (uint8_t)((q[2 * k] & 15) | (q[2 * k + 1] & 15) << 4);
}

static inline int8_t to_int8(int32_t value) {
    value = value < -128 ? -128 : value;
    return (int8_t)(value > 127 ? 127 : value);
}

#define EVEN 0x1.8p23f /* what is added to this is rounded to even integers */

static inline float clipped(float t) { /* beyond every int8, whatever the zero point */
    t = t > -512.0f ? t : -512.0f;
    return t < 512.0f ? t : 512.0f;
}

/* Whole parts; own ones may count on sums within an integer. round_part: as round_some, but with a
 * product by 1 / scale, which is off by less than 2^-13; returns 0 if that may change a value. */
#ifndef OWN_PARTS
static void part_to_int8(int8_t *q, const float *x, const float *u, const seam_quantiser *how) {
    quantise_some(q, x, u, how, PART);
}

static void part_to_pairs(uint8_t *pairs, const float *x, const float *u,
                          const seam_quantiser *how) {
    int8_t q[PART];
    quantise_some(q, x, u, how, PART);
    pair_up(pairs, q, PART / 2);
}

static int round_part(int8_t *restrict q, const float *restrict x, float inv, int32_t zero) {
    int32_t rest = 0, size = 0; /* the largest bits without a sign */
    for (size_t i = 0; i < PART; i++) {
        const float t = clipped(x[i] * inv), whole = t + EVEN - EVEN;
        const int32_t r = (int32_t)(seam_to_bits(t - whole) & 0x7FFFFFFFu);
        const int32_t s = (int32_t)(seam_to_bits(x[i]) & 0x7FFFFFFFu);
        rest = r > rest ? r : rest;
        size = s > size ? s : size;
        q[i] = to_int8((int32_t)whole + zero);
    }
    return rest < SEAM_CODEC_SURE && size <= LARGEST;
}
#endif

static void quantise(int8_t *q, const float *x, const seam_quantiser *how, size_t count) {
    float u[PART];
    halves(u);
    size_t i = 0;
    for (; count - i >= PART; i += PART) {
        if (how->stochastic)
            fractions(u, how, (uint32_t)i);
        part_to_int8(q + i, x + i, u, how);
    }
    if (how->stochastic)
        fractions(u, how, (uint32_t)i);
    quantise_some(q + i, x + i, u, how, count - i);
}

static void quantise_pairs(uint8_t *pairs, const float *x, const seam_quantiser *how,
                           size_t count) {
    float u[PART];
    halves(u);
    size_t i = 0;
    for (; count - i >= PART; i += PART) {
        if (how->stochastic)
            fractions(u, how, (uint32_t)i);
        part_to_pairs(pairs + i / 2, x + i, u, how);
    }
    if (how->stochastic)
        fractions(u, how, (uint32_t)i);
    int8_t q[PART];
    quantise_some(q, x + i, u, how, count - i);
    q[count - i] = 0;
    pair_up(pairs + i / 2, q, (count - i + 1) / 2);
}

static void dequantise(float *restrict x, const int8_t *restrict q, float scale, int32_t zero,
                       size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(q[i] - zero) * scale;
}

static void dequantise_pairs(float *restrict x, const uint8_t *restrict pairs, float scale,
                             int32_t zero, size_t count) {
    for (size_t i = 0; i < count / 2; i++) {
        const int32_t pair = pairs[i];
        x[2 * i] = (float)(((pair & 15) ^ 8) - 8 - zero) * scale;
        x[2 * i + 1] = (float)((pair >> 4 ^ 8) - 8 - zero) * scale;
    }
    if (count % 2 == 1)
        x[count - 1] = (float)(((pairs[count / 2] & 15) ^ 8) - 8 - zero) * scale;
}

static void round_some(int8_t *restrict q, const float *restrict x, float scale, int32_t zero,
                       seam_half half, size_t count) {
    float t[PART];
    for (size_t i = 0; i < count; i++)
        t[i] = clipped(x[i] / scale);
    if (half == SEAM_HALF_AWAY)
        for (size_t i = 0; i < count; i++) {
            const int32_t whole = (int32_t)t[i];    /* towards zero */
            const float rest = t[i] - (float)whole; /* exact; a half or more goes on */
            q[i] = to_int8(whole + (int32_t)(rest + rest) + zero);
        }
    else
        for (size_t i = 0; i < count; i++)
            q[i] = to_int8((int32_t)(t[i] + EVEN - EVEN) + zero);
}

static int round_all(int8_t *q, const float *x, float scale, int32_t zero, seam_half half,
                     size_t count) {
    const float inv = scale > 0x1p-100f && scale < 0x1p100f ? 1.0f / scale : 0.0f;
    int32_t missing = 0;
    for (size_t i = 0; i < count; i += PART) {
        const size_t n = count - i < PART ? count - i : PART;
        if (n == PART && inv > 0.0f && round_part(q + i, x + i, inv, zero))
            continue;
        round_some(q + i, x + i, scale, zero, half, n);
        for (size_t k = 0; k < n; k++)
            missing |= x[i + k] != x[i + k];
    }
    return !missing;
}

const seam_codec_kernels CODEC = {
    .range = range,
    .copy = copy,
    .quantise = quantise,
    .quantise_pairs = quantise_pairs,
    .dequantise = dequantise,
    .dequantise_pairs = dequantise_pairs,
    .round = round_all,
};
