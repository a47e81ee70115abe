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
static inline void v_store_all(int32_t *p, vec x) {
    _mm512_storeu_si512(p, x);
}
static inline vec v_add_products(vec sum, int32_t pair, vec b) {
    return _mm512_dpwssd_epi32(sum, _mm512_set1_epi32(pair), b);
}

static inline vec v_all(int32_t x) {
    return _mm512_set1_epi32(x);
}
static inline vec v_count(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#define v_sub _mm512_sub_epi32
#define v_add _mm512_add_epi32
#define v_mul _mm512_mullo_epi32
#define v_and _mm512_and_si512
#define v_xor _mm512_xor_si512
#define v_min _mm512_min_epi32
#define v_max _mm512_max_epi32
#define v_left _mm512_slli_epi32
#define v_right _mm512_srli_epi32
#define v_right_signed _mm512_srai_epi32
#define v_lefts _mm512_sllv_epi32
#define v_rights _mm512_srav_epi32
/* All bits where a > b. */
static inline vec v_above(vec a, vec b) {
    return _mm512_movm_epi32(_mm512_cmpgt_epi32_mask(a, b));
}
/* round(a b / 2^bits) of each lane, ties up: the low 32 bits; bits of 1 to 32. */
static inline vec v_multiply(vec a, vec b, unsigned bits) {
    const vec half = _mm512_set1_epi64((int64_t)1 << (bits - 1));
    const vec even = _mm512_add_epi64(_mm512_mul_epi32(a, b), half);
    const vec odd = _mm512_add_epi64(
        _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)), half);
    return _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, bits),
                                   _mm512_slli_epi64(odd, 32 - bits));
}
static inline vec v_bytes(const int8_t *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
/* Each lane within SEAM_Q8_MOST. */
static inline void v_within_store(int8_t *p, vec x) {
    const __m128i bytes = _mm_max_epi8(_mm512_cvtsepi32_epi8(x), _mm_set1_epi8(-SEAM_Q8_MOST));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
}

#include "q8_train_pairs.h"
#include "q8_train_product.h"
#include "q8_train_update.h"

const seam_q8_train_kernels seam_q8_train_vnni = {
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
