/* Depthwise convolution of the int8 layers for AVX-512 VNNI: the bytes of up to four kernel rows
 * side by side, one dword a channel, so that one product sums a column of the window.
 *
 * A row of pixels is a flat line of bytes. 64 of them, of four rows, become four vectors of dwords
 * (planes): lane 4 l + i of plane k holds byte 16 l + 4 k + i. The next column lies a pixel further
 * on the line, whatever the number of channels; with a stride the columns are dealt out first. */
#include "q8.h"

#if defined(SEAM_X86)
#include "q8_vnni.h"

#define BLOCKS 64 /* of 64 bytes in a row with its border */
#define SLACK 2   /* blocks read behind it, never used */
#define ROWS 4
#define COLS 5
#define PERIOD 8 /* blocks until channel 0 is at the start again */

typedef struct {
    int32_t period, cols;
    __m512i weight[PERIOD][COLS][4];
    __m512i start[PERIOD][4]; /* of the sums */
    falling16 scale[PERIOD][4];
} table;

/* ---- Rows of the input with their border, in blocks of 64 bytes x + 128 ---- */

typedef struct {
    const seam_window *p;
    int32_t phase_blocks; /* of the columns of one phase */
    __m512i zero;         /* x_zero everywhere */
    __mmask64 inside[BLOCKS + 2 * SLACK];
    __m512i even; /* with a stride of two, and pixels of 8, 16 or 32 bytes: which eights of two
                     blocks belong to columns 0, 2, ... */
} border;

static void border_fill(border *b, const seam_window *p, int32_t x_zero) {
    const int32_t c = p->in_c, first = p->pad_left * c, end = first + p->in_w * c;
    b->p = p;
    b->zero = _mm512_set1_epi8((int8_t)x_zero);
    for (int32_t i = 0; i < BLOCKS + 2 * SLACK; i++) {
        const int32_t from = first - 64 * i, to = end - 64 * i;
        b->inside[i] =
            to <= 0 || from >= 64 ? 0 : first_bytes(to) & ~first_bytes(from > 0 ? from : 0);
    }
    const int32_t eights = c / 8 > 0 ? c / 8 : 1;
    int64_t even[8];
    for (int32_t i = 0; i < 8; i++)
        even[i] = i / eights * 2 * eights + i % eights;
    b->even = _mm512_loadu_si512(even);
}

/* x: of the row, or NULL where the whole row is border. */
FIXED __m512i block_of(const border *b, const int8_t *x, int32_t i) {
    const __m512i flip = _mm512_set1_epi8(-128);
    if (x == NULL)
        return _mm512_xor_si512(b->zero, flip);
    const int8_t *from = x + ((ptrdiff_t)i * 64 - (ptrdiff_t)b->p->pad_left * b->p->in_c);
    return _mm512_xor_si512(_mm512_mask_loadu_epi8(b->zero, b->inside[i], from), flip);
}

/* Block i of the columns of one phase. stride: 1, 2, or 3: two with pixels of whole blocks. */
FIXED __m512i phase_block(const int stride, const border *b, const int8_t *x, int32_t phase,
                          int32_t i) {
    if (stride == 1)
        return block_of(b, x, i);
    if (stride == 3) {
        const int32_t pixel = b->p->in_c / 64;
        return block_of(b, x, (i / pixel * 2 + phase) * pixel + i % pixel);
    }
    const __m512i step = _mm512_set1_epi64(phase * b->p->in_c / 8);
    return _mm512_permutex2var_epi64(block_of(b, x, 2 * i), _mm512_add_epi64(b->even, step),
                                     block_of(b, x, 2 * i + 1));
}

/* 64 bytes of four rows to four planes. */
static inline void interleave(__m512i *const *planes, const __m512i *r) {
    const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), d = _mm512_unpackhi_epi8(r[2], r[3]);
    *planes[0] = _mm512_unpacklo_epi16(a, c);
    *planes[1] = _mm512_unpackhi_epi16(a, c);
    *planes[2] = _mm512_unpacklo_epi16(b, d);
    *planes[3] = _mm512_unpackhi_epi16(b, d);
}

/* ---- Tables: weights and scales in the order of the planes ---- */

/* `size` bytes again and again, until there are `count`; or the bytes themselves. */
static const void *repeated(void *room, const void *from, size_t size, size_t count) {
    if (size == count)
        return from;
    for (size_t done = 0; done < count; done += size)
        memcpy((char *)room + done, from, done + size <= count ? size : count - done);
    return room;
}

static void fill_weights(table *t, const int8_t *w, const seam_window *p) {
    const size_t count = (size_t)t->period * 64, c = (size_t)p->in_c;
    int8_t room[ROWS][PERIOD * 64];
    for (int32_t j = 0; j < p->kernel_w; j++) {
        const int8_t *rows[ROWS];
        for (int32_t r = 0; r < p->kernel_h; r++)
            rows[r] = repeated(room[r], w + (size_t)(r * p->kernel_w + j) * c, c, count);
        for (int32_t v = 0; v < t->period; v++) {
            __m512i *const planes[4] = {&t->weight[v][j][0], &t->weight[v][j][1],
                                        &t->weight[v][j][2], &t->weight[v][j][3]};
            __m512i r[ROWS] = {_mm512_setzero_si512(), _mm512_setzero_si512(),
                               _mm512_setzero_si512(), _mm512_setzero_si512()};
            for (int32_t i = 0; i < p->kernel_h; i++)
                r[i] = _mm512_loadu_si512(rows[i] + v * 64);
            interleave(planes, r);
        }
    }
}

/* Of 64 numbers those of plane k. */
static inline __m512i plane_of(const int32_t *values, int k) {
    __m128i part[4];
    EACH (l, 4)
        part[l] = _mm_loadu_si128((const __m128i *)(const void *)(values + 16 * l + 4 * k));
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(part[0]), part[1], 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(part[2]), part[3], 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static void fill_scales(table *t, const seam_q8_job *job) {
    const size_t count = (size_t)t->period * 64 * sizeof(int32_t);
    const size_t size = (size_t)job->channels * sizeof(int32_t);
    const size_t scale = job->scale_step ? size : sizeof(int32_t);
    int32_t rooms[3][PERIOD * 64];
    const int32_t *multiplier = repeated(rooms[0], job->multiplier, scale, count);
    const int32_t *shift = repeated(rooms[1], job->shift, scale, count), *bias = NULL;
    if (job->bias != NULL)
        bias = repeated(rooms[2], job->bias, size, count);
    const __m512i zero = _mm512_set1_epi8((int8_t)(job->x_zero + 128));
    for (int32_t v = 0; v < t->period; v++)
        for (int k = 0; k < 4; k++) {
            __m512i sum = _mm512_setzero_si512();
            for (int32_t j = 0; j < t->cols; j++)
                sum = _mm512_dpbusd_epi32(sum, zero, t->weight[v][j][k]);
            const __m512i from = bias == NULL ? _mm512_setzero_si512() : plane_of(bias + v * 64, k);
            t->start[v][k] = _mm512_sub_epi32(from, sum);
            t->scale[v][k] =
                falling_of(plane_of(multiplier + v * 64, k), plane_of(shift + v * 64, k));
        }
}

/* ---- One row of outputs ---- */

/* Every period-th 64 bytes of a row. C: columns of the window. */
FIXED void row_fixed(const int C, int8_t *y, const uint8_t *const (*tap)[4], int32_t first,
                     int32_t end, const table *t, int32_t v, const range64 *range) {
    __m512i weight[COLS][4];
    EACH (j, C)
        EACH (k, 4)
            weight[j][k] = t->weight[v][j][k];
    for (int32_t f = first; f < end; f += t->period * 64) {
        __m512i sum[4];
        EACH (k, 4)
            sum[k] = t->start[v][k];
        EACH (j, C)
            EACH (k, 4)
                sum[k] =
                    _mm512_dpbusd_epi32(sum[k], _mm512_loadu_si512(tap[j][k] + f), weight[j][k]);
        EACH (k, 4)
            sum[k] = falling_rescale(sum[k], &t->scale[v][k]);
        const __m512i bytes = narrow(sum[0], sum[1], sum[2], sum[3], range, 1);
        if (f + 64 <= end) {
            _mm512_storeu_si512(y + f, bytes);
        } else {
            int8_t some[64];
            _mm512_storeu_si512(some, bytes);
            memcpy(y + f, some, (size_t)(end - f));
        }
    }
}

static void row(int8_t *y, const uint8_t *const (*tap)[4], int32_t count, const table *t,
                const range64 *range) {
    for (int32_t v = 0; v < t->period; v++) {
        if (t->cols == 1)
            row_fixed(1, y, tap, v * 64, count, t, v, range);
        else if (t->cols == 2)
            row_fixed(2, y, tap, v * 64, count, t, v, range);
        else if (t->cols == 3)
            row_fixed(3, y, tap, v * 64, count, t, v, range);
        else if (t->cols == 4)
            row_fixed(4, y, tap, v * 64, count, t, v, range);
        else
            row_fixed(5, y, tap, v * 64, count, t, v, range);
    }
}

/* The blocks of all phases to planes. */
FIXED void planes_fixed(const int stride, __m512i (*planes)[BLOCKS + SLACK],
                        const int8_t *const *rows, const border *b) {
    const int phases = stride == 1 ? 1 : 2;
    for (int32_t phase = 0, at = 0; phase < phases; phase++)
        for (int32_t i = 0; i < b->phase_blocks; i++, at++) {
            __m512i *const to[4] = {&planes[0][at], &planes[1][at], &planes[2][at], &planes[3][at]};
            __m512i r[ROWS];
            EACH (j, ROWS)
                r[j] = phase_block(stride, b, rows[j], phase, i);
            interleave(to, r);
        }
}

static void planes_of(__m512i (*planes)[BLOCKS + SLACK], const int8_t *const *rows,
                      const border *b) {
    if (b->p->stride_w == 1)
        planes_fixed(1, planes, rows, b);
    else if (b->p->in_c < 64)
        planes_fixed(2, planes, rows, b);
    else
        planes_fixed(3, planes, rows, b);
}

/* A tap finds its bytes some dwords further on, in the planes of the columns of its phase. */
static void taps_place(const uint8_t *(*tap)[4], __m512i (*planes)[BLOCKS + SLACK],
                       const border *b) {
    const seam_window *p = b->p;
    for (int32_t j = 0; j < p->kernel_w; j++) {
        const int32_t col = j * p->dilation_w, phase = col % p->stride_w;
        const int32_t dwords = col / p->stride_w * p->in_c / 4;
        for (int32_t k = 0; k < 4; k++)
            tap[j][k] = (const uint8_t *)(planes[(k + dwords) % 4] + phase * b->phase_blocks) +
                        (k + dwords) / 4 * 16;
    }
}

static void image(int8_t *y, const int8_t *x, const seam_q8_job *job, const border *b,
                  const table *t) {
    const seam_window *p = b->p;
    const range64 range = range_of(job->y_zero, job->y_min, job->y_max, 1);
    const int32_t count = p->out_w * p->out_c;
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    __m512i planes[4][BLOCKS + SLACK];
    const uint8_t *tap[COLS][4];
    taps_place(tap, planes, b);
    for (int32_t n = 0; n < p->batch; n++, x += p->in_h * line)
        for (int32_t oh = 0; oh < p->out_h; oh++, y += count) {
            const int8_t *rows[ROWS] = {NULL, NULL, NULL, NULL};
            for (int32_t r = 0; r < p->kernel_h; r++) {
                const int32_t ih = oh * p->stride_h - p->pad_top + r * p->dilation_h;
                rows[r] = ih >= 0 && ih < p->in_h ? x + ih * line : NULL;
            }
            planes_of(planes, rows, b);
            row(y, (const uint8_t *const(*)[4])tap, count, t, &range);
        }
}

static int32_t period_of(int32_t channels) {
    int32_t period = 1;
    while (period <= PERIOD && period * 64 % channels != 0)
        period++;
    return period;
}

/* Strides of two deal out blocks, or eights of them. */
static int is_usual(const seam_window *p) {
    const int32_t c = p->in_c;
    if (c % 4 != 0 || period_of(c) > PERIOD || p->kernel_h > ROWS || p->kernel_w > COLS)
        return 0;
    return p->stride_w == 1 || (p->stride_w == 2 && (c == 8 || c == 16 || c == 32 || c % 64 == 0));
}

int seam_q8_vnni_depthwise(int8_t *y, const int8_t *x, const seam_q8_job *job,
                           const seam_window *p) {
    const int64_t width = (int64_t)p->pad_left + p->in_w + p->pad_right;
    const int64_t phase = ((width + p->stride_w - 1) / p->stride_w * p->in_c + 63) / 64;
    if (!is_usual(p) || phase * p->stride_w > BLOCKS || !seam_q8_falling(job))
        return 0;
    table t;
    border b;
    t.period = period_of(p->in_c);
    t.cols = p->kernel_w;
    fill_weights(&t, job->w, p);
    fill_scales(&t, job);
    border_fill(&b, p, job->x_zero);
    b.phase_blocks = (int32_t)phase;
    image(y, x, job, &b, &t);
    return 1;
}

SEAM_TARGET_END
#endif
