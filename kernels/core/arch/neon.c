/* The micro-kernels for aarch64: four floats at a time, 32 registers. Without the byte products of
 * later processors the floats are the same, so both tables are here. */
#include "arch.h"

#if defined(SEAM_NEON)
#include <arm_neon.h>

#define LANES 4
#define TILE_1 8
#define TILE_2 8
#define TILE_3 8
#define OUTER_1 8
#define OUTER_2 8
#define OUTER_3 8
#define DEPTHWISE_TILE 8
#define VARIANT seam_kernels_neon
#define VARIANT_Q8 seam_q8_kernels_neon
#define VARIANT_TRAIN seam_q8_train_neon
#define VARIANT_CODEC seam_codec_generic
#define VARIANT_NAME "neon"

typedef float32x4_t vec;

static inline vec v_load(const float *p) {
    return vld1q_f32(p);
}

static inline vec v_load_n(const float *p, int n) {
    if (n == LANES)
        return vld1q_f32(p);
    vec v = vdupq_n_f32(0.0f);
    if (n > 0)
        v = vld1q_lane_f32(p, v, 0);
    if (n > 1)
        v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2)
        v = vld1q_lane_f32(p + 2, v, 2);
    return v;
}

static inline void v_store(float *p, vec v) {
    vst1q_f32(p, v);
}

static inline void v_store_n(float *p, vec v, int n) {
    if (n == LANES) {
        vst1q_f32(p, v);
        return;
    }
    if (n > 0)
        vst1q_lane_f32(p, v, 0);
    if (n > 1)
        vst1q_lane_f32(p + 1, v, 1);
    if (n > 2)
        vst1q_lane_f32(p + 2, v, 2);
}

static inline vec v_set(float x) {
    return vdupq_n_f32(x);
}

static inline vec v_add(vec a, vec b) {
    return vaddq_f32(a, b);
}

static inline vec v_fma(vec a, vec b, vec c) {
    return vfmaq_f32(c, a, b);
}

/* Four rows of four become four columns. */
static inline void v_transpose(vec *rows) {
    const vec even_low = vzip1q_f32(rows[0], rows[2]), even_high = vzip2q_f32(rows[0], rows[2]);
    const vec odd_low = vzip1q_f32(rows[1], rows[3]), odd_high = vzip2q_f32(rows[1], rows[3]);
    rows[0] = vzip1q_f32(even_low, odd_low);
    rows[1] = vzip2q_f32(even_low, odd_low);
    rows[2] = vzip1q_f32(even_high, odd_high);
    rows[3] = vzip2q_f32(even_high, odd_high);
}

#include "kernels.h"

#if defined(SEAM_NEON_DOTPROD)
const seam_kernels seam_kernels_neon_dotprod =
    TABLE("neon_dotprod", seam_q8_kernels_neon_dotprod, seam_q8_train_neon, seam_codec_generic);
#endif
#endif
