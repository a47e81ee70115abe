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
static inline void v_store_all(int32_t *p, vec x) {
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}
static inline vec v_add_products(vec sum, int32_t pair, vec b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_set1_epi32(pair), b));
}

static inline vec v_all(int32_t x) {
    return _mm256_set1_epi32(x);
}
static inline vec v_count(void) {
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}
#define v_sub _mm256_sub_epi32
#define v_add _mm256_add_epi32
#define v_mul _mm256_mullo_epi32
#define v_and _mm256_and_si256
#define v_xor _mm256_xor_si256
#define v_min _mm256_min_epi32
#define v_max _mm256_max_epi32
#define v_left _mm256_slli_epi32
#define v_right _mm256_srli_epi32
#define v_right_signed _mm256_srai_epi32
#define v_lefts _mm256_sllv_epi32
#define v_rights _mm256_srav_epi32
#define v_above _mm256_cmpgt_epi32 /* all bits where a > b */
/* round(a b / 2^bits) of each lane, ties up: the low 32 bits; bits of 1 to 32. */
static inline vec v_multiply(vec a, vec b, int bits) {
    const vec half = _mm256_set1_epi64x((int64_t)1 << (bits - 1));
    const vec even = _mm256_add_epi64(_mm256_mul_epi32(a, b), half);
    const vec odd = _mm256_add_epi64(
        _mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)), half);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, bits), _mm256_slli_epi64(odd, 32 - bits),
                              0xAA);
}
static inline vec v_bytes(const int8_t *p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
/* Each lane within SEAM_Q8_MOST. */
static inline void v_within_store(int8_t *p, vec x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i bytes = _mm_max_epi8(_mm_packs_epi16(words, words), _mm_set1_epi8(-SEAM_Q8_MOST));
    _mm_storel_epi64((__m128i *)(void *)p, bytes);
}

#include "q8_train_pairs.h"
#include "q8_train_product.h"
#include "q8_train_update.h"

const seam_q8_train_kernels seam_q8_train_avx2 = {
    .product = product,
    .pairs = pair_vectors,
    .tap_inputs = tap_inputs,
    .tap_weights = tap_weights,
    .weigh = weigh,
    .bias = bias,
    .peak = peak,
    .settle = settle,
    .update = update_vectors,
};

SEAM_TARGET_END
#endif
