/* The micro-kernels of the int8 layers for aarch64 with SDOT: four bytes of terms into a 32-bit
 * sum.
 *
 * Patches hold x as it is, x_zero for the padding, and a sum starts at bias - x_zero * sum of w
 * instead of the bias. */
#include "q8_neon.h"

#if defined(SEAM_NEON_DOTPROD)
SEAM_TARGET_DOTPROD

#define TILE 8

/* ---- Patches: bytes, any to the end of a vector ---- */

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    int8_t *row = (int8_t *)to + at;
    for (int32_t r = 0; r < rows; r++, row += to_step) {
        if (x == NULL) {
            memset(row, x_zero, (size_t)count);
            continue;
        }
        int32_t i = 0;
        for (; i + 16 <= count; i += 16)
            vst1q_s8(row + i, vld1q_s8(x + i));
        for (; i < count; i++)
            row[i] = x[i];
        x += x_step;
    }
}

static void patch_end(void *to, int32_t terms) {
    memset((int8_t *)to + terms, 0, (size_t)((terms + 15) / 16 * 16 - terms));
}

/* ---- Tiles from packed weights: [channels / 8]([8] int32 sums of w, [terms / 4][8][4]) ---- */

static size_t block_bytes(int32_t terms) {
    return (((size_t)terms + 3) / 4 + 1) * 4 * LANES;
}

static size_t packed_size(int32_t channels, int32_t terms) {
    return ((size_t)channels + LANES - 1) / LANES * block_bytes(terms);
}

/* n <= 16 bytes, zeros behind. */
static inline int8x16_t load_terms(const int8_t *p, int32_t n) {
    if (n == 16)
        return vld1q_s8(p);
    int8_t bytes[16] = {0};
    memcpy(bytes, p, (size_t)n);
    return vld1q_s8(bytes);
}

/* Four terms of four channels, for each of four groups of terms. w: of the first channel. */
static inline void pack_four(int32x4_t *groups, const int8_t *w, int32_t used, int32_t left,
                             int32_t terms) {
    int32x4_t rows[4];
    for (int32_t l = 0; l < 4; l++)
        rows[l] = l < used ? vreinterpretq_s32_s8(load_terms(w + (ptrdiff_t)l * terms, left))
                           : vdupq_n_s32(0);
    const int32x4_t even_low = vzip1q_s32(rows[0], rows[2]), odd_low = vzip1q_s32(rows[1], rows[3]);
    const int32x4_t even_high = vzip2q_s32(rows[0], rows[2]);
    const int32x4_t odd_high = vzip2q_s32(rows[1], rows[3]);
    groups[0] = vzip1q_s32(even_low, odd_low);
    groups[1] = vzip2q_s32(even_low, odd_low);
    groups[2] = vzip1q_s32(even_high, odd_high);
    groups[3] = vzip2q_s32(even_high, odd_high);
}

static void pack(void *packed, const seam_q8_job *job) {
    const int8x16_t one = vdupq_n_s8(1);
    const int32_t terms = job->terms;
    int8_t *to = packed;
    for (int32_t c = 0; c < job->channels; c += LANES, to += block_bytes(terms)) {
        const int32_t used = lesser(LANES, job->channels - c);
        const int8_t *w = job->w + (ptrdiff_t)c * terms;
        for (int32_t half = 0; half < 2; half++) {
            int32x4_t sum = vdupq_n_s32(0);
            for (int32_t k = 0; k < terms; k += 16) {
                const int32_t left = lesser(16, terms - k);
                int32x4_t groups[4];
                pack_four(groups, w + (ptrdiff_t)half * 4 * terms + k, used - 4 * half, left,
                          terms);
                for (int32_t g = 0; g < (left + 3) / 4; g++) {
                    const int8x16_t bytes = vreinterpretq_s8_s32(groups[g]);
                    vst1q_s8(to + (size_t)(k + 4 * g + 4) * LANES + half * 16, bytes);
                    sum = vdotq_s32(sum, bytes, one);
                }
            }
            vst1q_s32((int32_t *)(void *)(to + half * 16), sum);
        }
    }
}

/* Four terms of a tile: word i of the terms of each pixel. Lanes must be constants. */
#define TERMS(i)                                                                     \
    do {                                                                             \
        EACH (v, V) {                                                                \
            const int8_t *at = w + (size_t)v * block + (i) * 4 * LANES;              \
            const int8x16_t low = vld1q_s8(at), high = vld1q_s8(at + 16);            \
            EACH (p, P) {                                                            \
                sum[p][v].low = vdotq_laneq_s32(sum[p][v].low, low, value[p], i);    \
                sum[p][v].high = vdotq_laneq_s32(sum[p][v].high, high, value[p], i); \
            }                                                                        \
        }                                                                            \
    } while (0)

/* bias - x_zero * sum of w, of the block at w. */
static inline eight start_of(const seam_q8_job *job, const int8_t *w, int32_t c, int32_t n) {
    const int32_t *sums = (const int32_t *)(const void *)w;
    const eight bias = bias_load(job, c, n);
    return (eight){vmlsq_n_s32(bias.low, vld1q_s32(sums), job->x_zero),
                   vmlsq_n_s32(bias.high, vld1q_s32(sums + 4), job->x_zero)};
}

/* P pixels x V blocks of channels from c on. */
FIXED void tile_fixed(const int P, const int V, int8_t *y, ptrdiff_t y_step, const int8_t *x,
                      const seam_q8_job *job, int32_t c, const range8 *range) {
    const size_t step = seam_q8_padded(job->terms), block = block_bytes(job->terms);
    const int8_t *w = (const int8_t *)job->packed + (size_t)c / LANES * block;
    const int32_t last = lesser(LANES, job->channels - c - (V - 1) * LANES);
    eight sum[TILE][2];
    EACH (v, V) {
        const eight start =
            start_of(job, w + (size_t)v * block, c + v * LANES, v < V - 1 ? LANES : last);
        EACH (p, P)
            sum[p][v] = start;
    }
    w += 4 * LANES;
    int8x16_t value[TILE];
    int32_t k = 0;
    for (; k + 16 <= job->terms; k += 16, w += 16 * LANES) {
        EACH (p, P)
            value[p] = vld1q_s8(x + (size_t)p * step + k);
        TERMS(0);
        TERMS(1);
        TERMS(2);
        TERMS(3);
    }
    for (; k < job->terms; k += 4, w += 4 * LANES) {
        EACH (p, P)
            value[p] = vreinterpretq_s8_s32(
                vld1q_dup_s32((const int32_t *)(const void *)(x + (size_t)p * step + k)));
        TERMS(0);
    }
    EACH (v, V) {
        const int32_t n = v < V - 1 ? LANES : last;
        const scale8 scale = scale_load(job, c + v * LANES, n);
        EACH (p, P)
            store_bytes(y + p * y_step + c + v * LANES, narrow(rescale(sum[p][v], &scale), range),
                        n);
    }
}

/* All channels of P pixels; few pixels take two blocks at once. */
FIXED void tile_channels(const int P, int8_t *y, ptrdiff_t y_step, const int8_t *x,
                         const seam_q8_job *job, const range8 *range) {
    int32_t c = 0;
    if (P <= TILE / 2)
        for (; job->channels - c > LANES; c += 2 * LANES)
            tile_fixed(P, 2, y, y_step, x, job, c, range);
    for (; c < job->channels; c += LANES)
        tile_fixed(P, 1, y, y_step, x, job, c, range);
}

/* ---- Few pixels: sums along the terms of weights as they lie ---- */

/* Adds `n` terms from k on, n <= 16, of four channels; extra: of as many zeros. */
FIXED void dot_terms(int32x4_t *sum, int32x4_t *extra, const int8_t *x, const int8_t *const *w,
                     int8x16_t zero, int32_t k, int32_t n) {
    const int8x16_t value = vld1q_s8(x + k);
    EACH (l, 4) {
        const int8x16_t row = load_terms(w[l] + k, n);
        sum[l] = vdotq_s32(sum[l], row, value);
        extra[l] = vdotq_s32(extra[l], row, zero);
    }
}

/* Channels [c, c + n) of one pixel without the bias, n <= 4. */
static inline int32x4_t dot_four(const int8_t *x, const seam_q8_job *job, int32_t c, int32_t n) {
    const int8x16_t zero = vdupq_n_s8((int8_t)job->x_zero);
    const int32_t terms = job->terms;
    const int8_t *w[4];
    int32x4_t sum[4], extra[4];
    EACH (l, 4) {
        w[l] = job->w + (ptrdiff_t)(c + lesser(l, n - 1)) * terms;
        sum[l] = extra[l] = vdupq_n_s32(0);
    }
    int32_t k = 0;
    for (; k + 16 <= terms; k += 16)
        dot_terms(sum, extra, x, w, zero, k, 16);
    if (k < terms)
        dot_terms(sum, extra, x, w, zero, k, terms - k);
    EACH (l, 4)
        sum[l] = vsubq_s32(sum[l], extra[l]);
    return vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
}

/* Channels [c, c + n) of one pixel, n <= 8. */
static void dot(int8_t *y, const int8_t *x, const seam_q8_job *job, int32_t c, int32_t n,
                const range8 *range) {
    eight total = bias_load(job, c, n);
    total.low = vaddq_s32(total.low, dot_four(x, job, c, lesser(4, n)));
    if (n > 4)
        total.high = vaddq_s32(total.high, dot_four(x, job, c + 4, n - 4));
    const scale8 scale = scale_load(job, c, n);
    store_bytes(y + c, narrow(rescale(total, &scale), range), n);
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const range8 range = range_of(job->y_zero, job->y_min, job->y_max);
    const ptrdiff_t step = (ptrdiff_t)seam_q8_padded(job->terms);
    const int8_t *x = patches;
    int32_t p = 0;
    if (job->packed != NULL) {
        if (pixels == TILE) {
            tile_channels(TILE, y, y_step, x, job, &range);
            return;
        }
        for (; p + 4 <= pixels; p += 4)
            tile_channels(4, y + p * y_step, y_step, x + p * step, job, &range);
        for (; p < pixels; p++)
            tile_channels(1, y + p * y_step, y_step, x + p * step, job, &range);
        return;
    }
    for (; p < pixels; p++)
        for (int32_t c = 0; c < job->channels; c += LANES)
            dot(y + p * y_step, x + p * step, job, c, lesser(LANES, job->channels - c), &range);
}

/* Nothing but multiply-adds, in registers: the most a core can do. */
static int32_t peak(uint32_t rounds) {
    int32x4_t sum[SEAM_PEAK_VECTORS];
    EACH (p, SEAM_PEAK_VECTORS)
        sum[p] = vdupq_n_s32(p);
    const int8x16_t three = vdupq_n_s8(3);
    for (uint32_t r = 0; r < rounds; r++)
        EACH (p, SEAM_PEAK_VECTORS)
            sum[p] = vdotq_s32(sum[p], vreinterpretq_s8_s32(sum[p]), three);
    EACH (p, SEAM_PEAK_VECTORS)
        sum[0] = vaddq_s32(sum[0], sum[p]);
    return vgetq_lane_s32(sum[0], 0);
}

const seam_q8_kernels seam_q8_kernels_neon_dotprod = {
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
    .peak_products = 16,
    .peak = peak,
};

SEAM_TARGET_END
#endif
