/* The codec's loops for AVX-512, where one instruction takes a floor to an integer. */
#include "codec.h"
#include "compiler.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_VNNI

#define OWN_PARTS
#define CODEC seam_codec_vnni

static inline __m512i floor_of(const float *x, const float *u, const seam_quantiser *how) {
    const __m512 t =
        _mm512_fmadd_ps(_mm512_loadu_ps(x), _mm512_set1_ps(how->inv), _mm512_set1_ps(how->zero));
    return _mm512_cvt_roundps_epi32(
        _mm512_add_ps(t, how->stochastic ? _mm512_loadu_ps(u) : _mm512_set1_ps(0.5f)),
        _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

/* A part's four vectors as bytes, in order. */
static inline __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32(a, b), high = _mm512_packs_epi32(c, d);
    return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
}

static inline __m512i bytes_of(const float *x, const float *u, const seam_quantiser *how) {
    return narrow(floor_of(x, u, how), floor_of(x + 16, u + 16, how), floor_of(x + 32, u + 32, how),
                  floor_of(x + 48, u + 48, how));
}

static inline void part_to_int8(int8_t *q, const float *x, const float *u,
                                const seam_quantiser *how) {
    _mm512_storeu_si512(q, bytes_of(x, u, how));
}

static inline void part_to_pairs(uint8_t *pairs, const float *x, const float *u,
                                 const seam_quantiser *how) {
    __m512i q = bytes_of(x, u, how);
    q = _mm512_max_epi8(_mm512_set1_epi8(-8), _mm512_min_epi8(_mm512_set1_epi8(7), q));
    q = _mm512_and_si512(q, _mm512_set1_epi8(15));
    const __m512i pair = _mm512_maddubs_epi16(q, _mm512_set1_epi16(0x1001)); /* low + 16 high */
    _mm256_storeu_si256((__m256i *)(void *)pairs, _mm512_cvtepi16_epi8(pair));
}

/* Also the largest bits of what is rounded away, without its sign; a NaN's are more. */
static inline __m512i nearest(const float *x, __m512 inv, __m512i zero, __m512i *most) {
    __m512 t = _mm512_mul_ps(_mm512_loadu_ps(x), inv);
    t = _mm512_min_ps(_mm512_set1_ps(512.0f), t);
    t = _mm512_max_ps(_mm512_set1_ps(-512.0f), t);
    const __m512i whole = _mm512_cvtps_epi32(t);
    const __m512 rest = _mm512_sub_ps(t, _mm512_cvtepi32_ps(whole));
    *most = _mm512_max_epi32(*most, _mm512_castps_si512(_mm512_abs_ps(rest)));
    return _mm512_add_epi32(whole, zero);
}

static inline int round_part(int8_t *q, const float *x, float inv, int32_t zero) {
    const __m512 scale = _mm512_set1_ps(inv);
    const __m512i middle = _mm512_set1_epi32(zero);
    __m512i most = _mm512_setzero_si512();
    const __m512i a = nearest(x, scale, middle, &most);
    const __m512i b = nearest(x + 16, scale, middle, &most);
    const __m512i c = nearest(x + 32, scale, middle, &most);
    const __m512i d = nearest(x + 48, scale, middle, &most);
    _mm512_storeu_si512(q, narrow(a, b, c, d));
    return _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(SEAM_CODEC_SURE)) == 0;
}

#include "codec_loops.h"

SEAM_TARGET_END
#endif
