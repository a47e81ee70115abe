/* The micro-kernels of int8 training for a Cortex-M with the DSP extension (M4, M7, M33, M55): two
 * products an instruction, sums in registers. */
#include "q8.h"

#if defined(SEAM_M_DSP) || defined(SEAM_M_MVE)
#include <arm_acle.h>

#include "q8_train_loops.h"

#define FIXED static inline __attribute__((always_inline))
#undef EACH /* in the order that is written */
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

/* ROWS x COLS sums, two or one each way. */
#define ROWS 2
#define COLS 3

FIXED void tile(const int R, const int C, int32_t *c, const int32_t *a, const int32_t *b,
                const seam_q8_product *shape) {
    const ptrdiff_t c_row = shape->c_row, a_row = shape->a_row;
    const ptrdiff_t a_term = shape->a_term, b_term = shape->b_term;
    int32_t sums[ROWS][COLS];
    EACH (r, R)
        EACH (v, C)
            sums[r][v] = c[r * c_row + v];
    for (int32_t t = shape->terms; t > 0; t--, a += a_term, b += b_term)
        EACH (v, C)
            EACH (r, R)
                sums[r][v] = __smlad((int16x2_t)a[r * a_row], (int16x2_t)b[v], sums[r][v]);
    EACH (r, R)
        EACH (v, C)
            c[r * c_row + v] = sums[r][v];
}

FIXED void rows_of(const int C, int32_t *c, const int32_t *a, const int32_t *b,
                   const seam_q8_product *shape) {
    int32_t row = 0;
    for (; row + ROWS <= shape->rows;
         row += ROWS, c += ROWS * shape->c_row, a += ROWS * shape->a_row)
        tile(ROWS, C, c, a, b, shape);
    if (row < shape->rows)
        tile(1, C, c, a, b, shape);
}

static void product(int32_t *c, const int32_t *a, const int32_t *b, const seam_q8_product *shape) {
    int32_t col = 0;
    for (; col + COLS <= shape->cols; col += COLS)
        rows_of(COLS, c + col, a, b + col, shape);
    if (col + 2 == shape->cols)
        rows_of(2, c + col, a, b + col, shape);
    else if (col < shape->cols)
        rows_of(1, c + col, a, b + col, shape);
}

/* ---- depthwise: four channels at a time ---- */

#define BLOCK 4

/* Four values as two times two halves: those of channels 0 and 2, and of 1 and 3. */
typedef struct {
    int16x2_t even, odd;
} halves;

FIXED halves four_at(const int8_t *p) {
    halves four;
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    four.even = __sxtb16((int8x4_t)word);
    __asm("sxtb16 %0, %1, ror #8" : "=r"(four.odd) : "r"(word));
    return four;
}

/* sums[c] += a[c] * b[c] */
FIXED void add_products(int32_t *sums, halves a, halves b) {
    sums[0] = __smlabb(a.even, b.even, sums[0]);
    sums[1] = __smlabb(a.odd, b.odd, sums[1]);
    sums[2] = __smlatt(a.even, b.even, sums[2]);
    sums[3] = __smlatt(a.odd, b.odd, sums[3]);
}

static void four_inputs(int32_t *sums, const int8_t *dy, const int8_t *w,
                        const seam_q8_tap_line *line) {
    const ptrdiff_t x_step = line->x_step, y_step = line->y_step;
    const halves weights = four_at(w);
    for (int32_t p = line->pixels; p > 0; p--, sums += x_step, dy += y_step)
        add_products(sums, four_at(dy), weights);
}

static void four_weights(int32_t *sums, const int8_t *dy, const int8_t *x,
                         const seam_q8_tap_line *line) {
    const ptrdiff_t x_step = line->x_step, y_step = line->y_step;
    const int16x2_t zero = (int16x2_t)seam_pair(line->x_zero, line->x_zero);
    int32_t own[BLOCK] = {sums[0], sums[1], sums[2], sums[3]};
    for (int32_t p = line->pixels; p > 0; p--, x += x_step, dy += y_step) {
        const halves value = four_at(x);
        add_products(own, four_at(dy),
                     (halves){__ssub16(value.even, zero), __ssub16(value.odd, zero)});
    }
    __builtin_memcpy(sums, own, sizeof own);
}

typedef void taps(int32_t *sums, const int8_t *dy, const int8_t *other,
                  const seam_q8_tap_line *line);

/* other: weights or inputs. */
FIXED void by_four(taps *four, taps *any, int32_t *sums, const int8_t *dy, const int8_t *other,
                   const seam_q8_tap_line *line) {
    seam_q8_tap_line rest = *line;
    for (; rest.channels >= BLOCK; rest.channels -= BLOCK) {
        four(sums, dy, other, line);
        sums += BLOCK, dy += BLOCK, other += BLOCK;
    }
    if (rest.channels > 0)
        any(sums, dy, other, &rest);
}

static void tap_inputs_by_four(int32_t *sums, const int8_t *dy, const int8_t *w,
                               const seam_q8_tap_line *line) {
    by_four(four_inputs, tap_inputs, sums, dy, w, line);
}

static void tap_weights_by_four(int32_t *sums, const int8_t *dy, const int8_t *x,
                                const seam_q8_tap_line *line) {
    by_four(four_weights, tap_weights, sums, dy, x, line);
}

/* ---- update ---- */

/* round(a / 2^bits), ties up, for 1 to 255 bits: what is shifted out last is the carry. */
FIXED int32_t down(int32_t a, int32_t bits) {
    int32_t result;
    __asm("asrs %0, %1, %2\n adc %0, %0, #0" : "=&r"(result) : "r"(a), "r"(bits) : "cc");
    return result;
}

FIXED int8_t most(int32_t value) {
    int32_t within;
    __asm("ssat %0, #8, %1" : "=r"(within) : "r"(value));
    return (int8_t)(within < -SEAM_Q8_MOST ? -SEAM_Q8_MOST : within);
}

/* `update_one` where all shifts but that of the old velocity are to the right. */
FIXED void update_down(const int raised, const int pulled, int8_t *w, int8_t *v, const int32_t *dw,
                       const int32_t *steps, const int32_t *shifts, int32_t step, uint32_t first,
                       int32_t count, const seam_q8_motion *motion) {
    const seam_q8_motion m = *motion;
    const int32_t keep_shift = raised ? -m.keep_shift : m.keep_shift;
    uint32_t counter = m.key + first * SEAM_RANDOM_STEP;
    for (int32_t i = 0; i < count;
         i++, counter += SEAM_RANDOM_STEP, steps += step, shifts += step) {
        const uint32_t random = seam_mix(counter);
        const int32_t sum = (int32_t)((uint32_t)dw[i] << m.up), kept = v[i] * m.keep;
        int32_t velocity = down(seam_q8_multiply(sum, *steps), *shifts);
        velocity += raised ? (int32_t)((uint32_t)kept << keep_shift) : down(kept, keep_shift);
        if (pulled)
            velocity += down(seam_q8_multiply(w[i] * (1 << 23), m.pull), m.pull_shift);
        const int32_t moved = down(seam_q8_multiply(velocity * 128, m.speed), m.speed_shift);
        w[i] = most(w[i] - ((moved + (int32_t)(random >> 16)) >> FRACTION));
        v[i] = most((velocity + (int32_t)(random & 0xFFFFu)) >> FRACTION);
    }
}

static int is_down(int32_t bits) {
    return bits >= 1 && bits <= 255;
}

static void update_usual(int8_t *w, int8_t *v, const int32_t *dw, const int32_t *steps,
                         const int32_t *shifts, int32_t step, uint32_t first, int32_t count,
                         const seam_q8_motion *m) {
    const int pulled = m->pull != 0, raised = m->keep_shift < 1;
    int usual = m->mode == SEAM_ROUND_STOCHASTIC && v != NULL && is_down(m->speed_shift) &&
                (!pulled || is_down(m->pull_shift)) && m->keep_shift > -32 && m->keep_shift < 256;
    for (int32_t i = 0; usual && i < (step ? count : 1); i++)
        usual = is_down(shifts[i]);
    if (!usual)
        update(w, v, dw, steps, shifts, step, first, count, m);
    else if (raised && pulled)
        update_down(1, 1, w, v, dw, steps, shifts, step, first, count, m);
    else if (raised)
        update_down(1, 0, w, v, dw, steps, shifts, step, first, count, m);
    else if (pulled)
        update_down(0, 1, w, v, dw, steps, shifts, step, first, count, m);
    else
        update_down(0, 0, w, v, dw, steps, shifts, step, first, count, m);
}

const seam_q8_train_kernels seam_q8_train_m_dsp = {
    .product = product,
    .pairs = pairs,
    .tap_inputs = tap_inputs_by_four,
    .tap_weights = tap_weights_by_four,
    .weigh = weigh,
    .bias = bias,
    .peak = peak,
    .settle = settle,
    .update = update_usual,
};
#endif
