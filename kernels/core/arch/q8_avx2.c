/* The micro-kernels of the int8 layers for AVX2: pairs of 16-bit terms into 32-bit sums. */
#include "q8.h"

#if defined(SEAM_X86)
#include <immintrin.h>
#include <string.h>

SEAM_TARGET_AVX2

#include "../q8_requant.h"

#define FIXED static inline __attribute__((always_inline))
#define LANES 8
#define TILE 4

static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* ---- Requantisation of eight sums ---- */

typedef struct {
    __m256i multiplier, left, right, mask; /* mask: 2^right - 1 */
} scale8;

static inline __m256i load_n(const int32_t *p, int32_t n) {
    return _mm256_maskload_epi32(
        p, _mm256_loadu_si256((const __m256i *)(const void *)(lane_masks + 8 - n)));
}

static inline scale8 scale_of(__m256i multiplier, __m256i shift) {
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi32(1);
    scale8 s = {.multiplier = multiplier,
                .left = _mm256_max_epi32(shift, zero),
                .right = _mm256_max_epi32(_mm256_sub_epi32(zero, shift), zero)};
    s.mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, s.right), one);
    return s;
}

/* Scales of channels [c, c + n), n <= 8. */
static inline scale8 scale_load(const seam_q8_job *job, int32_t c, int32_t n) {
    if (job->scale_step == 0)
        return scale_of(_mm256_set1_epi32(*job->multiplier), _mm256_set1_epi32(*job->shift));
    return scale_of(load_n(job->multiplier + c, n), load_n(job->shift + c, n));
}

static inline __m256i rescale(__m256i a, const scale8 *s) {
    const __m256i half = _mm256_set1_epi64x(1 << 30);
    const __m256i raised = _mm256_sllv_epi32(a, s->left);
    __m256i even = _mm256_mul_epi32(raised, s->multiplier);
    __m256i odd =
        _mm256_mul_epi32(_mm256_srli_epi64(raised, 32), _mm256_srli_epi64(s->multiplier, 32));
    even = _mm256_srli_epi64(_mm256_add_epi64(even, half), 31);
    odd = _mm256_slli_epi64(_mm256_add_epi64(odd, half), 1);
    const __m256i y = _mm256_blend_epi32(even, odd, 0xAA);
    const __m256i rest = _mm256_and_si256(y, s->mask);
    const __m256i least = _mm256_sub_epi32(_mm256_srli_epi32(s->mask, 1), _mm256_srai_epi32(y, 31));
    return _mm256_sub_epi32(_mm256_srav_epi32(y, s->right), _mm256_cmpgt_epi32(rest, least));
}

typedef struct {
    __m256i zero, least, most;
} range8;

static inline range8 range_of(int32_t zero, int32_t least, int32_t most) {
    return (range8){_mm256_set1_epi32(zero), _mm256_set1_epi32(least), _mm256_set1_epi32(most)};
}

/* Eight clamped bytes in the low half. */
static inline __m128i narrow(__m256i y, const range8 *range) {
    y = _mm256_add_epi32(y, range->zero);
    y = _mm256_min_epi32(_mm256_max_epi32(y, range->least), range->most);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    return _mm_packs_epi16(words, words);
}

static inline void store_n(int8_t *y, __m128i bytes, int32_t n) {
    const int64_t value = _mm_cvtsi128_si64(bytes);
    memcpy(y, &value, (size_t)n);
}

/* A constant size makes it one store. */
static inline void store_bytes(int8_t *y, __m128i bytes, int32_t n) {
    if (n == LANES)
        _mm_storel_epi64((__m128i *)(void *)y, bytes);
    else
        store_n(y, bytes, n);
}

static inline __m256i widen(const int8_t *x) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
}

/* n <= 8 values. */
static inline __m256i load8(const int8_t *x, int32_t n) {
    int64_t bytes = 0;
    if (n == LANES)
        memcpy(&bytes, x, LANES);
    else
        memcpy(&bytes, x, (size_t)n);
    return _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes));
}

/* ---- Patches: int16 differences to the zero point, zeros to the end of a vector ---- */

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    const __m256i zero = _mm256_set1_epi16((int16_t)x_zero);
    int16_t *row = (int16_t *)to + at;
    for (int32_t r = 0; r < rows; r++, row += to_step) {
        if (x == NULL) {
            memset(row, 0, (size_t)count * sizeof(int16_t));
            continue;
        }
        int32_t i = 0;
        for (; i + 16 <= count; i += 16)
            _mm256_storeu_si256((__m256i *)(void *)(row + i), _mm256_sub_epi16(widen(x + i), zero));
        if (i + 8 <= count) {
            const __m128i eight = _mm_loadl_epi64((const __m128i *)(const void *)(x + i));
            _mm_storeu_si128((__m128i *)(void *)(row + i),
                             _mm_sub_epi16(_mm_cvtepi8_epi16(eight), _mm256_castsi256_si128(zero)));
            i += 8;
        }
        for (; i < count; i++)
            row[i] = (int16_t)(x[i] - x_zero);
        x += x_step;
    }
}

static void patch_end(void *to, int32_t terms) {
    const int32_t end = (terms + 15) / 16 * 16;
    memset((int16_t *)to + terms, 0, (size_t)(end - terms) * sizeof(int16_t));
}

/* ---- Tiles from packed weights: [channels / 8][terms / 2][8][2] int16 ---- */

static size_t block_values(int32_t terms) {
    return ((size_t)terms + 1) / 2 * 2 * LANES;
}

static size_t packed_size(int32_t channels, int32_t terms) {
    return ((size_t)channels + LANES - 1) / LANES * block_values(terms) * sizeof(int16_t);
}

/* Four terms of up to eight channels, one dword each; w: of the first channel. */
static inline __m256i four_terms(const int8_t *w, __m256i rows, int32_t used, int32_t left,
                                 int32_t terms) {
    if (left >= 4) {
        const __m256i mask =
            _mm256_loadu_si256((const __m256i *)(const void *)(lane_masks + LANES - used));
        return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), (const int *)(const void *)w,
                                           rows, mask, 1);
    }
    int8_t bytes[LANES][4] = {{0}};
    for (int32_t l = 0; l < used; l++)
        memcpy(bytes[l], w + (ptrdiff_t)l * terms, (size_t)left);
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

static void pack(void *packed, const seam_q8_job *job) {
    /* Bytes 0 and 1, 2 and 3 of each dword to the upper halves of two words. */
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    const __m256i second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
    const __m256i rows = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                            _mm256_set1_epi32(job->terms));
    int16_t *to = packed;
    for (int32_t c = 0; c < job->channels; c += LANES, to += block_values(job->terms)) {
        const int32_t used = lesser(LANES, job->channels - c);
        const int8_t *w = job->w + (ptrdiff_t)c * job->terms;
        for (int32_t k = 0; k < job->terms; k += 4) {
            const int32_t left = job->terms - k;
            const __m256i four = four_terms(w + k, rows, used, left, job->terms);
            __m256i *at = (__m256i *)(void *)(to + (size_t)k * LANES);
            _mm256_storeu_si256(at, _mm256_srai_epi16(_mm256_shuffle_epi8(four, first), 8));
            if (left > 2)
                _mm256_storeu_si256(at + 1,
                                    _mm256_srai_epi16(_mm256_shuffle_epi8(four, second), 8));
        }
    }
}

/* P pixels x V vectors of channels from c on. */
FIXED void tile_fixed(const int P, const int V, int8_t *y, ptrdiff_t y_step, const int16_t *x,
                      const seam_q8_job *job, int32_t c, const range8 *range) {
    const size_t patch_step = seam_q8_padded(job->terms);
    const size_t block = block_values(job->terms);
    const int16_t *w = (const int16_t *)job->packed + (size_t)c / LANES * block;
    const int32_t last = lesser(LANES, job->channels - c - (V - 1) * LANES);
    __m256i sum[TILE][2];
    EACH (v, V) {
        const __m256i bias = job->bias == NULL
                                 ? _mm256_setzero_si256()
                                 : load_n(job->bias + c + v * LANES, v < V - 1 ? LANES : last);
        EACH (p, P)
            sum[p][v] = bias;
    }
    for (int32_t k = 0; k < job->terms; k += 2) {
        __m256i row[2];
        EACH (v, V)
            row[v] = _mm256_loadu_si256(
                (const __m256i *)(const void *)(w + (size_t)v * block + (size_t)k * LANES));
        EACH (p, P) {
            int32_t two;
            memcpy(&two, x + (size_t)p * patch_step + k, sizeof two);
            const __m256i pair = _mm256_set1_epi32(two);
            EACH (v, V)
                sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(pair, row[v]));
        }
    }
    EACH (v, V) {
        const int32_t n = v < V - 1 ? LANES : last;
        const scale8 scale = scale_load(job, c + v * LANES, n);
        EACH (p, P)
            store_bytes(y + p * y_step + c + v * LANES, narrow(rescale(sum[p][v], &scale), range),
                        n);
    }
}

static void tile_packed(int8_t *y, ptrdiff_t y_step, const int16_t *x, int32_t pixels,
                        const seam_q8_job *job) {
    const range8 range = range_of(job->y_zero, job->y_min, job->y_max);
    const size_t patch_step = seam_q8_padded(job->terms);
    for (int32_t c = 0; c < job->channels; c += 2 * LANES) {
        const int one = job->channels - c <= LANES;
        if (pixels == TILE) {
            if (one)
                tile_fixed(TILE, 1, y, y_step, x, job, c, &range);
            else
                tile_fixed(TILE, 2, y, y_step, x, job, c, &range);
            continue;
        }
        for (int32_t p = 0; p < pixels; p++) {
            int8_t *yp = y + p * y_step;
            const int16_t *xp = x + (size_t)p * patch_step;
            if (one)
                tile_fixed(1, 1, yp, y_step, xp, job, c, &range);
            else
                tile_fixed(1, 2, yp, y_step, xp, job, c, &range);
        }
    }
}

/* ---- Few pixels: sums along the terms of weights as they lie ---- */

/* Sums of the lanes of eight vectors, in order. */
static inline __m256i lane_sums(const __m256i *s) {
    const __m256i a = _mm256_hadd_epi32(s[0], s[1]), b = _mm256_hadd_epi32(s[2], s[3]);
    const __m256i c = _mm256_hadd_epi32(s[4], s[5]), d = _mm256_hadd_epi32(s[6], s[7]);
    const __m256i low = _mm256_hadd_epi32(a, b), high = _mm256_hadd_epi32(c, d);
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
}

/* Channels [c, c + n) of one pixel, n <= 8. */
static void dot(int8_t *y, const int16_t *x, const seam_q8_job *job, int32_t c, int32_t n,
                const range8 *range) {
    const int32_t terms = job->terms, whole = terms / 16 * 16, rest = terms - whole;
    const int8_t *w[LANES];
    __m256i sum[LANES];
    EACH (l, LANES) {
        w[l] = job->w + (ptrdiff_t)(c + lesser(l, n - 1)) * terms;
        sum[l] = _mm256_setzero_si256();
    }
    for (int32_t k = 0; k < whole; k += 16) {
        const __m256i row = _mm256_loadu_si256((const __m256i *)(const void *)(x + k));
        EACH (l, LANES)
            sum[l] = _mm256_add_epi32(sum[l], _mm256_madd_epi16(row, widen(w[l] + k)));
    }
    if (rest > 0) {
        const __m256i row = _mm256_loadu_si256((const __m256i *)(const void *)(x + whole));
        EACH (l, LANES) {
            int8_t end[16] = {0};
            memcpy(end, w[l] + whole, (size_t)rest);
            sum[l] = _mm256_add_epi32(sum[l], _mm256_madd_epi16(row, widen(end)));
        }
    }
    __m256i total = lane_sums(sum);
    if (job->bias != NULL)
        total = _mm256_add_epi32(total, load_n(job->bias + c, n));
    const scale8 scale = scale_load(job, c, n);
    store_bytes(y + c, narrow(rescale(total, &scale), range), n);
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    if (job->packed != NULL) {
        tile_packed(y, y_step, patches, pixels, job);
        return;
    }
    const range8 range = range_of(job->y_zero, job->y_min, job->y_max);
    const size_t patch_step = seam_q8_padded(job->terms);
    for (int32_t c = 0; c < job->channels; c += LANES)
        for (int32_t p = 0; p < pixels; p++)
            dot(y + p * y_step, (const int16_t *)patches + (size_t)p * patch_step, job, c,
                lesser(LANES, job->channels - c), &range);
}

/* ---- Depthwise: sixteen channels, two taps at a time ---- */

#define DEPTH 16

/* Two taps as pairs: channels 0-3 and 8-11, channels 4-7 and 12-15. */
typedef struct {
    __m256i low, high;
} pairs;

static inline pairs pairs_of(__m256i a, __m256i b) {
    return (pairs){_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
}

/* P pixels, channels [c, c + 16); two: the step takes this tap and its neighbour on the right. */
FIXED void depthwise_taps(const int P, const int two, __m256i (*sum)[2], const int8_t *x,
                          const int8_t *w, const seam_q8_line *line, __m256i zero) {
    const __m256i none = _mm256_setzero_si256();
    const pairs weight = pairs_of(widen(w), two ? widen(w + line->w_col) : none);
    EACH (p, P) {
        const int8_t *at = x + p * line->x_pixel;
        const __m256i first = _mm256_sub_epi16(widen(at), zero);
        const __m256i second = two ? _mm256_sub_epi16(widen(at + line->x_col), zero) : none;
        const pairs value = pairs_of(first, second);
        sum[p][0] = _mm256_add_epi32(sum[p][0], _mm256_madd_epi16(value.low, weight.low));
        sum[p][1] = _mm256_add_epi32(sum[p][1], _mm256_madd_epi16(value.high, weight.high));
    }
}

FIXED void depthwise_fixed(const int P, int8_t *y, const int8_t *x, const seam_q8_line *line,
                           int32_t c, const range8 *range) {
    const seam_q8_job *job = &line->job;
    const __m256i zero = _mm256_set1_epi16((int16_t)job->x_zero);
    __m256i sum[4][2];
    EACH (p, P)
        sum[p][0] = sum[p][1] = _mm256_setzero_si256();
    for (int32_t i = 0; i < line->rows; i++) {
        const int8_t *from = x + i * line->x_row + c, *w = job->w + i * line->w_row + c;
        int32_t j = 0;
        for (; j + 2 <= line->cols; j += 2, from += 2 * line->x_col, w += 2 * line->w_col)
            depthwise_taps(P, 1, sum, from, w, line, zero);
        if (j < line->cols)
            depthwise_taps(P, 0, sum, from, w, line, zero);
    }
    for (int v = 0; v < 2; v++) {
        const scale8 scale = scale_load(job, c + v * LANES, LANES);
        const __m256i bias =
            job->bias == NULL ? _mm256_setzero_si256() : load_n(job->bias + c + v * LANES, LANES);
        EACH (p, P) {
            const __m256i ordered = v == 0 ? _mm256_permute2x128_si256(sum[p][0], sum[p][1], 0x20)
                                           : _mm256_permute2x128_si256(sum[p][0], sum[p][1], 0x31);
            const __m256i total = _mm256_add_epi32(ordered, bias);
            store_bytes(y + p * line->y_pixel + c + v * LANES,
                        narrow(rescale(total, &scale), range), LANES);
        }
    }
}

/* Fewer than 16 channels, one vector of eight at a time. */
static void depthwise_narrow(int8_t *y, const int8_t *x, const seam_q8_line *line, int32_t c,
                             int32_t n, const range8 *range) {
    const seam_q8_job *job = &line->job;
    const scale8 scale = scale_load(job, c, n);
    const __m256i bias = job->bias == NULL ? _mm256_setzero_si256() : load_n(job->bias + c, n);
    const __m256i zero = _mm256_set1_epi32(job->x_zero), low = _mm256_set1_epi32(0xFFFF);
    for (int32_t p = 0; p < line->pixels; p++) {
        __m256i sum = bias;
        for (int32_t i = 0; i < line->rows; i++)
            for (int32_t j = 0; j < line->cols; j++) {
                const int8_t *from = x + p * line->x_pixel + i * line->x_row + j * line->x_col + c;
                const int8_t *w = job->w + i * line->w_row + j * line->w_col + c;
                const __m256i value = _mm256_sub_epi32(load8(from, n), zero);
                const __m256i weight = _mm256_and_si256(load8(w, n), low); /* no upper product */
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(value, weight));
            }
        store_bytes(y + p * line->y_pixel + c, narrow(rescale(sum, &scale), range), n);
    }
}

void seam_q8_avx2_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line) {
    const int32_t channels = line->job.channels;
    const range8 range = range_of(line->job.y_zero, line->job.y_min, line->job.y_max);
    if (channels < DEPTH) {
        for (int32_t c = 0; c < channels; c += LANES)
            depthwise_narrow(y, x, line, c, lesser(LANES, channels - c), &range);
        return;
    }
    for (int32_t start = 0; start < channels; start += DEPTH) {
        const int32_t c = lesser(start, channels - DEPTH); /* the last ones may be done twice */
        int32_t p = 0;
        for (; p + 4 <= line->pixels; p += 4)
            depthwise_fixed(4, y + p * line->y_pixel, x + p * line->x_pixel, line, c, &range);
        for (; p < line->pixels; p++)
            depthwise_fixed(1, y + p * line->y_pixel, x + p * line->x_pixel, line, c, &range);
    }
}

/* ---- Element by element ---- */

static inline scale8 scale_one(int32_t multiplier, int32_t shift) {
    return scale_of(_mm256_set1_epi32(multiplier), _mm256_set1_epi32(shift));
}

void seam_q8_avx2_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count) {
    const range8 range = range_of(how->y_zero, how->y_min, how->y_max);
    const scale8 a_scale = scale_one(how->a_multiplier, how->a_shift);
    const scale8 b_scale = scale_one(how->b_multiplier, how->b_shift);
    const scale8 y_scale = scale_one(how->y_multiplier, how->y_shift);
    const __m256i a_zero = _mm256_set1_epi32(how->a_zero), b_zero = _mm256_set1_epi32(how->b_zero);
    for (size_t i = 0; i < count; i += LANES) {
        const int32_t n = count - i < LANES ? (int32_t)(count - i) : LANES;
        const __m256i left = _mm256_sub_epi32(load8(a + i, n), a_zero);
        const __m256i right = _mm256_sub_epi32(load8(b + i, n), b_zero);
        const __m256i sum =
            _mm256_add_epi32(rescale(_mm256_slli_epi32(left, SEAM_Q8_SUM_SHIFT), &a_scale),
                             rescale(_mm256_slli_epi32(right, SEAM_Q8_SUM_SHIFT), &b_scale));
        store_bytes(y + i, narrow(rescale(sum, &y_scale), &range), n);
    }
}

void seam_q8_avx2_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    const range8 range = range_of(how->y_zero, how->y_min, how->y_max);
    const scale8 scale = scale_one(*how->multiplier, *how->shift);
    const __m256i zero = _mm256_set1_epi32(how->x_zero);
    for (size_t i = 0; i < count; i += LANES) {
        const int32_t n = count - i < LANES ? (int32_t)(count - i) : LANES;
        const __m256i value = _mm256_sub_epi32(load8(x + i, n), zero);
        store_bytes(y + i, narrow(rescale(value, &scale), &range), n);
    }
}

/* The sums of one row of weights, or of four. */
FIXED void lone_channels(const int C, int8_t *y, const int8_t *x, const seam_q8_job *job,
                         int32_t c) {
    const int32_t terms = job->terms, whole = terms & ~15;
    const __m256i zero = _mm256_set1_epi16((int16_t)job->x_zero);
    const int8_t *w = job->w + (ptrdiff_t)c * terms;
    __m256i sums[4];
    EACH (i, C)
        sums[i] = _mm256_setzero_si256();
    for (int32_t k = 0; k < whole; k += 16) {
        const __m256i values = _mm256_sub_epi16(
            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(x + k))), zero);
        EACH (i, C) {
            const int8_t *row = w + (ptrdiff_t)i * terms + k;
            const __m256i weights =
                _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)row));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(values, weights));
        }
    }
    EACH (i, C) {
        const int32_t at = (c + i) * job->scale_step;
        const int8_t *row = w + (ptrdiff_t)i * terms;
        int32_t each[8], sum = job->bias != NULL ? job->bias[c + i] : 0;
        _mm256_storeu_si256((__m256i *)(void *)each, sums[i]);
        for (int32_t k = 0; k < 8; k++)
            sum += each[k];
        for (int32_t k = whole; k < terms; k++)
            sum += (x[k] - job->x_zero) * row[k];
        const int32_t value = seam_q8_rescale(sum, job->multiplier[at], job->shift[at]);
        y[c + i] = seam_q8_clamp(value + job->y_zero, job->y_min, job->y_max);
    }
}

void seam_q8_avx2_lone(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    int32_t c = 0;
    for (; c + 4 <= job->channels; c += 4)
        lone_channels(4, y, x, job, c);
    for (; c < job->channels; c++)
        lone_channels(1, y, x, job, c);
}

/* Nothing but multiply-adds, in registers: the most a core can do. */
static int32_t peak(uint32_t rounds) {
    __m256i sum[SEAM_PEAK_VECTORS];
    EACH (p, SEAM_PEAK_VECTORS)
        sum[p] = _mm256_set1_epi32(p);
    const __m256i three = _mm256_set1_epi16(3);
    for (uint32_t r = 0; r < rounds; r++)
        EACH (p, SEAM_PEAK_VECTORS)
            sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(sum[p], three));
    EACH (p, SEAM_PEAK_VECTORS)
        sum[0] = _mm256_add_epi32(sum[0], sum[p]);
    return _mm256_cvtsi256_si32(sum[0]);
}

const seam_q8_kernels seam_q8_kernels_avx2 = {
    .pixels = TILE,
    .packed_size = packed_size,
    .pack = pack,
    .patch = patch,
    .patch_end = patch_end,
    .tile = tile,
    .lone = seam_q8_avx2_lone,
    .depthwise = seam_q8_avx2_depthwise,
    .add = seam_q8_avx2_add,
    .requantise = seam_q8_avx2_requantise,
    .peak_products = 16,
    .peak = peak,
};

SEAM_TARGET_END
#endif
