/* The micro-kernels of int8 training for aarch64: products of low and high terms are summed apart,
 * and come together at the end. */
#include "q8_train.h"

#if defined(SEAM_NEON)
#include <arm_neon.h>
#include <string.h>

#include "q8_train_loops.h"

#define LANES 4
#define ROWS 4
#define VECTORS 2
typedef int32x4_t vec;
typedef int32_t lanes;

/* Of each pair, the sum of low products and the one of high products: pairs 0 and 1, 2 and 3. */
typedef struct {
    int32x4_t low, high;
} halves;
#define SUMS halves

static inline lanes lanes_of(int32_t n) {
    return n < LANES ? n : LANES;
}
static inline vec v_load_all(const int32_t *p) {
    return vld1q_s32(p);
}
static inline vec v_load(const int32_t *p, lanes n) {
    if (n == LANES)
        return vld1q_s32(p);
    int32_t words[LANES] = {0};
    memcpy(words, p, (size_t)n * sizeof *p);
    return vld1q_s32(words);
}
static inline halves v_begin(const int32_t *p, lanes n) {
    const vec sums = v_load(p, n), zero = vdupq_n_s32(0);
    return (halves){vzip1q_s32(sums, zero), vzip2q_s32(sums, zero)};
}
static inline void v_end(int32_t *p, halves x, lanes n) {
    const vec sums = vpaddq_s32(x.low, x.high);
    if (n == LANES) {
        vst1q_s32(p, sums);
        return;
    }
    int32_t words[LANES];
    vst1q_s32(words, sums);
    memcpy(p, words, (size_t)n * sizeof *p);
}
static inline halves v_add_products(halves sum, int32_t pair, vec b) {
    const int16x8_t a = vreinterpretq_s16_s32(vdupq_n_s32(pair));
    const int16x8_t terms = vreinterpretq_s16_s32(b);
    return (halves){vmlal_s16(sum.low, vget_low_s16(terms), vget_low_s16(a)),
                    vmlal_high_s16(sum.high, terms, a)};
}

#include "q8_train_product.h"

const seam_q8_train_kernels seam_q8_train_neon = {
    .product = product,
    .pairs = pairs,
    .tap_inputs = tap_inputs,
    .tap_weights = tap_weights,
    .weigh = weigh,
    .bias = bias,
    .peak = peak,
    .settle = settle,
    .update = update,
};
#endif
