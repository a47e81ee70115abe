/* The micro-kernels of int8 training for AVX-512 VNNI: one instruction adds both terms of sixteen
 * pairs. */
#include "q8_train.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_VNNI

#include "q8_train_loops.h"

#define LANES 16
#define ROWS 8
#define VECTORS 2
typedef __m512i vec;
typedef __mmask16 lanes;

static inline lanes lanes_of(int32_t n) {
    return (__mmask16)(n >= LANES ? 0xFFFFu : n <= 0 ? 0u : (1u << n) - 1u);
}
static inline vec v_load(const int32_t *p, lanes n) {
    return _mm512_maskz_loadu_epi32(n, p);
}
static inline void v_store(int32_t *p, vec x, lanes n) {
    _mm512_mask_storeu_epi32(p, n, x);
}
static inline vec v_load_all(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
static inline vec v_add(vec sum, int32_t pair, vec b) {
    return _mm512_dpwssd_epi32(sum, _mm512_set1_epi32(pair), b);
}

#include "q8_train_product.h"

const seam_q8_train_kernels seam_q8_train_vnni = {
    .product = product,
    .tap_inputs = tap_inputs,
    .tap_weights = tap_weights,
    .weigh = weigh,
    .peak = peak,
    .settle = settle,
    .update = update,
};

SEAM_TARGET_END
#endif
