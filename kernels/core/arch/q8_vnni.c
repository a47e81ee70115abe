/* The convolutions of the int8 layers for AVX-512 VNNI: four bytes of terms into a 32-bit sum.
 *
 * Its product wants one operand unsigned: inputs become x + 128 when they are read, and the sum
 * starts at bias - (x_zero + 128) * sum of w instead of the bias. */
#include "q8.h"

#if defined(SEAM_X86)
#include "q8_vnni.h"

#define TILE 8
#define PAIR 8 /* at most as many channels: a vector holds them for two pixels */

/* ---- Patches: plain inputs ---- */

/* A masked store is slow: the last bytes are written together with some before them. */
static inline void copy_bytes(int8_t *to, const int8_t *from, int32_t count) {
    if (count >= 16) {
        const int32_t last = count - 16;
        for (int32_t i = 0; i < last; i += 16)
            _mm_storeu_si128((__m128i *)(void *)(to + i),
                             _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
        _mm_storeu_si128((__m128i *)(void *)(to + last),
                         _mm_loadu_si128((const __m128i *)(const void *)(from + last)));
    } else if (count >= 8) {
        int64_t first, last;
        memcpy(&first, from, 8);
        memcpy(&last, from + count - 8, 8);
        memcpy(to, &first, 8);
        memcpy(to + count - 8, &last, 8);
    } else if (count >= 4) {
        int32_t first, last;
        memcpy(&first, from, 4);
        memcpy(&last, from + count - 4, 4);
        memcpy(to, &first, 4);
        memcpy(to + count - 4, &last, 4);
    } else {
        for (int32_t i = 0; i < count; i++)
            to[i] = from[i];
    }
}

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    int8_t *row = (int8_t *)to + at;
    if (x == NULL)
        for (int32_t r = 0; r < rows; r++, row += to_step)
            memset(row, x_zero, (size_t)count);
    else
        for (int32_t r = 0; r < rows; r++, row += to_step, x += x_step)
            copy_bytes(row, x, count);
}

static void patch_end(void *to, int32_t terms) {
    (void)to;
    (void)terms;
}

/* ---- Packed weights: [channels / 16]([16] int32 sums of w, [rows][run / 4][16][4]); up to eight
 * channels are there twice ---- */

static size_t block_bytes(int32_t terms) {
    return (((size_t)terms + 3) / 4 + 1) * 4 * LANES;
}

static size_t packed_size(int32_t channels, int32_t terms) {
    return ((size_t)channels + LANES - 1) / LANES * block_bytes(terms);
}

static size_t job_block_bytes(const seam_q8_job *job) {
    return block_bytes(job->rows * ((job->run + 3) / 4 * 4));
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
    for (int32_t c = 0; c < job->channels; c += LANES, to += job_block_bytes(job)) {
        const int32_t used = lesser(LANES, job->channels - c);
        const int8_t *w = job->w + (ptrdiff_t)c * job->terms;
        __m512i sum = _mm512_setzero_si512();
        char *at = to;
        for (int32_t r = 0; r < job->rows; r++, w += job->run)
            for (int32_t k = 0; k < job->run; k += 4) {
                __m512i four = four_terms(w + k, rows, used, job->run - k, job->terms);
                if (job->channels <= PAIR)
                    four = _mm512_inserti64x4(four, _mm512_castsi512_si256(four), 1);
                sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), four);
                at += 4 * LANES;
                _mm512_storeu_si512(at, four);
            }
        _mm512_storeu_si512(to, sum);
    }
}

/* ---- Tiles: P pixels x V vectors of channels; pairs: P vectors of two pixels ---- */

#define MOST 8 /* vectors of channels beside one pixel */

/* The vectors of channels from `first` on, for all pixels of a line. */
typedef struct {
    const char *w; /* packed */
    size_t block;  /* from vector to vector */
    int32_t last;  /* channels in the last vector */
    __m512i start[MOST];
    falling16 scale[MOST];
} columns;

FIXED void columns_open(const int V, const int pairs, columns *cols, const seam_q8_job *job,
                        int32_t first) {
    const __m512i shift = _mm512_set1_epi32(job->x_zero + 128);
    cols->block = job_block_bytes(job);
    cols->w = (const char *)job->packed + (size_t)first / LANES * cols->block;
    cols->last = lesser(LANES, job->channels - first - (V - 1) * LANES);
    EACH (v, V) {
        const int32_t at = first + v * LANES, n = v < V - 1 ? LANES : cols->last;
        __m512i bias = _mm512_setzero_si512();
        if (job->bias != NULL)
            bias = lanes_load(job->bias + at, n, pairs);
        const __m512i sums = _mm512_loadu_si512(cols->w + (size_t)v * cols->block);
        cols->start[v] = _mm512_sub_epi32(bias, _mm512_mullo_epi32(shift, sums));
        if (job->scale_step == 0)
            cols->scale[v] =
                falling_of(_mm512_set1_epi32(*job->multiplier), _mm512_set1_epi32(*job->shift));
        else
            cols->scale[v] = falling_of(lanes_load(job->multiplier + at, n, pairs),
                                        lanes_load(job->shift + at, n, pairs));
    }
}

/* Pixels of the input: the first, steps to the next and to the next kernel row. */
typedef struct {
    const int8_t *x;
    ptrdiff_t step, row;
} pixels_at;

/* Four inputs of a pixel, or of two, in every dword. */
FIXED __m512i inputs(const int pairs, const int8_t *const *at, int p, ptrdiff_t k) {
    const __m512i flip = _mm512_set1_epi8(-128);
    int32_t four;
    memcpy(&four, at[pairs ? 2 * p : p] + k, sizeof four);
    __m512i values = _mm512_set1_epi32(four);
    if (pairs) {
        memcpy(&four, at[2 * p + 1] + k, sizeof four);
        values = _mm512_mask_broadcastd_epi32(values, 0xFF00, _mm_cvtsi32_si128(four));
    }
    return _mm512_xor_si512(values, flip);
}

FIXED void tile_sums(const int P, const int V, const int pairs, __m512i (*sum)[MOST],
                     const pixels_at *from, const seam_q8_job *job, const columns *cols) {
    const int8_t *at[2 * TILE];
    const char *w = cols->w;
    const size_t block = cols->block;
    const int pixels = pairs ? 2 * P : P;
    const ptrdiff_t run = job->run;
    EACH (p, pixels)
        at[p] = from->x + p * from->step;
    EACH (p, P)
        EACH (v, V)
            sum[p][v] = cols->start[v];
    for (int32_t r = 0; r < job->rows; r++) {
        for (ptrdiff_t k = 0; k < run; k += 4) {
            w += 4 * LANES;
            __m512i row[MOST];
            EACH (v, V)
                row[v] = _mm512_loadu_si512(w + (size_t)v * block);
            EACH (p, P) {
                const __m512i values = inputs(pairs, at, p, k);
                EACH (v, V)
                    sum[p][v] = _mm512_dpbusd_epi32(sum[p][v], values, row[v]);
            }
        }
        EACH (p, pixels)
            at[p] += from->row;
    }
}

static inline void store_bytes(int8_t *y, __m128i bytes, int32_t n) {
    if (n == LANES) { /* a masked store is slow */
        _mm_storeu_si128((__m128i *)(void *)y, bytes);
    } else if (n == 8) {
        _mm_storel_epi64((__m128i *)(void *)y, bytes);
    } else {
        int8_t values[LANES];
        _mm_storeu_si128((__m128i *)(void *)values, bytes);
        memcpy(y, values, (size_t)n);
    }
}

/* The i-th vector of a tile to its place. */
FIXED void store_vector(const int V, const int pairs, int8_t *y, ptrdiff_t y_step, __m128i bytes,
                        int i, int32_t last) {
    if (!pairs) {
        store_bytes(y + i / V * y_step + i % V * LANES, bytes, i % V < V - 1 ? LANES : last);
    } else if (y_step == PAIR && last == PAIR) {
        _mm_storeu_si128((__m128i *)(void *)(y + 2 * i * PAIR), bytes);
    } else {
        store_bytes(y + 2 * i * y_step, bytes, last);
        store_bytes(y + (2 * i + 1) * y_step, _mm_unpackhi_epi64(bytes, bytes), last);
    }
}

/* Sums to bytes, four vectors at a time; there may be fewer at the end. */
FIXED void tile_finish(const int P, const int V, const int pairs, int8_t *y, ptrdiff_t y_step,
                       __m512i (*sum)[MOST], const columns *cols, const range64 *range) {
    const int count = P * V, fours = (count + 3) / 4;
    EACH (i, fours) {
        __m512i four[4];
        EACH (j, 4) {
            const int at = 4 * i + j < count ? 4 * i + j : count - 1;
            four[j] = falling_rescale(sum[at / V][at % V], &cols->scale[at % V]);
        }
        const __m512i bytes = in_order(narrow(four[0], four[1], four[2], four[3], range, 1));
        const __m128i each[4] = {_mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1),
                                 _mm512_extracti32x4_epi32(bytes, 2),
                                 _mm512_extracti32x4_epi32(bytes, 3)};
        EACH (j, 4)
            if (4 * i + j < count)
                store_vector(V, pairs, y, y_step, each[j], 4 * i + j, cols->last);
    }
}

FIXED void tile_fixed(const int P, const int V, const int pairs, int8_t *y, ptrdiff_t y_step,
                      const pixels_at *from, const seam_q8_job *job, const columns *cols,
                      const range64 *range) {
    __m512i sum[TILE][MOST];
    tile_sums(P, V, pairs, sum, from, job, cols);
    tile_finish(P, V, pairs, y, y_step, sum, cols, range);
}

/* All pixels of a line, P (a power of two) vectors of them at a time. The last ones may be done
 * twice. */
FIXED void line_fixed(const int P, const int V, const int pairs, int8_t *y, ptrdiff_t y_step,
                      const pixels_at *from, int32_t pixels, const seam_q8_job *job,
                      int32_t first) {
    const range64 range = range_of(job->y_zero, job->y_min, job->y_max, 1);
    const int32_t all = pairs ? 2 * P : P;
    columns cols;
    columns_open(V, pairs, &cols, job, first);
    y += first;
    pixels_at at = *from;
    for (int32_t p = 0; p + all <= pixels; p += all) {
        tile_fixed(P, V, pairs, y + p * y_step, y_step, &at, job, &cols, &range);
        at.x += all * from->step;
    }
    int32_t rest = pixels % all;
    if (rest > 2 && pixels > all) {
        at.x = from->x + (pixels - all) * from->step;
        tile_fixed(P, V, pairs, y + (pixels - all) * y_step, y_step, &at, job, &cols, &range);
        return;
    }
    y += (pixels - rest) * y_step;
    if (all > 4 && rest >= 4) {
        tile_fixed(pairs ? 2 : 4, V, pairs, y, y_step, &at, job, &cols, &range);
        at.x += 4 * from->step;
        y += 4 * y_step;
        rest -= 4;
    }
    if (rest >= 2) {
        tile_fixed(pairs ? 1 : 2, V, pairs, y, y_step, &at, job, &cols, &range);
        at.x += 2 * from->step;
        y += 2 * y_step;
        rest -= 2;
    }
    if (rest > 0)
        tile_fixed(1, V, 0, y, y_step, &at, job, &cols, &range);
}

/* One pixel, many channels. */
FIXED void pixel_fixed(const int V, int8_t *y, const pixels_at *from, const seam_q8_job *job,
                       int32_t first) {
    const range64 range = range_of(job->y_zero, job->y_min, job->y_max, 1);
    columns cols;
    columns_open(V, 0, &cols, job, first);
    tile_fixed(1, V, 0, y + first, 0, from, job, &cols, &range);
}

/* One vector of sums with any scale. */
static void store_any(int8_t *y, __m512i sums, const seam_q8_job *job, int32_t c, int32_t n) {
    const range64 range = range_of(0, job->y_min, job->y_max, 0);
    const scale16 scale = scale_load(job, c, n);
    const __m512i found = /* which may wrap */
        _mm512_add_epi32(rescale(sums, &scale), _mm512_set1_epi32(job->y_zero));
    const __m512i bytes = in_order(narrow(found, found, found, found, &range, 0));
    store_bytes(y, _mm512_castsi512_si128(bytes), n);
}

/* Any scale: one pixel and one vector at a time. */
static void line_any(int8_t *y, ptrdiff_t y_step, pixels_at from, int32_t pixels,
                     const seam_q8_job *job) {
    for (int32_t c = 0; c < job->channels; c += LANES) {
        columns cols;
        columns_open(1, 0, &cols, job, c);
        pixels_at at = from;
        for (int32_t p = 0; p < pixels; p++, at.x += at.step) {
            __m512i sum[1][MOST];
            tile_sums(1, 1, 0, sum, &at, job, &cols);
            store_any(y + p * y_step + c, sum[0][0], job, c, cols.last);
        }
    }
}

static void line(int8_t *y, ptrdiff_t y_step, const int8_t *x, ptrdiff_t x_step, ptrdiff_t x_row,
                 int32_t pixels, const seam_q8_job *job) {
    const pixels_at from = {x, x_step, x_row};
    if (!job->falling) {
        line_any(y, y_step, from, pixels, job);
        return;
    }
    for (int32_t c = 0, now; c < job->channels; c += now * LANES) {
        const int32_t vectors = (job->channels - c + LANES - 1) / LANES;
        now = pixels == 1 && vectors >= 8 ? 8 : vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1;
        if (now == 8)
            pixel_fixed(8, y, &from, job, c);
        else if (now == 4)
            line_fixed(4, 4, 0, y, y_step, &from, pixels, job, c);
        else if (now == 2)
            line_fixed(8, 2, 0, y, y_step, &from, pixels, job, c);
        else if (job->channels <= PAIR)
            line_fixed(4, 1, 1, y, y_step, &from, pixels, job, c);
        else
            line_fixed(8, 1, 0, y, y_step, &from, pixels, job, c);
    }
}

/* ---- Weights as they lie: sums along the terms ---- */

static void dot(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    const __m512i zero = _mm512_set1_epi8((int8_t)(job->x_zero + 128)),
                  flip = _mm512_set1_epi8(-128);
    for (int32_t c = 0; c < job->channels; c += LANES) {
        const int32_t used = lesser(LANES, job->channels - c);
        int32_t sums[LANES] = {0};
        for (int32_t l = 0; l < used; l++) {
            const int8_t *w = job->w + (ptrdiff_t)(c + l) * job->terms;
            __m512i sum = _mm512_setzero_si512(), extra = sum;
            for (int32_t k = 0; k < job->terms; k += 64) {
                const __mmask64 some = first_bytes(job->terms - k);
                const __m512i row = _mm512_maskz_loadu_epi8(some, w + k);
                const __m512i values = _mm512_maskz_loadu_epi8(some, x + k);
                sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(values, flip), row);
                extra = _mm512_dpbusd_epi32(extra, zero, row);
            }
            sums[l] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, extra));
        }
        __m512i total = _mm512_loadu_si512(sums);
        if (job->bias != NULL)
            total = _mm512_add_epi32(total, lanes_load(job->bias + c, used, 0));
        store_any(y + c, total, job, c, used);
    }
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const int8_t *x = patches;
    for (int32_t p = 0; p < pixels; p++)
        dot(y + p * y_step, x + (size_t)p * seam_q8_padded(job->terms), job);
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
    .lone = seam_q8_avx2_lone,
    .line = line,
    .depthwise = seam_q8_avx2_depthwise,
    .depthwise_image = seam_q8_vnni_depthwise,
    .add = seam_q8_vnni_add,
    .requantise = seam_q8_avx2_requantise,
    .peak_products = 4 * LANES,
    .peak = peak,
};

SEAM_TARGET_END
#endif
