/* The micro-kernels of int8 training for AVX2: a product adds both terms of eight pairs. */
#include "q8_train.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_AVX2

#include "q8_train_loops.h"

#define LANES 8
#define ROWS 4
#define VECTORS 2
typedef __m256i vec;
typedef __m256i lanes;

static inline lanes lanes_of(int32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec v_load(const int32_t *p, lanes n) {
    return _mm256_maskload_epi32(p, n);
}
static inline void v_store(int32_t *p, vec x, lanes n) {
    _mm256_maskstore_epi32(p, n, x);
}
static inline vec v_load_all(const int32_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline vec v_add(vec sum, int32_t pair, vec b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_set1_epi32(pair), b));
}

#include "q8_train_product.h"

const seam_q8_train_kernels seam_q8_train_avx2 = {
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
