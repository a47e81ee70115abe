/* The micro-kernels of the int8 layers for AVX-512 VNNI: four bytes of terms into a 32-bit sum.
 *
 * Its product wants one operand unsigned: patches hold x + 128, and the sum starts at
 * bias - (x_zero + 128) * sum of w instead of the bias. */
#include "q8.h"

#if defined(SEAM_X86)
#include <immintrin.h>
#include <string.h>

SEAM_TARGET_VNNI

#define FIXED static inline __attribute__((always_inline))
#define LANES 16
#define TILE 8

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline __mmask16 first_lanes(int32_t n) {
    return (__mmask16)((1u << n) - 1u);
}

static inline __mmask64 first_bytes(int32_t n) {
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1u;
}

/* ---- Requantisation of sixteen sums ---- */

typedef struct {
    __m512i multiplier, left, right, mask; /* mask: 2^right - 1 */
} scale16;

static inline scale16 scale_load(const seam_q8_job *job, int32_t c, int32_t n) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    const __mmask16 used = first_lanes(n);
    const __m512i shift = job->scale_step == 0 ? _mm512_set1_epi32(*job->shift)
                                               : _mm512_maskz_loadu_epi32(used, job->shift + c);
    scale16 s = {.multiplier = job->scale_step == 0
                                   ? _mm512_set1_epi32(*job->multiplier)
                                   : _mm512_maskz_loadu_epi32(used, job->multiplier + c),
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

typedef struct {
    __m512i zero, least, most;
} range16;

static inline void finish(int8_t *y, __m512i sum, const scale16 *scale, const range16 *range,
                          int32_t n) {
    const __m512i value = _mm512_add_epi32(rescale(sum, scale), range->zero);
    const __m512i kept = _mm512_min_epi32(_mm512_max_epi32(value, range->least), range->most);
    if (n == LANES) /* a masked store is slow */
        _mm_storeu_si128((__m128i *)(void *)y, _mm512_cvtepi32_epi8(kept));
    else
        _mm_mask_storeu_epi8(y, first_lanes(n), _mm512_cvtepi32_epi8(kept));
}

static inline range16 range_of(const seam_q8_job *job) {
    return (range16){_mm512_set1_epi32(job->y_zero), _mm512_set1_epi32(job->y_min),
                     _mm512_set1_epi32(job->y_max)};
}

/* ---- Patches: bytes x + 128, any to the end of a vector ---- */

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    uint8_t *row = (uint8_t *)to + at;
    const __m512i flip = _mm512_set1_epi8(-128), padding = _mm512_set1_epi8((int8_t)(x_zero + 128));
    for (int32_t r = 0; r < rows; r++, row += to_step) {
        for (int32_t i = 0; i < count; i += 64) {
            const __mmask64 used = first_bytes(count - i);
            __m512i bytes = padding;
            if (x != NULL)
                bytes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(used, x + i), flip);
            _mm512_mask_storeu_epi8(row + i, used, bytes);
        }
        x = x == NULL ? NULL : x + x_step;
    }
}

static void patch_end(void *to, int32_t terms) {
    memset((uint8_t *)to + terms, 0, (size_t)((terms + 3) / 4 * 4 - terms));
}

/* ---- Tiles from packed weights: [channels / 16]([16] int32 sums of w, [terms / 4][16][4]) ---- */

static size_t block_bytes(int32_t terms) {
    return (((size_t)terms + 3) / 4 + 1) * 4 * LANES;
}

static size_t packed_size(int32_t channels, int32_t terms) {
    return ((size_t)channels + LANES - 1) / LANES * block_bytes(terms);
}

/* Four terms of up to sixteen channels, one dword each; w: of the first channel. */
static inline __m512i four_terms(const int8_t *w, __m512i rows, int32_t used, int32_t left,
                                 int32_t terms) {
    if (left >= 4)
        return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), first_lanes(used), rows, w, 1);
    int8_t bytes[LANES][4] = {{0}};
    for (int32_t l = 0; l < used; l++)
        memcpy(bytes[l], w + (ptrdiff_t)l * terms, (size_t)left);
    return _mm512_loadu_si512(bytes);
}

static void pack(void *packed, const seam_q8_job *job) {
    const __m512i rows =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                           _mm512_set1_epi32(job->terms));
    char *to = packed;
    for (int32_t c = 0; c < job->channels; c += LANES, to += block_bytes(job->terms)) {
        const int32_t used = lesser(LANES, job->channels - c);
        const int8_t *w = job->w + (ptrdiff_t)c * job->terms;
        __m512i sum = _mm512_setzero_si512();
        for (int32_t k = 0; k < job->terms; k += 4) {
            const __m512i four = four_terms(w + k, rows, used, job->terms - k, job->terms);
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), four);
            _mm512_storeu_si512(to + (size_t)(k + 4) * LANES, four);
        }
        _mm512_storeu_si512(to, sum);
    }
}

/* P pixels x V vectors of channels from c on. */
FIXED void tile_fixed(const int P, const int V, int8_t *y, ptrdiff_t y_step, const uint8_t *x,
                      const seam_q8_job *job, int32_t c, const range16 *range) {
    const size_t step = seam_q8_padded(job->terms), block = block_bytes(job->terms);
    const char *w = (const char *)job->packed + (size_t)c / LANES * block;
    const int32_t last = lesser(LANES, job->channels - c - (V - 1) * LANES);
    const __m512i shift = _mm512_set1_epi32(job->x_zero + 128);
    __m512i sum[TILE][3];
    EACH (v, V) {
        const __mmask16 used = first_lanes(v < V - 1 ? LANES : last);
        const __m512i bias = job->bias == NULL
                                 ? _mm512_setzero_si512()
                                 : _mm512_maskz_loadu_epi32(used, job->bias + c + v * LANES);
        const __m512i sums = _mm512_loadu_si512(w + (size_t)v * block);
        EACH (p, P)
            sum[p][v] = _mm512_sub_epi32(bias, _mm512_mullo_epi32(shift, sums));
    }
    w += 4 * LANES;
    for (int32_t k = 0; k < job->terms; k += 4, w += 4 * LANES) {
        __m512i row[3];
        EACH (v, V)
            row[v] = _mm512_loadu_si512(w + (size_t)v * block);
        EACH (p, P) {
            int32_t four;
            memcpy(&four, x + (size_t)p * step + k, sizeof four);
            const __m512i terms = _mm512_set1_epi32(four);
            EACH (v, V)
                sum[p][v] = _mm512_dpbusd_epi32(sum[p][v], terms, row[v]);
        }
    }
    EACH (v, V) {
        const int32_t n = v < V - 1 ? LANES : last;
        const scale16 scale = scale_load(job, c + v * LANES, n);
        EACH (p, P)
            finish(y + p * y_step + c + v * LANES, sum[p][v], &scale, range, n);
    }
}

FIXED void tile_channels(const int P, int8_t *y, ptrdiff_t y_step, const uint8_t *x,
                         const seam_q8_job *job, const range16 *range) {
    for (int32_t c = 0; c < job->channels;) {
        const int32_t vectors = (job->channels - c + LANES - 1) / LANES;
        const int32_t now = vectors == 4 ? 2 : lesser(vectors, 3); /* as even as they go */
        if (now == 1)
            tile_fixed(P, 1, y, y_step, x, job, c, range);
        else if (now == 2)
            tile_fixed(P, 2, y, y_step, x, job, c, range);
        else
            tile_fixed(P, 3, y, y_step, x, job, c, range);
        c += now * LANES;
    }
}

/* ---- Few pixels: sums along the terms of weights as they lie ---- */

static void dot(int8_t *y, const uint8_t *x, const seam_q8_job *job, const range16 *range) {
    const __m512i zero = _mm512_set1_epi8((int8_t)(job->x_zero + 128));
    for (int32_t c = 0; c < job->channels; c += LANES) {
        const int32_t used = lesser(LANES, job->channels - c);
        int32_t sums[LANES] = {0};
        for (int32_t l = 0; l < used; l++) {
            const int8_t *w = job->w + (ptrdiff_t)(c + l) * job->terms;
            __m512i sum = _mm512_setzero_si512(), extra = sum;
            for (int32_t k = 0; k < job->terms; k += 64) {
                const __mmask64 some = first_bytes(job->terms - k);
                const __m512i row = _mm512_maskz_loadu_epi8(some, w + k);
                sum = _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(some, x + k), row);
                extra = _mm512_dpbusd_epi32(extra, zero, row);
            }
            sums[l] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, extra));
        }
        __m512i total = _mm512_loadu_si512(sums);
        if (job->bias != NULL)
            total =
                _mm512_add_epi32(total, _mm512_maskz_loadu_epi32(first_lanes(used), job->bias + c));
        const scale16 scale = scale_load(job, c, used);
        finish(y + c, total, &scale, range, used);
    }
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const range16 range = range_of(job);
    const size_t step = seam_q8_padded(job->terms);
    const uint8_t *x = patches;
    if (job->packed != NULL && pixels == TILE) {
        tile_channels(TILE, y, y_step, x, job, &range);
        return;
    }
    for (int32_t p = 0; p < pixels; p++, y += y_step, x += step)
        if (job->packed != NULL)
            tile_channels(1, y, y_step, x, job, &range);
        else
            dot(y, x, job, &range);
}

/* Nothing but multiply-adds, in registers: the most a core can do. */
static int32_t peak(uint32_t rounds) {
    __m512i sum[SEAM_PEAK_VECTORS];
    EACH (p, SEAM_PEAK_VECTORS)
        sum[p] = _mm512_set1_epi32(p);
    const __m512i three = _mm512_set1_epi8(3);
    for (uint32_t r = 0; r < rounds; r++)
        EACH (p, SEAM_PEAK_VECTORS)
            sum[p] = _mm512_dpbusd_epi32(sum[p], three, three);
    EACH (p, SEAM_PEAK_VECTORS)
        sum[0] = _mm512_add_epi32(sum[0], sum[p]);
    return _mm512_cvtsi512_si32(sum[0]);
}

const seam_q8_kernels seam_q8_kernels_vnni = {
    .pixels = TILE,
    .packed_size = packed_size,
    .pack = pack,
    .patch = patch,
    .patch_end = patch_end,
    .tile = tile,
    .depthwise = seam_q8_avx2_depthwise,
    .add = seam_q8_avx2_add,
    .requantise = seam_q8_avx2_requantise,
    .peak_products = 4 * LANES,
    .peak = peak,
};

SEAM_TARGET_END
#endif
