/* The micro-kernels of the int8 layers for a Cortex-M with the DSP extension (M4, M7, M33): two
 * products an instruction. */
#include "q8_usual.h"

#if defined(SEAM_M_DSP)
#include <arm_acle.h>

#define FIXED static inline __attribute__((always_inline))
#undef EACH /* fewer registers than a vector machine has */
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

/* `count` results of a channel whose figures are any that are allowed. */
static __attribute__((noinline)) void finish_any(int8_t *y, ptrdiff_t y_step, const int32_t *sum,
                                                 int32_t count, const seam_q8_job *job, int32_t c) {
    const int32_t at = c * job->scale_step;
    for (int32_t i = 0; i < count; i++) {
        const int32_t value = seam_q8_rescale(sum[i], job->multiplier[at], job->shift[at]);
        y[i * y_step] = seam_q8_clamp(value + job->y_zero, job->y_min, job->y_max);
    }
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

/* Up to three terms before k is a multiple of four; returns how many. */
FIXED int32_t put_first(int16_t *group, int32_t phase, const int8_t *x, int32_t x_zero,
                        int32_t count) {
    int32_t done = 0;
    if (phase == 1 && done < count)
        group[8] = (int16_t)(x[done++] - x_zero);
    if (phase > 0 && phase <= 2 && done < count)
        group[1] = (int16_t)(x[done++] - x_zero);
    if (phase > 0 && done < count)
        group[9] = (int16_t)(x[done++] - x_zero);
    return done;
}

FIXED void put_last(int16_t *group, const int8_t *x, int32_t x_zero, int32_t count) {
    if (count > 0)
        group[0] = (int16_t)(x[0] - x_zero);
    if (count > 1)
        group[8] = (int16_t)(x[1] - x_zero);
    if (count > 2)
        group[1] = (int16_t)(x[2] - x_zero);
}

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    const int16x2_t minus = twice(-x_zero);
    for (int32_t r = 0; r < rows; r++, at += to_step) {
        if (x == NULL) {
            patch_zero(to, at, at + count);
            continue;
        }
        int16_t *group = (int16_t *)to + (at >> 2) * GROUP;
        const int8_t *from = x + r * x_step;
        int32_t left = count;
        if ((at & 3) != 0) {
            const int32_t done = put_first(group, at & 3, from, x_zero, left);
            from += done;
            left -= done;
            group += GROUP;
        }
        for (; left >= 8; left -= 8, from += 8, group += 2 * GROUP) {
            const uint32_t four = load4(from), next = load4(from + 4);
            put4(group, even_plus(minus, four), odd_plus(minus, four));
            put4(group + GROUP, even_plus(minus, next), odd_plus(minus, next));
        }
        if (left >= 4) {
            const uint32_t four = load4(from);
            put4(group, even_plus(minus, four), odd_plus(minus, four));
            from += 4;
            left -= 4;
            group += GROUP;
        }
        put_last(group, from, x_zero, left);
    }
}

static void patch_end(void *to, int32_t terms) {
    for (int32_t k = terms; (k & 3) != 0; k++)
        put(to, k, 0);
}

/* ---- Tiles ---- */

/* The inner loops are functions of nothing but assembly: they take every register there is, and no
 * compiler can be asked for that. It must not look into them either: it would find their arguments
 * unused. */
#define NAKED __attribute__((naked, noipa)) static
#pragma GCC diagnostic ignored "-Wunused-parameter"

/* clang-format off */
#define PIXEL(a, b)                \
    "ldr lr, [r1], #4\n"            \
    "smlad " a ", lr, r0, " a "\n"  \
    "smlad " b ", lr, r12, " b "\n"
#define FOUR_PIXELS PIXEL("r4", "r8") PIXEL("r5", "r9") PIXEL("r6", "r10") PIXEL("r7", "r11")
#define FOUR_TERMS                                     \
    "ldr r0, [r2]\n" "ldr r12, [r3]\n"                 \
    "sxtb16 r0, r0\n" "sxtb16 r12, r12\n" FOUR_PIXELS  \
    "ldr r0, [r2], #4\n" "ldr r12, [r3], #4\n"         \
    "sxtb16 r0, r0, ror #8\n" "sxtb16 r12, r12, ror #8\n" FOUR_PIXELS
/* clang-format on */

/* sum[channel][pixel] += products of two channels and four pixels, until x is at x_end. */
NAKED void dot_4x2(int32_t *sum, const int16_t *x, const int8_t *w, const int8_t *w2,
                   const int16_t *x_end) {
    __asm volatile("push {r0, r4-r11, lr}\n"
                   "ldr lr, [sp, #40]\n"
                   "ldm r0, {r4-r11}\n"
                   "sub lr, lr, r1\n"
                   "tst lr, #32\n" /* an odd number of groups */
                   "bne 1f\n"
                   "0:\n" FOUR_TERMS "1:\n" FOUR_TERMS "ldr lr, [sp, #40]\n"
                   "cmp r1, lr\n"
                   "bne 0b\n"
                   "pop {r0}\n"
                   "stm r0, {r4-r11}\n"
                   "pop {r4-r11, pc}");
}

/* clang-format off */
#define CHANNEL(a, w)              \
    "ldr r12, [" w "], #4\n"        \
    "sxtb16 lr, r12\n"              \
    "smlad " a ", r0, lr, " a "\n"  \
    "sxtb16 r12, r12, ror #8\n"     \
    "smlad " a ", r2, r12, " a "\n"
/* clang-format on */

/* clang-format off */
#define DOT_1X4(terms)                                                       \
    "push {r0, r4-r11, lr}\n"                                                \
    "ldm r0, {r4-r7}\n"                                                      \
    "ldm r2, {r8-r11}\n"                                                     \
    "0:\n" terms                                                             \
    CHANNEL("r4", "r8") CHANNEL("r5", "r9")                                  \
    CHANNEL("r6", "r10") CHANNEL("r7", "r11")                                \
    "subs r3, r3, #1\n"                                                      \
    "bne 0b\n"                                                               \
    "pop {r0}\n"                                                             \
    "stm r0, {r4-r7}\n"                                                      \
    "pop {r4-r11, pc}"
/* clang-format on */

/* sum[channel] += products of four channels and one pixel, four terms `groups` times. */
NAKED void dot_1x4(int32_t *sum, const int16_t *x, const int8_t *const *w, int32_t groups) {
    __asm volatile(DOT_1X4("ldr r0, [r1], #16\nldr r2, [r1], #16\n"));
}

/* The same where the pixel is alone: [terms / 4][even terms, odd terms]. */
NAKED void dot_lone(int32_t *sum, const int16x2_t *x, const int8_t *const *w, int32_t groups) {
    __asm volatile(DOT_1X4("ldm r1!, {r0, r2}\n"));
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

/* P results of a channel. */
FIXED void finish_channel(int8_t *y, ptrdiff_t y_step, const int P, const int32_t *sum,
                          const seam_q8_job *job, int32_t c, int32_t bias,
                          const seam_q8_range *range) {
    seam_q8_usual s;
    if (!seam_q8_usual_of(&s, job, c, bias, range)) {
        finish_any(y, y_step, sum, P, job, c);
        return;
    }
    EACH (p, P) {
        *y = seam_q8_usual_finish(sum[p] * 2, &s);
        y += y_step;
    }
}

static void two_channels(int8_t *y, ptrdiff_t y_step, const int16_t *x, int32_t pixels,
                         const seam_q8_job *job, int32_t c, int32_t second,
                         const seam_q8_range *range) {
    const int32_t terms = job->terms;
    const int8_t *w = job->w + (ptrdiff_t)c * terms, *w2 = job->w + (ptrdiff_t)second * terms;
    const int32_t bias = job->bias != NULL ? job->bias[c] : 0;
    const int32_t bias2 = job->bias != NULL ? job->bias[second] : 0;
    int32_t sum[8] = {bias, bias, bias, bias, bias2, bias2, bias2, bias2};
    const int16_t *x_end = x + (terms >> 2) * GROUP;
    if (terms >= 4)
        dot_4x2(sum, x, w, w2, x_end);
    if ((terms & 3) != 0) {
        const uint32_t last[2] = {last_weights(w, terms), last_weights(w2, terms)};
        dot_4x2(sum, x_end, (const int8_t *)last, (const int8_t *)(last + 1), x_end + GROUP);
    }
    if (pixels == 4) {
        finish_channel(y + c, y_step, 4, sum, job, c, bias, range);
        finish_channel(y + second, y_step, 4, sum + 4, job, second, bias2, range);
    } else {
        finish_any(y + c, y_step, sum, pixels, job, c);
        finish_any(y + second, y_step, sum + 4, pixels, job, second);
    }
}

/* Channels [c, c + 4) of a lone pixel. */
static void lone_pixel(int8_t *y, const int16_t *x, const seam_q8_job *job, int32_t c,
                       const seam_q8_range *range) {
    const int32_t terms = job->terms;
    const int8_t *w[4];
    int32_t sum[4], bias[4];
    EACH (i, 4) {
        w[i] = job->w + (ptrdiff_t)(c + i) * terms;
        sum[i] = bias[i] = job->bias != NULL ? job->bias[c + i] : 0;
    }
    if (terms >= 4)
        dot_1x4(sum, x, w, terms >> 2);
    if ((terms & 3) != 0) {
        uint32_t last[4];
        EACH (i, 4) {
            last[i] = last_weights(w[i], terms);
            w[i] = (const int8_t *)&last[i];
        }
        dot_1x4(sum, x + (terms >> 2) * GROUP, w, 1);
    }
    EACH (i, 4)
        finish_channel(y + c + i, 1, 1, sum + i, job, c + i, bias[i], range);
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const seam_q8_range range = seam_q8_range_of(job, job->terms);
    const int32_t channels = job->channels;
    int32_t c = 0;
    if (pixels == 1)
        for (; c + 4 <= channels; c += 4)
            lone_pixel(y, patches, job, c, &range);
    for (; c < channels; c += 2)
        two_channels(y, y_step, patches, pixels, job, c, lesser(c + 1, channels - 1), &range);
}

/* ---- A lone pixel, read where it lies ---- */

#define LONE_TERMS 640 /* so many, as halves, on the stack */

/* Four channels, with what its terms are as halves. */
static void lone_halves(int8_t *y, const int16x2_t *halves, const int8_t *x, const seam_q8_job *job,
                        int32_t c, const seam_q8_range *range) {
    const int32_t terms = job->terms;
    const int8_t *w[4];
    int32_t sum[4], bias[4];
    EACH (i, 4) {
        w[i] = job->w + (ptrdiff_t)(c + i) * terms;
        sum[i] = bias[i] = job->bias != NULL ? job->bias[c + i] : 0;
    }
    dot_lone(sum, halves, w, terms >> 2);
    for (int32_t k = terms & ~3; k < terms; k++)
        EACH (i, 4)
            sum[i] += (x[k] - job->x_zero) * w[i][k];
    EACH (i, 4)
        finish_channel(y + c + i, 1, 1, sum + i, job, c + i, bias[i], range);
}

/* C channels. */
FIXED void lone_channels(const int C, int8_t *y, const int8_t *x, const seam_q8_job *job, int32_t c,
                         const seam_q8_range *range) {
    const int32_t terms = job->terms, whole = terms & ~3;
    const int16x2_t minus = twice(-job->x_zero);
    const int8_t *w = job->w + (ptrdiff_t)c * terms;
    int32_t sum[4], bias[4];
    EACH (i, C)
        sum[i] = bias[i] = job->bias != NULL ? job->bias[c + i] : 0;
    for (int32_t k = 0; k < whole; k += 4) {
        const uint32_t four = load4(x + k);
        const int16x2_t even = even_plus(minus, four), odd = odd_plus(minus, four);
        EACH (i, C) {
            const uint32_t weights = load4(w + (ptrdiff_t)i * terms + k);
            sum[i] = __smlad(even, even_of(weights), sum[i]);
            sum[i] = __smlad(odd, odd_of(weights), sum[i]);
        }
    }
    for (int32_t k = whole; k < terms; k++)
        EACH (i, C)
            sum[i] += (x[k] - job->x_zero) * w[(ptrdiff_t)i * terms + k];
    EACH (i, C)
        finish_channel(y + c + i, 1, 1, sum + i, job, c + i, bias[i], range);
}

static void lone(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    const seam_q8_range range = seam_q8_range_of(job, job->terms);
    const int32_t whole = job->terms & ~3;
    const int16x2_t minus = twice(-job->x_zero);
    int16x2_t halves[LONE_TERMS / 2];
    int32_t c = 0;
    if (whole > 0 && whole <= LONE_TERMS) {
        for (int32_t k = 0; k < whole; k += 4) {
            halves[k / 2] = even_plus(minus, load4(x + k));
            halves[k / 2 + 1] = odd_plus(minus, load4(x + k));
        }
        for (; c + 4 <= job->channels; c += 4)
            lone_halves(y, halves, x, job, c, &range);
    }
    for (; c + 4 <= job->channels; c += 4)
        lone_channels(4, y, x, job, c, &range);
    for (; c < job->channels; c++)
        lone_channels(1, y, x, job, c, &range);
}

/* ---- Depthwise: four channels side by side, weights unpacked once for the whole image ---- */

#define TAPS_MAX 25

typedef struct {
    uint32_t weights[TAPS_MAX][2]; /* doubled; channels 0 and 2, 1 and 3 */
    int32_t bias[4];               /* doubled */
    seam_q8_usual scales[4];
    int16x2_t minus; /* the zero point */
    int32_t kernel_w;
} four_channels;

typedef char state_fits[sizeof(four_channels) <= 4 * SEAM_Q8_STATE_WORDS ? 1 : -1];

static int block_begin(void *state, const seam_q8_job *job, const seam_window *p, int32_t c) {
    four_channels *four = state;
    if (p->kernel_h > TAPS_MAX || p->kernel_w > TAPS_MAX || p->kernel_h * p->kernel_w > TAPS_MAX)
        return 0;
    const int32_t taps = p->kernel_h * p->kernel_w;
    const seam_q8_range range = seam_q8_range_of(job, taps);
    EACH (i, 4) {
        const int32_t bias = job->bias != NULL ? job->bias[c + i] : 0;
        if (!seam_q8_usual_of(&four->scales[i], job, c + i, bias, &range))
            return 0;
        four->bias[i] = bias * 2;
    }
    four->minus = twice(-job->x_zero);
    four->kernel_w = p->kernel_w;
    const int8_t *w = job->w + c;
    for (int32_t k = 0; k < taps; k++, w += job->channels) {
        const int16x2_t even = even_of(load4(w)), odd = odd_of(load4(w));
        four->weights[k][0] = (uint32_t)__sadd16(even, even);
        four->weights[k][1] = (uint32_t)__sadd16(odd, odd);
    }
    return 1;
}

/* clang-format off */
#define TAP(x)                       \
    "ldr r0, [r1" x "]\n"             \
    "ldrd r12, lr, [r2], #8\n"        \
    "sxtab16 r3, r10, r0, ror #8\n"   \
    "sxtab16 r0, r10, r0\n"           \
    "smlabb r4, r0, r12, r4\n"        \
    "smlatt r6, r0, r12, r6\n"        \
    "smlabb r5, r3, lr, r5\n"         \
    "smlatt r7, r3, lr, r7\n"
#define FINISH(sum, at)              \
    "ldm r12!, {r3, r8, r9}\n"        \
    "smmulr " sum ", " sum ", r3\n"   \
    "add r9, r9, " sum "\n"           \
    "add r9, r9, " sum ", asr #31\n"  \
    "asr r9, r9, r8\n"                \
    "ssat r9, #8, r9\n"               \
    "strb r9, [r0, #" at "]\n"
#define PIXELS_OF(taps)                                                           \
    __asm volatile("push {r2, r4-r11, lr}\n" "ldr r3, [r2, #32]\n"                \
                   "sub sp, sp, #12\n"                                            \
                   "0:\n" "strd r0, r1, [sp]\n" "str r3, [sp, #8]\n"             \
                   "ldm r2, {r8-r11}\n" "ldrd r2, r12, [r2, #16]\n"              \
                   "ldm r12, {r4-r7}\n"                                           \
                   "1:\n" taps "add r1, r1, r8\n" "subs r11, r11, #1\n" "bne 1b\n" \
                   "ldr r2, [sp, #12]\n" "ldrd r0, r1, [sp]\n"                    \
                   "ldr r12, [r2, #20]\n" "add r12, r12, #16\n"                   \
                   FINISH("r4", "0") FINISH("r5", "1") FINISH("r6", "2") FINISH("r7", "3") \
                   "ldrd r4, r5, [r2, #24]\n" "ldr r3, [sp, #8]\n"                \
                   "add r1, r1, r4\n" "add r0, r0, r5\n"                          \
                   "subs r3, r3, #1\n" "bne 0b\n"                                 \
                   "add sp, sp, #16\n" "pop {r4-r11, pc}")
/* clang-format on */

/* What the assembly reads, in its order. */
typedef struct {
    ptrdiff_t x_row, x_col;
    int16x2_t minus;
    int32_t rows;
    const uint32_t (*weights)[2]; /* of the first tap */
    const int32_t *bias;          /* of the block; its scales lie behind it */
    ptrdiff_t x_pixel, y_pixel;
    int32_t pixels;
} pixel_job;

typedef char pixel_job_is_as_read[offsetof(pixel_job, pixels) == 32 ? 1 : -1];
typedef char
    scales_follow[offsetof(four_channels, scales) == offsetof(four_channels, bias) + 16 ? 1 : -1];

/* Pixels that use three taps a row. */
NAKED void pixels_of_three(int8_t *y, const int8_t *x, const pixel_job *job) {
    PIXELS_OF(TAP("") TAP(", r9") TAP(", r9, lsl #1"));
}

/* The two taps that an edge leaves of three. */
NAKED void pixels_of_two(int8_t *y, const int8_t *x, const pixel_job *job) {
    PIXELS_OF(TAP("") TAP(", r9") "add r2, r2, #8\n");
}

static void sum_any(int32_t *sum, const int8_t *x, const uint32_t (*w)[2], const seam_q8_part *part,
                    const four_channels *four) {
    for (int32_t i = 0; i < part->rows; i++, x += part->x_row, w += four->kernel_w)
        for (int32_t j = 0; j < part->cols; j++) {
            const uint32_t values = load4(x + j * part->x_col);
            const int16x2_t even = even_plus(four->minus, values);
            const int16x2_t odd = odd_plus(four->minus, values);
            const int16x2_t w_even = (int16x2_t)w[j][0], w_odd = (int16x2_t)w[j][1];
            sum[0] = __smlabb(even, w_even, sum[0]);
            sum[1] = __smlabb(odd, w_odd, sum[1]);
            sum[2] = __smlatt(even, w_even, sum[2]);
            sum[3] = __smlatt(odd, w_odd, sum[3]);
        }
}

static void block_part(int8_t *y, const int8_t *x, const void *state, const seam_q8_part *part) {
    const four_channels *four = state;
    const uint32_t (*w)[2] = &four->weights[part->tap];
    if (four->kernel_w == 3 && part->cols >= 2 && part->rows > 0) {
        const pixel_job job = {part->x_row, part->x_col,   four->minus,   part->rows,  w,
                               four->bias,  part->x_pixel, part->y_pixel, part->pixels};
        if (part->cols == 3)
            pixels_of_three(y, x, &job);
        else
            pixels_of_two(y, x, &job);
        return;
    }
    for (int32_t p = 0; p < part->pixels; p++, x += part->x_pixel, y += part->y_pixel) {
        int32_t sum[4] = {four->bias[0], four->bias[1], four->bias[2], four->bias[3]};
        sum_any(sum, x, w, part, four);
        EACH (i, 4)
            y[i] = seam_q8_usual_finish(sum[i], &four->scales[i]);
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
    const int32_t y = seam_q8_multiply_high(doubled, s->multiplier);
    return (y + (y >> 31 & s->sign) + s->half) >> s->right;
}

/* usual: of the result's scale and clamp, as of a layer's. */
FIXED void add_fixed(const int usual, int8_t *y, const int8_t *a, const int8_t *b,
                     const seam_q8_sum *how, size_t count) {
    const rescaling left = rescaling_of(how->a_multiplier, how->a_shift);
    const rescaling right = rescaling_of(how->b_multiplier, how->b_shift);
    const rescaling both = rescaling_of(how->y_multiplier, how->y_shift);
    const seam_q8_usual last = {how->y_multiplier, -how->y_shift,
                                usual ? (2 * how->y_zero + 1) * (1 << (-how->y_shift - 1)) : 0};
    const int32_t a_zero = how->a_zero, b_zero = how->b_zero;
    for (size_t i = 0; i < count; i++) {
        const int32_t sum = rescale((a[i] - a_zero) * (1 << (SEAM_Q8_SUM_SHIFT + 1)), &left) +
                            rescale((b[i] - b_zero) * (1 << (SEAM_Q8_SUM_SHIFT + 1)), &right);
        if (usual)
            y[i] = seam_q8_usual_finish(sum * 2, &last);
        else
            y[i] = seam_q8_clamp(rescale(sum * 2, &both) + how->y_zero, how->y_min, how->y_max);
    }
}

static void add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count) {
    if (how->y_shift < 0 && how->y_shift >= -SEAM_Q8_RIGHT_MAX && how->y_min == -128 &&
        how->y_max == 127)
        add_fixed(1, y, a, b, how, count);
    else
        add_fixed(0, y, a, b, how, count);
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
    .lone = lone,
    .depthwise = seam_q8_generic_depthwise,
    .block = 4,
    .block_begin = block_begin,
    .block_part = block_part,
    .add = add,
    .requantise = requantise,
};
#endif
