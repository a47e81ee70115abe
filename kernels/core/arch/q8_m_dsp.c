/* The micro-kernels of the int8 layers for a Cortex-M with the DSP extension (M4, M7, M33): two
 * products an instruction. */
#include "q8.h"

#if defined(SEAM_M_DSP)
#include <arm_acle.h>

#include "../q8_requant.h"

#define FIXED static inline __attribute__((always_inline))
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* Four values that lie anywhere. */
FIXED uint32_t load4(const int8_t *p) {
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return word;
}

FIXED int16x2_t load2(const int16_t *p) {
    int16x2_t two;
    __builtin_memcpy(&two, p, sizeof two);
    return two;
}

/* Of four bytes: 0 and 2, or 1 and 3, as two halves. */
FIXED int16x2_t even_of(uint32_t bytes) {
    return __sxtb16((int8x4_t)bytes);
}

FIXED int16x2_t odd_of(uint32_t bytes) {
    int16x2_t halves;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(bytes));
    return halves;
}

/* The same, added to two halves. */
FIXED int16x2_t even_plus(int16x2_t to, uint32_t bytes) {
    return __sxtab16(to, (int8x4_t)bytes);
}

FIXED int16x2_t odd_plus(int16x2_t to, uint32_t bytes) {
    int16x2_t halves;
    __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(halves) : "r"(to), "r"(bytes));
    return halves;
}

FIXED int16x2_t twice(int32_t value) {
    return (int16x2_t)((uint32_t)(value & 0xFFFF) * 0x10001u);
}

/* ---- Requantisation ---- */

#define RIGHT_MAX 20 /* the zero point, so far up, leaves room */

/* right 0: figures that are not usual go the long way. */
typedef struct {
    int32_t multiplier, shift, right, round;
} scale;

/* Sums stay below 2^30 if the bias stays below this. */
static inline int32_t bias_limit(int32_t terms) {
    return (1 << 30) - lesser(terms, 30000) * (128 * 255) - (terms > 30000 ? 1 << 30 : 0);
}

FIXED scale scale_of(const seam_q8_job *job, int32_t c, int32_t bias, int32_t limit) {
    const int32_t at = c * job->scale_step, shift = job->shift[at];
    scale s = {job->multiplier[at], shift, 0, 0};
    if (shift < 0 && shift >= -RIGHT_MAX && bias < limit && -bias < limit) {
        s.right = -shift;
        s.round = (1 << (s.right - 1)) + job->y_zero * (1 << s.right);
    }
    return s;
}

/* round(a * b / 2^32), ties up. */
FIXED int32_t multiply_high(int32_t a, int32_t b) {
    int32_t high;
    __asm("smmulr %0, %1, %2" : "=r"(high) : "r"(a), "r"(b));
    return high;
}

FIXED int8_t finish(int32_t sum, const scale *s, const seam_q8_job *job) {
    int32_t y;
    if (s->right > 0) {
        y = multiply_high(sum * 2, s->multiplier);
        y = (y + (y >> 31) + s->round) >> s->right; /* halves away from zero, and the zero point */
    } else {
        y = seam_q8_rescale(sum, s->multiplier, s->shift) + job->y_zero;
    }
    return seam_q8_clamp(y, job->y_min, job->y_max);
}

/* ---- Patches of four pixels: [terms / 4][even terms, odd terms][pixel] halves ---- */

#define GROUP 16 /* values of four terms of all pixels */

static size_t packed_size(int32_t channels, int32_t terms) {
    (void)channels;
    (void)terms;
    return 0;
}

static void pack(void *packed, const seam_q8_job *job) {
    (void)packed;
    (void)job;
}

FIXED void put(int16_t *patch, ptrdiff_t k, int32_t value) {
    patch[(k >> 2) * GROUP + (k & 1) * 8 + (k >> 1 & 1)] = (int16_t)value;
}

FIXED void put4(int16_t *group, int16x2_t even, int16x2_t odd) {
    __builtin_memcpy(group, &even, sizeof even);
    __builtin_memcpy(group + 8, &odd, sizeof odd);
}

static void patch_zero(int16_t *to, ptrdiff_t k, ptrdiff_t end) {
    for (; k < end && (k & 3) != 0; k++)
        put(to, k, 0);
    for (; k + 4 <= end; k += 4)
        put4(to + (k >> 2) * GROUP, 0, 0);
    for (; k < end; k++)
        put(to, k, 0);
}

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    const int16x2_t minus = twice(-x_zero);
    for (int32_t r = 0; r < rows; r++, at += to_step) {
        const ptrdiff_t end = at + count;
        if (x == NULL) {
            patch_zero(to, at, end);
            continue;
        }
        const int8_t *from = x + r * x_step;
        ptrdiff_t k = at;
        for (; k < end && (k & 3) != 0; k++)
            put(to, k, *from++ - x_zero);
        int16_t *group = (int16_t *)to + (k >> 2) * GROUP;
        for (const ptrdiff_t last = end - 3; k < last; k += 4, from += 4, group += GROUP) {
            const uint32_t four = load4(from);
            put4(group, even_plus(minus, four), odd_plus(minus, four));
        }
        for (; k < end; k++)
            put(to, k, *from++ - x_zero);
    }
}

static void patch_end(void *to, int32_t terms) {
    for (int32_t k = terms; (k & 3) != 0; k++)
        put(to, k, 0);
}

/* ---- Tiles ---- */

/* clang-format off */
#define PIXEL(a, b)                      \
    "ldr %[t], [%[x]], #4\n\t"            \
    "smlad %[" a "], %[t], %[u], %[" a "]\n\t" \
    "smlad %[" b "], %[t], %[v], %[" b "]\n\t"
#define FOUR_PIXELS PIXEL("a0", "b0") PIXEL("a1", "b1") PIXEL("a2", "b2") PIXEL("a3", "b3")
/* clang-format on */

/* Sums of two channels over four pixels, four terms at a time until x is at x_end; in assembly
 * because it takes every register there is. */
FIXED void dot_4x2(int32_t *a, int32_t *b, const int16_t *x, const int16_t *x_end, const int8_t *w,
                   const int8_t *w2) {
    uint32_t t, u, v;
    int32_t a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
    int32_t b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
    __asm volatile("0:\n\t"
                   "ldr %[u], [%[w]]\n\t"
                   "ldr %[v], [%[w2]]\n\t"
                   "sxtb16 %[u], %[u]\n\t"
                   "sxtb16 %[v], %[v]\n\t" FOUR_PIXELS "ldr %[u], [%[w]], #4\n\t"
                   "ldr %[v], [%[w2]], #4\n\t"
                   "sxtb16 %[u], %[u], ror #8\n\t"
                   "sxtb16 %[v], %[v], ror #8\n\t" FOUR_PIXELS "ldr %[t], %[end]\n\t"
                   "cmp %[x], %[t]\n\t"
                   "bne 0b"
                   : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [a3] "+r"(a3), [b0] "+r"(b0),
                     [b1] "+r"(b1), [b2] "+r"(b2), [b3] "+r"(b3), [x] "+r"(x), [w] "+r"(w),
                     [w2] "+r"(w2), [t] "=&r"(t), [u] "=&r"(u), [v] "=&r"(v)
                   : [end] "m"(x_end)
                   : "cc", "memory");
    a[0] = a0, a[1] = a1, a[2] = a2, a[3] = a3;
    b[0] = b0, b[1] = b1, b[2] = b2, b[3] = b3;
}

/* The last weights of a row, fewer than four; nothing before or behind the row is read. */
static uint32_t last_weights(const int8_t *w, int32_t terms) {
    const int32_t rest = terms & 3;
    if (terms >= 4)
        return load4(w + terms - 4) >> (32 - 8 * rest);
    uint32_t word = 0;
    for (int32_t k = 0; k < rest; k++)
        word |= (uint32_t)(uint8_t)w[k] << (8 * k);
    return word;
}

/* One channel of `pixels` pixels. */
static void finish_channel(int8_t *y, ptrdiff_t y_step, const int32_t *sum, int32_t pixels,
                           const seam_q8_job *job, int32_t c, int32_t limit) {
    const scale s = scale_of(job, c, job->bias != NULL ? job->bias[c] : 0, limit);
    for (int32_t p = 0; p < pixels; p++)
        y[p * y_step] = finish(sum[p], &s, job);
}

static void two_channels(int8_t *y, ptrdiff_t y_step, const int16_t *x, int32_t pixels,
                         const seam_q8_job *job, int32_t c, int32_t second, int32_t limit) {
    const int32_t terms = job->terms, whole = terms >> 2;
    const int8_t *w = job->w + (ptrdiff_t)c * terms, *w2 = job->w + (ptrdiff_t)second * terms;
    int32_t a[4], b[4];
    EACH (p, 4) {
        a[p] = job->bias != NULL ? job->bias[c] : 0;
        b[p] = job->bias != NULL ? job->bias[second] : 0;
    }
    if (whole > 0)
        dot_4x2(a, b, x, x + whole * GROUP, w, w2);
    if ((terms & 3) != 0) {
        const uint32_t last[2] = {last_weights(w, terms), last_weights(w2, terms)};
        dot_4x2(a, b, x + whole * GROUP, x + (whole + 1) * GROUP, (const int8_t *)last,
                (const int8_t *)(last + 1));
    }
    finish_channel(y + c, y_step, a, pixels, job, c, limit);
    finish_channel(y + second, y_step, b, pixels, job, second, limit);
}

/* Four channels of a lone pixel. */
static void lone_pixel(int8_t *y, const int16_t *x, const seam_q8_job *job, int32_t c,
                       int32_t channels, int32_t limit) {
    const int32_t terms = job->terms;
    const int8_t *w[4];
    int32_t sum[4];
    EACH (i, 4) {
        const int32_t channel = c + lesser(i, channels - 1);
        w[i] = job->w + (ptrdiff_t)channel * terms;
        sum[i] = job->bias != NULL ? job->bias[channel] : 0;
    }
    for (int32_t k = 0; k < terms; k += 4, x += GROUP) {
        const int16x2_t even = load2(x), odd = load2(x + 8);
        const int last = k + 4 > terms;
        EACH (i, 4) {
            const uint32_t four = last ? last_weights(w[i] - k, terms) : load4(w[i]);
            w[i] += 4;
            sum[i] = __smlad(even, even_of(four), sum[i]);
            sum[i] = __smlad(odd, odd_of(four), sum[i]);
        }
    }
    for (int32_t i = 0; i < channels; i++)
        finish_channel(y + c + i, 1, sum + i, 1, job, c + i, limit);
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const int32_t limit = bias_limit(job->terms), channels = job->channels;
    if (pixels == 1) {
        for (int32_t c = 0; c < channels; c += 4)
            lone_pixel(y, patches, job, c, lesser(4, channels - c), limit);
        return;
    }
    for (int32_t c = 0; c < channels; c += 2)
        two_channels(y, y_step, patches, pixels, job, c, lesser(c + 1, channels - 1), limit);
}

/* ---- Depthwise: four channels side by side ---- */

FIXED void depthwise_tap(int32_t *sum, const int8_t *x, const int8_t *w, int16x2_t minus) {
    const uint32_t values = load4(x), weights = load4(w);
    const int16x2_t even = even_plus(minus, values), odd = odd_plus(minus, values);
    const int16x2_t w_even = even_of(weights), w_odd = odd_of(weights);
    sum[0] = __smlabb(even, w_even, sum[0]);
    sum[1] = __smlabb(odd, w_odd, sum[1]);
    sum[2] = __smlatt(even, w_even, sum[2]);
    sum[3] = __smlatt(odd, w_odd, sum[3]);
}

/* cols 0: any number. */
FIXED void depthwise_pixel(const int cols, int32_t *sum, const int8_t *x, const int8_t *w,
                           const seam_q8_line *line, int16x2_t minus) {
    for (int32_t i = 0; i < line->rows; i++, x += line->x_row, w += line->w_row) {
        if (cols > 0) {
            EACH (j, cols)
                depthwise_tap(sum, x + j * line->x_col, w + j * line->w_col, minus);
        } else {
            for (int32_t j = 0; j < line->cols; j++)
                depthwise_tap(sum, x + j * line->x_col, w + j * line->w_col, minus);
        }
    }
}

/* Channels [c, c + 4) of a line. */
FIXED void depthwise_fixed(const int cols, int8_t *y, const int8_t *x, const seam_q8_line *line,
                           int32_t c) {
    const seam_q8_job *job = &line->job;
    const int32_t limit = bias_limit(line->rows * line->cols);
    const int16x2_t minus = twice(-job->x_zero);
    int32_t bias[4];
    scale s[4];
    EACH (i, 4) {
        bias[i] = job->bias != NULL ? job->bias[c + i] : 0;
        s[i] = scale_of(job, c + i, bias[i], limit);
    }
    x += c;
    y += c;
    for (int32_t p = 0; p < line->pixels; p++, x += line->x_pixel, y += line->y_pixel) {
        int32_t sum[4] = {bias[0], bias[1], bias[2], bias[3]};
        depthwise_pixel(cols, sum, x, job->w + c, line, minus);
        EACH (i, 4)
            y[i] = finish(sum[i], &s[i], job);
    }
}

/* Fewer than four channels, one at a time. */
static void depthwise_narrow(int8_t *y, const int8_t *x, const seam_q8_line *line, int32_t c) {
    const seam_q8_job *job = &line->job;
    const int32_t bias = job->bias != NULL ? job->bias[c] : 0;
    const scale s = scale_of(job, c, bias, bias_limit(line->rows * line->cols));
    for (int32_t p = 0; p < line->pixels; p++) {
        int32_t sum = bias;
        for (int32_t i = 0; i < line->rows; i++)
            for (int32_t j = 0; j < line->cols; j++)
                sum += (x[p * line->x_pixel + i * line->x_row + j * line->x_col + c] -
                        job->x_zero) *
                       job->w[i * line->w_row + j * line->w_col + c];
        y[p * line->y_pixel + c] = finish(sum, &s, job);
    }
}

static void depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line) {
    const int32_t channels = line->job.channels;
    if (channels < 4) {
        for (int32_t c = 0; c < channels; c++)
            depthwise_narrow(y, x, line, c);
        return;
    }
    for (int32_t start = 0; start < channels; start += 4) {
        const int32_t c = lesser(start, channels - 4); /* the last ones may be done twice */
        if (line->cols == 3)
            depthwise_fixed(3, y, x, line, c);
        else if (line->cols == 2)
            depthwise_fixed(2, y, x, line, c);
        else
            depthwise_fixed(0, y, x, line, c);
    }
}

/* ---- Element by element ---- */

/* Of a residual sum's operand: below 2^28, so that it can be doubled. */
typedef struct {
    int32_t multiplier, right, half, sign; /* sign: -1, or 0 where nothing is shifted */
} rescaling;

static inline rescaling rescaling_of(int32_t multiplier, int32_t shift) {
    const int32_t right = -shift;
    return (rescaling){multiplier, right, right > 0 ? 1 << (right - 1) : 0, right > 0 ? -1 : 0};
}

FIXED int32_t rescale(int32_t doubled, const rescaling *s) {
    const int32_t y = multiply_high(doubled, s->multiplier);
    return (y + (y >> 31 & s->sign) + s->half) >> s->right;
}

static void add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count) {
    const rescaling left = rescaling_of(how->a_multiplier, how->a_shift);
    const rescaling right = rescaling_of(how->b_multiplier, how->b_shift);
    const rescaling both = rescaling_of(how->y_multiplier, how->y_shift);
    const int32_t up = 1 << (SEAM_Q8_SUM_SHIFT + 1);
    const int32_t a_zero = how->a_zero * up, b_zero = how->b_zero * up;
    for (size_t i = 0; i < count; i++) {
        const int32_t sum =
            rescale(a[i] * up - a_zero, &left) + rescale(b[i] * up - b_zero, &right);
        y[i] = seam_q8_clamp(rescale(sum * 2, &both) + how->y_zero, how->y_min, how->y_max);
    }
}

static void requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const int32_t value = seam_q8_rescale(x[i] - how->x_zero, *how->multiplier, *how->shift);
        y[i] = seam_q8_clamp(value + how->y_zero, how->y_min, how->y_max);
    }
}

const seam_q8_kernels seam_q8_kernels_m_dsp = {
    .pixels = 4,
    .pixel_bytes = 4,
    .packed_size = packed_size,
    .pack = pack,
    .patch = patch,
    .patch_end = patch_end,
    .tile = tile,
    .depthwise = depthwise,
    .add = add,
    .requantise = requantise,
};
#endif
