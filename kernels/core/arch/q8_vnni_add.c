/* The residual sum of the int8 layers for AVX-512. */
#include "q8.h"

#if defined(SEAM_X86)
#include "q8_vnni.h"

/* One input. Most often one of the two has a scale of exactly a half, the larger one. */
typedef struct {
    __m512i zero;
    falling16 scale;
} side;

static inline falling16 falling_one(int32_t multiplier, int32_t shift) {
    return falling_of(_mm512_set1_epi32(multiplier), _mm512_set1_epi32(shift));
}

static inline int is_half(int32_t multiplier, int32_t shift) {
    return multiplier == 1 << 30 && shift == 0;
}

FIXED __m512i side_of(const int half, const side *s, __m128i bytes) {
    const __m512i value = _mm512_sub_epi32(_mm512_cvtepi8_epi32(bytes), s->zero);
    if (half)
        return _mm512_slli_epi32(value, SEAM_Q8_SUM_SHIFT - 1);
    const __m512i found = falling_rescale(_mm512_slli_epi32(value, SEAM_Q8_SUM_SHIFT), &s->scale);
    return _mm512_srai_epi32(_mm512_add_epi32(found, _mm512_set1_epi32(1)), 1);
}

FIXED void add_fixed(const int a_half, const int b_half, int8_t *y, const int8_t *a,
                     const int8_t *b, const seam_q8_sum *how, size_t count) {
    const range64 range = range_of(how->y_zero, how->y_min, how->y_max, 1);
    const side from_a = {_mm512_set1_epi32(how->a_zero),
                         falling_one(how->a_multiplier, how->a_shift)};
    const side from_b = {_mm512_set1_epi32(how->b_zero),
                         falling_one(how->b_multiplier, how->b_shift)};
    const falling16 scale = falling_one(how->y_multiplier, how->y_shift);
    for (size_t i = 0; i < count; i += 64) {
        const int32_t n = count - i < 64 ? (int32_t)(count - i) : 64;
        int8_t some[2][64];
        const int8_t *at[2] = {a + i, b + i};
        if (n < 64)
            for (int s = 0; s < 2; s++) {
                memcpy(some[s], at[s], (size_t)n);
                memset(some[s] + n, 0, (size_t)(64 - n));
                at[s] = some[s];
            }
        __m512i sum[4];
        EACH (v, 4) {
            const __m128i *left = (const __m128i *)(const void *)(at[0] + 16 * v);
            const __m128i *right = (const __m128i *)(const void *)(at[1] + 16 * v);
            sum[v] = _mm512_add_epi32(side_of(a_half, &from_a, _mm_loadu_si128(left)),
                                      side_of(b_half, &from_b, _mm_loadu_si128(right)));
            sum[v] = falling_rescale(sum[v], &scale);
        }
        const __m512i bytes = in_order(narrow(sum[0], sum[1], sum[2], sum[3], &range, 1));
        if (n == 64) {
            _mm512_storeu_si512(y + i, bytes);
        } else {
            _mm512_storeu_si512(some[0], bytes);
            memcpy(y + i, some[0], (size_t)n);
        }
    }
}

void seam_q8_vnni_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count) {
    const int a_half = is_half(how->a_multiplier, how->a_shift);
    const int b_half = is_half(how->b_multiplier, how->b_shift);
    if (how->y_shift == 0 || (!a_half && how->a_shift == 0) || (!b_half && how->b_shift == 0))
        seam_q8_avx2_add(y, a, b, how, count);
    else if (a_half && b_half)
        add_fixed(1, 1, y, a, b, how, count);
    else if (a_half)
        add_fixed(1, 0, y, a, b, how, count);
    else if (b_half)
        add_fixed(0, 1, y, a, b, how, count);
    else
        add_fixed(0, 0, y, a, b, how, count);
}

SEAM_TARGET_END
#endif
