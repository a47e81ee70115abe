/* The micro-kernels for x86-64 with AVX2 and FMA: eight floats at a time, sixteen registers. */
#include "arch.h"

#if defined(SEAM_X86)
#include <immintrin.h>

SEAM_TARGET_AVX2

#define LANES 8
#define TILE_1 8
#define TILE_2 6
#define TILE_3 4
#define OUTER_1 8
#define OUTER_2 6
#define OUTER_3 4
#define DEPTHWISE_TILE 6
#define VARIANT seam_kernels_avx2
#define VARIANT_Q8 seam_q8_kernels_avx2
#define VARIANT_TRAIN seam_q8_train_avx2
#define VARIANT_CODEC seam_codec_avx2
#define VARIANT_NAME "avx2"

typedef __m256 vec;

/* A window of eight of these has the first n lanes set. */
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

static inline __m256i v_mask(int n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(lane_masks + 8 - n));
}

static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}

static inline vec v_load_n(const float *p, int n) {
    return _mm256_maskload_ps(p, v_mask(n));
}

static inline void v_store(float *p, vec v) {
    _mm256_storeu_ps(p, v);
}

static inline void v_store_n(float *p, vec v, int n) {
    if (n == 8) /* a masked store is slow */
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, v_mask(n), v);
}

static inline vec v_set(float x) {
    return _mm256_set1_ps(x);
}

static inline vec v_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* Eight rows of eight become eight columns. */
static inline void v_transpose(vec *rows) {
    vec a[8], b[8];
    for (int i = 0; i < 4; i++) { /* pairs of rows: columns 0 1 4 5, and 2 3 6 7 */
        a[i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        a[i + 4] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) { /* four rows: columns 0 4, 1 5, 2 6, 3 7 */
        const vec top = a[i / 2 * 4], middle = a[i / 2 * 4 + 1];
        const vec low = a[i / 2 * 4 + 2], bottom = a[i / 2 * 4 + 3];
        b[i] = i % 2 ? _mm256_shuffle_ps(top, middle, 0xEE) : _mm256_shuffle_ps(top, middle, 0x44);
        b[i + 4] =
            i % 2 ? _mm256_shuffle_ps(low, bottom, 0xEE) : _mm256_shuffle_ps(low, bottom, 0x44);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

#include "kernels.h"

SEAM_TARGET_END
#endif
