/* Requantisation with AVX-512: sixteen sums to bytes. Sets the target. */
#ifndef SEAM_ARCH_Q8_VNNI_H
#define SEAM_ARCH_Q8_VNNI_H

#include "q8.h"

#include <immintrin.h>
#include <string.h>

SEAM_TARGET_VNNI

#define FIXED static inline __attribute__((always_inline))
#define LANES 16

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline __mmask16 first_lanes(int32_t n) {
    return (__mmask16)((1u << n) - 1u);
}

static inline __mmask64 first_bytes(int32_t n) {
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1u;
}

/* n <= 16 numbers; twice: n <= 8, and lanes from 8 on repeat them. */
FIXED __m512i lanes_load(const int32_t *p, int32_t n, const int twice) {
    const __m512i some = _mm512_maskz_loadu_epi32(first_lanes(n), p);
    return twice ? _mm512_inserti64x4(some, _mm512_castsi512_si256(some), 1) : some;
}

/* ---- Any scale ---- */

typedef struct {
    __m512i multiplier, left, right, mask; /* mask: 2^right - 1 */
} scale16;

static inline scale16 scale_of(__m512i multiplier, __m512i shift) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    scale16 s = {.multiplier = multiplier,
                 .left = _mm512_max_epi32(shift, zero),
                 .right = _mm512_max_epi32(_mm512_sub_epi32(zero, shift), zero)};
    s.mask = _mm512_sub_epi32(_mm512_sllv_epi32(one, s.right), one);
    return s;
}

static inline __m512i rescale(__m512i a, const scale16 *s) {
    const __m512i half = _mm512_set1_epi64(1 << 30);
    const __m512i raised = _mm512_sllv_epi32(a, s->left);
    __m512i even = _mm512_mul_epi32(raised, s->multiplier);
    __m512i odd =
        _mm512_mul_epi32(_mm512_srli_epi64(raised, 32), _mm512_srli_epi64(s->multiplier, 32));
    even = _mm512_srli_epi64(_mm512_add_epi64(even, half), 31);
    odd = _mm512_slli_epi64(_mm512_add_epi64(odd, half), 1);
    const __m512i y = _mm512_mask_blend_epi32(0xAAAA, even, odd);
    const __m512i least = _mm512_sub_epi32(_mm512_srli_epi32(s->mask, 1), _mm512_srai_epi32(y, 31));
    const __mmask16 up = _mm512_cmpgt_epi32_mask(_mm512_and_si512(y, s->mask), least);
    const __m512i whole = _mm512_srav_epi32(y, s->right);
    return _mm512_mask_add_epi32(whole, up, whole, _mm512_set1_epi32(1));
}

/* Of channels [c, c + n). */
static inline scale16 scale_load(const seam_q8_job *job, int32_t c, int32_t n) {
    if (job->scale_step == 0)
        return scale_of(_mm512_set1_epi32(*job->multiplier), _mm512_set1_epi32(*job->shift));
    return scale_of(lanes_load(job->multiplier + c, n, 0), lanes_load(job->shift + c, n, 0));
}

/* ---- Scales that go right by at least one, of sums below 2^30 (seam_q8_job.falling) ---- */

typedef struct {
    __m512i even, odd; /* multipliers where _mm512_mul_epi32 wants them */
    __m512i down;      /* one less than the shift to the right */
} falling16;

static inline falling16 falling_of(__m512i multiplier, __m512i shift) {
    return (falling16){.even = multiplier,
                       .odd = _mm512_srli_epi64(multiplier, 32),
                       .down = _mm512_sub_epi32(_mm512_set1_epi32(-1), shift)};
}

/* round(2 a * multiplier / 2^32): the upper halves of the products. */
static inline __m512i falling_multiply(__m512i a, const falling16 *s) {
    const __m512i half = _mm512_set1_epi64((int64_t)1 << 31);
    const __m512i twice = _mm512_add_epi32(a, a);
    const __m512i upper = _mm512_shuffle_epi32(twice, _MM_PERM_DDBB);
    const __m512i even = _mm512_add_epi64(_mm512_mul_epi32(twice, s->even), half);
    const __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(upper, s->odd), half);
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
}

/* Rescaled but for the last step to the right: (this + 1) / 2 rounded down. A half goes away from
 * zero, so negative numbers are one less first. */
static inline __m512i falling_rescale(__m512i a, const falling16 *s) {
    const __m512i y = falling_multiply(a, s);
    return _mm512_srav_epi32(_mm512_add_epi32(y, _mm512_srai_epi32(y, 31)), s->down);
}

/* ---- To bytes ---- */

typedef struct {
    __m512i zero, least, most; /* zero: of 16 bits */
} range64;

/* last: one bit is left to shift out, as falling_rescale leaves it. */
static inline range64 range_of(int32_t zero, int32_t least, int32_t most, int last) {
    return (range64){_mm512_set1_epi16((int16_t)(last ? 2 * zero + 1 : zero)),
                     _mm512_set1_epi8((int8_t)least), _mm512_set1_epi8((int8_t)most)};
}

/* Four vectors of sixteen as bytes: in each 128-bit lane four of each, in order. Numbers beyond 16
 * bits saturate, which the clamp to bytes hides. */
FIXED __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d, const range64 *range,
                     const int last) {
    __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), range->zero);
    __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), range->zero);
    if (last) {
        low = _mm512_srai_epi16(low, 1);
        high = _mm512_srai_epi16(high, 1);
    }
    const __m512i bytes = _mm512_packs_epi16(low, high);
    return _mm512_min_epi8(_mm512_max_epi8(bytes, range->least), range->most);
}

/* From that order to one vector after the other. */
static inline __m512i in_order(__m512i bytes) {
    const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(places, bytes);
}

#endif
