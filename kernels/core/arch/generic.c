/* The micro-kernels in plain C, one float at a time; fmaf comes from the FPU or the C library. On a
 * Cortex-M the int8 layers beside them are those for its instructions. */
#include "q8.h"

#define LANES 1
#define TILE_1 4
#define TILE_2 4
#define TILE_3 2
#define OUTER_1 4
#define OUTER_2 4
#define OUTER_3 2
#define DEPTHWISE_TILE 4
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

#define VARIANT_TRAIN seam_q8_train_generic
#define VARIANT_CODEC seam_codec_generic

#include "kernels.h"
