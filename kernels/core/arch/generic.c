/* The micro-kernels in plain C, one float at a time; fmaf comes from the FPU or the C library. On a
 * Cortex-M the int8 layers beside them are those for its instructions; where it has an FPU, two
 * floats are a vector: sums then fill its 32 registers, and a value that is read is used more
 * often.
 */
#include "q8.h"

#define TILE_1 4
#define TILE_2 4
#define OUTER_1 4
#define OUTER_2 4
#define DEPTHWISE_TILE 4
#if defined(SEAM_M_FPU)
#define LANES 2
#define TILE_3 4
#define OUTER_3 4
#else
#define LANES 1
#define TILE_3 2
#define OUTER_3 2
#endif
#define VARIANT seam_kernels_generic
#if defined(SEAM_M_MVE)
#define VARIANT_Q8 seam_q8_kernels_m_mve
#define VARIANT_NAME "m_mve"
#elif defined(SEAM_M_DSP)
#define VARIANT_Q8 seam_q8_kernels_m_dsp
#define VARIANT_NAME "m_dsp"
#else
#define VARIANT_Q8 seam_q8_kernels_generic
#define VARIANT_NAME "generic"
#endif

#if defined(SEAM_M_FPU)

typedef struct {
    float low, high;
} vec;

static inline vec v_load(const float *p) {
    return (vec){p[0], p[1]};
}

static inline vec v_load_n(const float *p, int n) {
    return (vec){n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f};
}

static inline void v_store(float *p, vec v) {
    p[0] = v.low;
    p[1] = v.high;
}

static inline void v_store_n(float *p, vec v, int n) {
    if (n > 0)
        p[0] = v.low;
    if (n > 1)
        p[1] = v.high;
}

static inline vec v_set(float x) {
    return (vec){x, x};
}

static inline vec v_add(vec a, vec b) {
    return (vec){a.low + b.low, a.high + b.high};
}

static inline vec v_fma(vec a, vec b, vec c) {
    return (vec){__builtin_fmaf(a.low, b.low, c.low), __builtin_fmaf(a.high, b.high, c.high)};
}

static inline void v_transpose(vec *rows) {
    const vec first = rows[0], second = rows[1];
    rows[0] = (vec){first.low, second.low};
    rows[1] = (vec){first.high, second.high};
}

#else

typedef float vec;

static inline vec v_load(const float *p) {
    return *p;
}

static inline vec v_load_n(const float *p, int n) {
    return n > 0 ? *p : 0.0f;
}

static inline void v_store(float *p, vec v) {
    *p = v;
}

static inline void v_store_n(float *p, vec v, int n) {
    if (n > 0)
        *p = v;
}

static inline vec v_set(float x) {
    return x;
}

static inline vec v_add(vec a, vec b) {
    return a + b;
}

static inline vec v_fma(vec a, vec b, vec c) {
    return __builtin_fmaf(a, b, c);
}

static inline void v_transpose(vec *rows) {
    (void)rows;
}

#endif

#if defined(SEAM_M_MVE) || defined(SEAM_M_DSP)
#define VARIANT_TRAIN seam_q8_train_m_dsp
#else
#define VARIANT_TRAIN seam_q8_train_generic
#endif
#define VARIANT_CODEC seam_codec_generic

#include "kernels.h"
