/* The micro-kernels for x86-64 with AVX-512 and its byte products: sixteen floats at a time, 32
 * registers. */
#include "arch.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_VNNI

#define LANES 16
#define TILE_1 8
#define TILE_2 8
#define TILE_3 8
#define OUTER_1 8
#define OUTER_2 8
#define OUTER_3 8
#define DEPTHWISE_TILE 8
#define NARROW seam_kernels_avx2
#define VARIANT seam_kernels_vnni
#define VARIANT_Q8 seam_q8_kernels_vnni
#define VARIANT_TRAIN seam_q8_train_vnni
#define VARIANT_CODEC seam_codec_vnni
#define VARIANT_NAME "vnni"

typedef __m512 vec;

static inline __mmask16 v_mask(int n) {
    return (__mmask16)((1u << n) - 1u);
}

static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}

static inline vec v_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

static inline void v_store(float *p, vec v) {
    _mm512_storeu_ps(p, v);
}

static inline void v_store_n(float *p, vec v, int n) {
    if (n == LANES) /* a masked store is slow */
        _mm512_storeu_ps(p, v);
    else
        _mm512_mask_storeu_ps(p, v_mask(n), v);
}

static inline vec v_set(float x) {
    return _mm512_set1_ps(x);
}

static inline vec v_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* Sixteen rows of sixteen become sixteen columns. */
static inline void v_transpose(vec *rows) {
    vec pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i++) { /* lane q of fours[4 g + c]: column 4 q + c of rows 4 g .. */
        const __m512d low = _mm512_castps_pd(pairs[i / 4 * 4 + i % 4 / 2]);
        const __m512d high = _mm512_castps_pd(pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        fours[i] =
            _mm512_castpd_ps(i % 2 ? _mm512_unpackhi_pd(low, high) : _mm512_unpacklo_pd(low, high));
    }
    for (int c = 0; c < 4; c++) {
        const vec even_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
        const vec even_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
        const vec odd_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xDD);
        const vec odd_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xDD);
        rows[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        rows[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        rows[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
        rows[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
    }
}

#include "kernels.h"

SEAM_TARGET_END
#endif
