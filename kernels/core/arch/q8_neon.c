/* The micro-kernels of the int8 layers for aarch64: 16-bit terms into 32-bit sums. */
#include "../q8_requant.h"
#include "q8_neon.h"

#if defined(SEAM_NEON)
#define TILE 4

/* ---- Patches: int16 differences to the zero point ---- */

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    const int8x8_t zero = vdup_n_s8((int8_t)x_zero);
    int16_t *row = (int16_t *)to + at;
    for (int32_t r = 0; r < rows; r++, row += to_step) {
        if (x == NULL) {
            memset(row, 0, (size_t)count * sizeof(int16_t));
            continue;
        }
        int32_t i = 0;
        for (; i + 8 <= count; i += 8)
            vst1q_s16(row + i, vsubl_s8(vld1_s8(x + i), zero));
        for (; i < count; i++)
            row[i] = (int16_t)(x[i] - x_zero);
        x += x_step;
    }
}

static void patch_end(void *to, int32_t terms) {
    const int32_t end = (terms + 7) / 8 * 8;
    memset((int16_t *)to + terms, 0, (size_t)(end - terms) * sizeof(int16_t));
}

/* ---- Tiles from packed weights: [channels / 8][terms][8] int16 ---- */

static size_t packed_size(int32_t channels, int32_t terms) {
    return ((size_t)channels + LANES - 1) / LANES * LANES * (size_t)terms * sizeof(int16_t);
}

/* Eight rows of eight bytes become eight columns: three times, the lower half is shuffled with the
 * upper one. */
static inline void transpose(int8x8_t *rows) {
    for (int round = 0; round < 3; round++) {
        int8x8_t shuffled[8];
        for (int i = 0; i < 4; i++) {
            shuffled[2 * i] = vzip1_s8(rows[i], rows[i + 4]);
            shuffled[2 * i + 1] = vzip2_s8(rows[i], rows[i + 4]);
        }
        for (int i = 0; i < 8; i++)
            rows[i] = shuffled[i];
    }
}

static void pack(void *packed, const seam_q8_job *job) {
    const int32_t terms = job->terms;
    int16_t *to = packed;
    for (int32_t c = 0; c < job->channels; c += LANES) {
        const int8_t *w = job->w + (ptrdiff_t)c * terms;
        const int32_t used = lesser(LANES, job->channels - c);
        for (int32_t k = 0; k < terms; k += 8) {
            const int32_t left = lesser(8, terms - k);
            int8x8_t rows[LANES];
            for (int32_t l = 0; l < LANES; l++)
                rows[l] = l < used ? load_bytes(w + (ptrdiff_t)l * terms + k, left) : vdup_n_s8(0);
            transpose(rows);
            for (int32_t i = 0; i < left; i++, to += LANES)
                vst1q_s16(to, vmovl_s8(rows[i]));
        }
    }
}

/* One term of a tile: lane i of the terms of each pixel. Lanes must be constants. */
#define TERM(i)                                                                   \
    do {                                                                          \
        EACH (v, V) {                                                             \
            const int16x8_t row = vld1q_s16(w + (size_t)v * block + (i) * LANES); \
            EACH (p, P) {                                                         \
                eight *s = &sum[p][v];                                            \
                s->low = vmlal_laneq_s16(s->low, vget_low_s16(row), value[p], i); \
                s->high = vmlal_high_laneq_s16(s->high, row, value[p], i);        \
            }                                                                     \
        }                                                                         \
    } while (0)

/* P pixels x V blocks of channels from c on. */
FIXED void tile_fixed(const int P, const int V, int8_t *y, ptrdiff_t y_step, const int16_t *x,
                      const seam_q8_job *job, int32_t c, const range8 *range) {
    const size_t step = seam_q8_padded(job->terms), block = (size_t)job->terms * LANES;
    const int16_t *w = (const int16_t *)job->packed + (size_t)c / LANES * block;
    const int32_t last = lesser(LANES, job->channels - c - (V - 1) * LANES);
    eight sum[TILE][2];
    EACH (v, V) {
        const eight bias = bias_load(job, c + v * LANES, v < V - 1 ? LANES : last);
        EACH (p, P)
            sum[p][v] = bias;
    }
    int16x8_t value[TILE];
    int32_t k = 0;
    for (; k + 8 <= job->terms; k += 8, w += 8 * LANES) {
        EACH (p, P)
            value[p] = vld1q_s16(x + (size_t)p * step + k);
        TERM(0);
        TERM(1);
        TERM(2);
        TERM(3);
        TERM(4);
        TERM(5);
        TERM(6);
        TERM(7);
    }
    for (; k < job->terms; k++, w += LANES) {
        EACH (p, P)
            value[p] = vdupq_n_s16(x[(size_t)p * step + (size_t)k]);
        TERM(0);
    }
    EACH (v, V) {
        const int32_t n = v < V - 1 ? LANES : last;
        const scale8 scale = scale_load(job, c + v * LANES, n);
        EACH (p, P)
            store_bytes(y + p * y_step + c + v * LANES, narrow(rescale(sum[p][v], &scale), range),
                        n);
    }
}

FIXED void tile_channels(const int P, int8_t *y, ptrdiff_t y_step, const int16_t *x,
                         const seam_q8_job *job, const range8 *range) {
    int32_t c = 0;
    for (; job->channels - c > LANES; c += 2 * LANES)
        tile_fixed(P, 2, y, y_step, x, job, c, range);
    if (c < job->channels)
        tile_fixed(P, 1, y, y_step, x, job, c, range);
}

/* ---- Few pixels: sums along the terms of weights as they lie ---- */

/* Adds `n` terms from k on, n <= 8, of eight channels. */
FIXED void dot_terms(int32x4_t *sum, const int16_t *x, const int8_t *const *w, int32_t k,
                     int32_t n) {
    const int16x8_t value = vld1q_s16(x + k);
    EACH (l, LANES) {
        const int16x8_t row = vmovl_s8(load_bytes(w[l] + k, n));
        sum[l] = vmlal_s16(sum[l], vget_low_s16(row), vget_low_s16(value));
        sum[l] = vmlal_high_s16(sum[l], row, value);
    }
}

/* Channels [c, c + n) of one pixel, n <= 8. */
static void dot(int8_t *y, const int16_t *x, const seam_q8_job *job, int32_t c, int32_t n,
                const range8 *range) {
    const int32_t terms = job->terms;
    const int8_t *w[LANES];
    int32x4_t sum[LANES];
    EACH (l, LANES) {
        w[l] = job->w + (ptrdiff_t)(c + lesser(l, n - 1)) * terms;
        sum[l] = vdupq_n_s32(0);
    }
    int32_t k = 0;
    for (; k + 8 <= terms; k += 8)
        dot_terms(sum, x, w, k, 8);
    if (k < terms)
        dot_terms(sum, x, w, k, terms - k);
    const eight bias = bias_load(job, c, n);
    const int32x4_t low = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
    const int32x4_t high = vpaddq_s32(vpaddq_s32(sum[4], sum[5]), vpaddq_s32(sum[6], sum[7]));
    const eight total = {vaddq_s32(bias.low, low), vaddq_s32(bias.high, high)};
    const scale8 scale = scale_load(job, c, n);
    store_bytes(y + c, narrow(rescale(total, &scale), range), n);
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const range8 range = range_of(job->y_zero, job->y_min, job->y_max);
    const size_t step = seam_q8_padded(job->terms);
    const int16_t *x = patches;
    if (job->packed != NULL && pixels == TILE) {
        tile_channels(TILE, y, y_step, x, job, &range);
        return;
    }
    for (int32_t p = 0; p < pixels; p++, y += y_step, x += step) {
        if (job->packed != NULL) {
            tile_channels(1, y, y_step, x, job, &range);
            continue;
        }
        for (int32_t c = 0; c < job->channels; c += LANES)
            dot(y, x, job, c, lesser(LANES, job->channels - c), &range);
    }
}

/* ---- Depthwise: V blocks of eight channels of P pixels ---- */

/* Differences to zero: of 16 values, or of n <= 8. */
FIXED void widen(const int V, int16x8_t *to, const int8_t *p, int32_t n, int8x16_t zero) {
    if (V == 2) {
        const int8x16_t bytes = vld1q_s8(p);
        to[0] = vsubl_s8(vget_low_s8(bytes), vget_low_s8(zero));
        to[1] = vsubl_high_s8(bytes, zero);
    } else {
        to[0] = vsubl_s8(load_bytes(p, n), vget_low_s8(zero));
    }
}

/* n: channels of the only block; two blocks are whole. */
FIXED void depthwise_fixed(const int P, const int V, int8_t *y, const int8_t *x,
                           const seam_q8_line *line, int32_t c, int32_t n, const range8 *range) {
    const seam_q8_job *job = &line->job;
    const int8x16_t zero = vdupq_n_s8((int8_t)job->x_zero), none = vdupq_n_s8(0);
    eight sum[TILE][2];
    EACH (v, V) {
        const eight bias = bias_load(job, c + v * LANES, n);
        EACH (p, P)
            sum[p][v] = bias;
    }
    for (int32_t i = 0; i < line->rows; i++) {
        const int8_t *from = x + i * line->x_row + c, *w = job->w + i * line->w_row + c;
        for (int32_t j = 0; j < line->cols; j++, from += line->x_col, w += line->w_col) {
            int16x8_t weight[2], value[2];
            widen(V, weight, w, n, none);
            EACH (p, P) {
                widen(V, value, from + p * line->x_pixel, n, zero);
                EACH (v, V) {
                    eight *s = &sum[p][v];
                    s->low = vmlal_s16(s->low, vget_low_s16(value[v]), vget_low_s16(weight[v]));
                    s->high = vmlal_high_s16(s->high, value[v], weight[v]);
                }
            }
        }
    }
    EACH (v, V) {
        const scale8 scale = scale_load(job, c + v * LANES, n);
        EACH (p, P)
            store_bytes(y + p * line->y_pixel + c + v * LANES,
                        narrow(rescale(sum[p][v], &scale), range), n);
    }
}

/* Functions of their own: side by side in one, their pointers do not fit into the registers. */
typedef void depthwise_run(int8_t *y, const int8_t *x, const seam_q8_line *line, int32_t c,
                           int32_t n, const range8 *range);
#define RUN(P, V)                                                                                  \
    static __attribute__((noinline)) void depthwise_##P##_##V(int8_t *y, const int8_t *x,          \
                                                              const seam_q8_line *line, int32_t c, \
                                                              int32_t n, const range8 *range) {    \
        depthwise_fixed(P, V, y, x, line, c, V == 2 ? LANES : n, range);                           \
    }
RUN(1, 1)
RUN(2, 1)
RUN(3, 1)
RUN(4, 1)
RUN(1, 2)
RUN(2, 2)
RUN(3, 2)
RUN(4, 2)
static depthwise_run *const runs[2][TILE] = {
    {depthwise_1_1, depthwise_2_1, depthwise_3_1, depthwise_4_1},
    {depthwise_1_2, depthwise_2_2, depthwise_3_2, depthwise_4_2},
};

/* All pixels of a line; the edges of an image are lines of few. */
static void depthwise_pixels(depthwise_run *const *run, int8_t *y, const int8_t *x,
                             const seam_q8_line *line, int32_t c, int32_t n, const range8 *range) {
    for (int32_t p = 0; p < line->pixels; p += TILE) {
        const int32_t now = lesser(TILE, line->pixels - p);
        run[now - 1](y + p * line->y_pixel, x + p * line->x_pixel, line, c, n, range);
    }
}

void seam_q8_neon_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line) {
    const int32_t channels = line->job.channels, n = lesser(channels, LANES);
    const range8 range = range_of(line->job.y_zero, line->job.y_min, line->job.y_max);
    int32_t c = 0;
    for (; c + 2 * LANES <= channels; c += 2 * LANES)
        depthwise_pixels(runs[1], y, x, line, c, LANES, &range);
    for (; c < channels; c += LANES) /* the last ones may be done twice */
        depthwise_pixels(runs[0], y, x, line, lesser(c, channels - n), n, &range);
}

/* ---- Element by element ---- */

static inline eight differences(int8x8_t x, int8x8_t zero, int shift) {
    const int16x8_t value = vsubl_s8(x, zero);
    const int32x4_t by = vdupq_n_s32(shift);
    return (eight){vshlq_s32(vmovl_s16(vget_low_s16(value)), by),
                   vshlq_s32(vmovl_high_s16(value), by)};
}

void seam_q8_neon_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                      size_t count) {
    const range8 range = range_of(how->y_zero, how->y_min, how->y_max);
    const scale8 a_scale = scale_one(how->a_multiplier, how->a_shift);
    const scale8 b_scale = scale_one(how->b_multiplier, how->b_shift);
    const scale8 y_scale = scale_one(how->y_multiplier, how->y_shift);
    const int8x8_t a_zero = vdup_n_s8((int8_t)how->a_zero), b_zero = vdup_n_s8((int8_t)how->b_zero);
    for (size_t i = 0; i < count; i += LANES) {
        const int32_t n = count - i < LANES ? (int32_t)(count - i) : LANES;
        const eight left =
            rescale(differences(load_bytes(a + i, n), a_zero, SEAM_Q8_SUM_SHIFT), &a_scale);
        const eight right =
            rescale(differences(load_bytes(b + i, n), b_zero, SEAM_Q8_SUM_SHIFT), &b_scale);
        const eight sum = {vaddq_s32(left.low, right.low), vaddq_s32(left.high, right.high)};
        store_bytes(y + i, narrow(rescale(sum, &y_scale), &range), n);
    }
}

void seam_q8_neon_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    const range8 range = range_of(how->y_zero, how->y_min, how->y_max);
    const scale8 scale = scale_one(*how->multiplier, *how->shift);
    const int8x8_t zero = vdup_n_s8((int8_t)how->x_zero);
    for (size_t i = 0; i < count; i += LANES) {
        const int32_t n = count - i < LANES ? (int32_t)(count - i) : LANES;
        const eight value = differences(load_bytes(x + i, n), zero, 0);
        store_bytes(y + i, narrow(rescale(value, &scale), &range), n);
    }
}

/* The sums of one row of weights, or of four. */
FIXED void lone_channels(const int C, int8_t *y, const int8_t *x, const seam_q8_job *job,
                         int32_t c) {
    const int32_t terms = job->terms, whole = terms & ~7;
    const int8x8_t zero = vdup_n_s8((int8_t)job->x_zero);
    const int8_t *w = job->w + (ptrdiff_t)c * terms;
    int32x4_t sums[4];
    EACH (i, C)
        sums[i] = vdupq_n_s32(0);
    for (int32_t k = 0; k < whole; k += 8) {
        const int16x8_t values = vsubl_s8(vld1_s8(x + k), zero);
        EACH (i, C) {
            const int16x8_t weights = vmovl_s8(vld1_s8(w + (ptrdiff_t)i * terms + k));
            sums[i] = vmlal_s16(sums[i], vget_low_s16(values), vget_low_s16(weights));
            sums[i] = vmlal_high_s16(sums[i], values, weights);
        }
    }
    EACH (i, C) {
        const int32_t at = (c + i) * job->scale_step;
        const int8_t *row = w + (ptrdiff_t)i * terms;
        int32_t sum = vaddvq_s32(sums[i]) + (job->bias != NULL ? job->bias[c + i] : 0);
        for (int32_t k = whole; k < terms; k++)
            sum += (x[k] - job->x_zero) * row[k];
        const int32_t value = seam_q8_rescale(sum, job->multiplier[at], job->shift[at]);
        y[c + i] = seam_q8_clamp(value + job->y_zero, job->y_min, job->y_max);
    }
}

void seam_q8_neon_lone(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    int32_t c = 0;
    for (; c + 4 <= job->channels; c += 4)
        lone_channels(4, y, x, job, c);
    for (; c < job->channels; c++)
        lone_channels(1, y, x, job, c);
}

/* Nothing but multiply-adds, in registers: the most a core can do. */
static int32_t peak(uint32_t rounds) {
    int32x4_t sum[SEAM_PEAK_VECTORS];
    EACH (p, SEAM_PEAK_VECTORS)
        sum[p] = vdupq_n_s32(p);
    const int16x4_t three = vdup_n_s16(3);
    for (uint32_t r = 0; r < rounds; r++)
        EACH (p, SEAM_PEAK_VECTORS)
            sum[p] = vmlal_s16(sum[p], vreinterpret_s16_s32(vget_low_s32(sum[p])), three);
    EACH (p, SEAM_PEAK_VECTORS)
        sum[0] = vaddq_s32(sum[0], sum[p]);
    return vgetq_lane_s32(sum[0], 0);
}

const seam_q8_kernels seam_q8_kernels_neon = {
    .pixels = TILE,
    .packed_size = packed_size,
    .pack = pack,
    .patch = patch,
    .patch_end = patch_end,
    .tile = tile,
    .lone = seam_q8_neon_lone,
    .depthwise = seam_q8_neon_depthwise,
    .add = seam_q8_neon_add,
    .requantise = seam_q8_neon_requantise,
    .peak_products = 4,
    .peak = peak,
};
#endif
