/* The codec's loops for AVX2, where one instruction takes a floor. */
#include "codec.h"
#include "compiler.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_AVX2

#define OWN_PARTS
#define CODEC seam_codec_avx2
#define VALUES 8 /* in a vector */

static inline __m256i floor_of(const float *x, const float *u, const seam_quantiser *how) {
    const __m256 t =
        _mm256_fmadd_ps(_mm256_loadu_ps(x), _mm256_set1_ps(how->inv), _mm256_set1_ps(how->zero));
    return _mm256_cvtps_epi32(_mm256_floor_ps(
        _mm256_add_ps(t, how->stochastic ? _mm256_loadu_ps(u) : _mm256_set1_ps(0.5f))));
}

/* 32 values as bytes, in order. */
static inline __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i low = _mm256_packs_epi32(a, b), high = _mm256_packs_epi32(c, d);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline __m256i bytes_of(const float *x, const float *u, const seam_quantiser *how) {
    return narrow(floor_of(x, u, how), floor_of(x + 8, u + 8, how), floor_of(x + 16, u + 16, how),
                  floor_of(x + 24, u + 24, how));
}

static inline void part_to_int8(int8_t *q, const float *x, const float *u,
                                const seam_quantiser *how) {
    for (int k = 0; k < SEAM_CODEC_PART; k += 4 * VALUES)
        _mm256_storeu_si256((__m256i *)(void *)(q + k), bytes_of(x + k, u + k, how));
}

static inline void part_to_pairs(uint8_t *pairs, const float *x, const float *u,
                                 const seam_quantiser *how) {
    for (int k = 0; k < SEAM_CODEC_PART; k += 4 * VALUES) {
        __m256i q = bytes_of(x + k, u + k, how);
        q = _mm256_max_epi8(_mm256_set1_epi8(-8), _mm256_min_epi8(_mm256_set1_epi8(7), q));
        q = _mm256_and_si256(q, _mm256_set1_epi8(15));
        const __m256i pair = _mm256_maddubs_epi16(q, _mm256_set1_epi16(0x1001)); /* low + 16 high */
        _mm_storeu_si128(
            (__m128i *)(void *)(pairs + k / 2),
            _mm_packus_epi16(_mm256_castsi256_si128(pair), _mm256_extracti128_si256(pair, 1)));
    }
}

/* Also the largest bits of what is rounded away, without its sign; a NaN's are more. */
static inline __m256i nearest(const float *x, __m256 inv, __m256i zero, __m256i *most) {
    __m256 t = _mm256_mul_ps(_mm256_loadu_ps(x), inv);
    t = _mm256_min_ps(_mm256_set1_ps(512.0f), t);
    t = _mm256_max_ps(_mm256_set1_ps(-512.0f), t);
    const __m256i whole = _mm256_cvtps_epi32(t);
    const __m256i rest = _mm256_castps_si256(_mm256_sub_ps(t, _mm256_cvtepi32_ps(whole)));
    *most = _mm256_max_epi32(*most, _mm256_and_si256(rest, _mm256_set1_epi32(0x7FFFFFFF)));
    return _mm256_add_epi32(whole, zero);
}

static inline int round_part(int8_t *q, const float *x, float inv, int32_t zero) {
    const __m256 scale = _mm256_set1_ps(inv);
    const __m256i middle = _mm256_set1_epi32(zero);
    __m256i most = _mm256_setzero_si256();
    for (int k = 0; k < SEAM_CODEC_PART; k += 4 * VALUES) {
        const __m256i a = nearest(x + k, scale, middle, &most);
        const __m256i b = nearest(x + k + 8, scale, middle, &most);
        const __m256i c = nearest(x + k + 16, scale, middle, &most);
        const __m256i d = nearest(x + k + 24, scale, middle, &most);
        _mm256_storeu_si256((__m256i *)(void *)(q + k), narrow(a, b, c, d));
    }
    const __m256i near = _mm256_cmpgt_epi32(_mm256_set1_epi32(SEAM_CODEC_SURE), most);
    return _mm256_movemask_epi8(near) == -1;
}

#include "codec_loops.h"

SEAM_TARGET_END
#endif
