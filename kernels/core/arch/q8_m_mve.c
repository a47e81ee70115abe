/* The micro-kernels of the int8 layers for a Cortex-M with Helium (M55): sixteen products an
 * instruction. */
#include "q8.h"

#if defined(SEAM_M_MVE)
#include <arm_mve.h>

#define FIXED static inline __attribute__((always_inline))
#undef EACH /* fewer registers than a vector machine has */
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* ---- Requantisation of four sums ---- */

typedef struct {
    int32x4_t multiplier, left, right; /* right: negative */
} scale4;

FIXED scale4 scale_of(int32x4_t multiplier, int32x4_t shift) {
    const int32x4_t none = vdupq_n_s32(0);
    return (scale4){multiplier, vmaxq_s32(shift, none), vminq_s32(shift, none)};
}

/* Of channels [c, c + 4); those that `used` leaves out are not read. */
FIXED scale4 scale_load(const seam_q8_job *job, int32_t c, mve_pred16_t used) {
    if (job->scale_step == 0)
        return scale_of(vdupq_n_s32(*job->multiplier), vdupq_n_s32(*job->shift));
    return scale_of(vldrwq_z_s32(job->multiplier + c, used), vldrwq_z_s32(job->shift + c, used));
}

/* Rounds halves up twice; what is below 0 and shifted goes down by one before, so that its halves
 * go away from zero. */
FIXED int32x4_t rescale(int32x4_t sum, const scale4 *s) {
    const int32x4_t y = vqrdmulhq_s32(vshlq_s32(sum, s->left), s->multiplier);
    const int32x4_t less = vshrq_n_s32(vandq_s32(y, s->right), 31);
    return vrshlq_s32(vqaddq_s32(y, less), s->right);
}

/* The same where all of the shifts are to the right, by one or more: the usual case. */
FIXED int32x4_t rescale_usual(int32x4_t sum, int32x4_t multiplier, int32x4_t right) {
    const int32x4_t y = vqrdmulhq_s32(sum, multiplier);
    return vrshlq_s32(vqaddq_s32(y, vshrq_n_s32(y, 31)), right);
}

FIXED int is_usual(int32x4_t shift) {
    return vmaxvq_s32(-31, shift) < 0;
}

/* ---- Patches: bytes as they are, padded with the zero point ---- */

static size_t packed_size(int32_t channels, int32_t terms) {
    (void)channels;
    (void)terms;
    return 0;
}

static void pack(void *packed, const seam_q8_job *job) {
    (void)packed;
    (void)job;
}

/* Loops whose last round may be a part of a vector are assembly: the compiler has no such loops. */

FIXED void copy(int8_t *to, const int8_t *from, int32_t count) {
    __asm volatile("wlstp.8 lr, %[count], 1f\n"
                   "0: vldrb.u8 q0, [%[from]], #16\n"
                   "vstrb.8 q0, [%[to]], #16\n"
                   "letp lr, 0b\n"
                   "1:"
                   : [to] "+r"(to), [from] "+r"(from)
                   : [count] "r"(count)
                   : "lr", "q0", "memory");
}

FIXED void fill(int8_t *to, int8_t value, int32_t count) {
    __asm volatile("vdup.8 q0, %[value]\n"
                   "wlstp.8 lr, %[count], 1f\n"
                   "0: vstrb.8 q0, [%[to]], #16\n"
                   "letp lr, 0b\n"
                   "1:"
                   : [to] "+r"(to)
                   : [count] "r"(count), [value] "r"(value)
                   : "lr", "q0", "memory");
}

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    int8_t *row = (int8_t *)to + at;
    for (int32_t r = 0; r < rows; r++, row += to_step) {
        if (x == NULL)
            fill(row, (int8_t)x_zero, count);
        else
            copy(row, x + r * x_step, count);
    }
}

/* The weights behind the last one are taken as zero. */
static void patch_end(void *to, int32_t terms) {
    (void)to;
    (void)terms;
}

/* ---- Tiles: four channels of a pixel at a time ---- */

typedef struct {
    const int8_t *w[4];
    int32_t terms;
} rows4;

/* Sums of each row of weights. */
FIXED int32x4_t row_sums(const rows4 *rows) {
    const int8_t *w0 = rows->w[0], *w1 = rows->w[1], *w2 = rows->w[2], *w3 = rows->w[3];
    int32_t a = 0, b = 0, c = 0, d = 0;
    int32x4_t sums;
    __asm volatile("dlstp.8 lr, %[terms]\n"
                   "0: vldrb.u8 q0, [%[w0]], #16\n"
                   "vaddva.s8 %[a], q0\n"
                   "vldrb.u8 q0, [%[w1]], #16\n"
                   "vaddva.s8 %[b], q0\n"
                   "vldrb.u8 q0, [%[w2]], #16\n"
                   "vaddva.s8 %[c], q0\n"
                   "vldrb.u8 q0, [%[w3]], #16\n"
                   "vaddva.s8 %[d], q0\n"
                   "letp lr, 0b\n"
                   "vmov %q[sums][2], %q[sums][0], %[a], %[c]\n"
                   "vmov %q[sums][3], %q[sums][1], %[b], %[d]"
                   : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [w0] "+r"(w0),
                     [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3), [sums] "=&w"(sums)
                   : [terms] "r"(rows->terms)
                   : "lr", "q0", "memory");
    return sums;
}

FIXED int32x4_t products(const rows4 *rows, const int8_t *x) {
    const int8_t *w0 = rows->w[0], *w1 = rows->w[1], *w2 = rows->w[2], *w3 = rows->w[3];
    int32_t a = 0, b = 0, c = 0, d = 0;
    int32x4_t sums;
    __asm volatile("dlstp.8 lr, %[terms]\n"
                   "0: vldrb.u8 q0, [%[x]], #16\n"
                   "vldrb.u8 q1, [%[w0]], #16\n"
                   "vmladava.s8 %[a], q0, q1\n"
                   "vldrb.u8 q1, [%[w1]], #16\n"
                   "vmladava.s8 %[b], q0, q1\n"
                   "vldrb.u8 q1, [%[w2]], #16\n"
                   "vmladava.s8 %[c], q0, q1\n"
                   "vldrb.u8 q1, [%[w3]], #16\n"
                   "vmladava.s8 %[d], q0, q1\n"
                   "letp lr, 0b\n"
                   "vmov %q[sums][2], %q[sums][0], %[a], %[c]\n"
                   "vmov %q[sums][3], %q[sums][1], %[b], %[d]"
                   : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [w0] "+r"(w0),
                     [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3), [x] "+r"(x), [sums] "=&w"(sums)
                   : [terms] "r"(rows->terms)
                   : "lr", "q0", "q1", "memory");
    return sums;
}

/* Channels [c, c + 4) of a tile, or as many as there are. usual: there are four, of usual scales.
 */
FIXED void four_channels(const int usual, int8_t *y, ptrdiff_t y_step, const int8_t *x,
                         int32_t pixels, const seam_q8_job *job, int32_t c, const scale4 *scale) {
    const size_t patch_step = seam_q8_padded(job->terms);
    const int32x4_t least = vdupq_n_s32(job->y_min), most = vdupq_n_s32(job->y_max);
    const mve_pred16_t used = vctp32q((uint32_t)(job->channels - c));
    const int32_t y_zero = job->y_zero;
    rows4 rows = {.terms = job->terms};
    EACH (i, 4) {
        const int32_t channel = usual ? c + i : lesser(c + i, job->channels - 1);
        rows.w[i] = job->w + (ptrdiff_t)channel * job->terms;
    }
    int32x4_t start = vmulq_n_s32(row_sums(&rows), -job->x_zero);
    if (job->bias != NULL)
        start = vaddq_s32(start, vldrwq_z_s32(job->bias + c, used));
    y += c;
    for (int32_t p = 0; p < pixels; p++, x += patch_step, y += y_step) {
        const int32x4_t sum = vaddq_s32(products(&rows, x), start);
        int32x4_t value =
            usual ? rescale_usual(sum, scale->multiplier, scale->right) : rescale(sum, scale);
        value = vaddq_n_s32(value, y_zero);
        value = vminq_s32(vmaxq_s32(value, least), most);
        if (usual)
            vstrbq_s32(y, value);
        else
            vstrbq_p_s32(y, value, used);
    }
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    for (int32_t first = 0; first < job->channels; first += 4) {
        /* The last ones may be done twice. */
        const int32_t c = job->channels < 4 ? 0 : lesser(first, job->channels - 4);
        const scale4 scale = scale_load(job, c, vctp32q((uint32_t)(job->channels - c)));
        if (job->channels >= 4 && is_usual(vaddq_s32(scale.left, scale.right)))
            four_channels(1, y, y_step, patches, pixels, job, c, &scale);
        else
            four_channels(0, y, y_step, patches, pixels, job, c, &scale);
    }
}

/* A patch is nothing but the terms as they are. */
static void lone(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    tile(y, 0, x, 1, job);
}

/* ---- Depthwise: eight channels side by side, even ones and odd ones in vectors of their own ----
 */

#define TAPS_MAX 25

/* bias: of sums that have the zero point taken off each input. whole_bias: of sums of inputs as
 * they are, over all taps. */
typedef struct {
    int8_t weights[TAPS_MAX][8];
    int32_t bias[2][4], whole_bias[2][4];
    int32_t multiplier[2][4], right[2][4];
    int32_t taps, kernel_w, x_zero, y_zero;
} eight_channels;

typedef char state_fits[sizeof(eight_channels) <= 4 * SEAM_Q8_STATE_WORDS ? 1 : -1];

FIXED int32x4_t every_other(const int32_t *from, int32_t step) {
    return vldrwq_gather_shifted_offset_s32(from, vmulq_n_u32(vidupq_n_u32(0, 2), (uint32_t)step));
}

static int block_begin(void *state, const seam_q8_job *job, const seam_window *p, int32_t c) {
    eight_channels *s = state;
    const int32_t step = job->scale_step;
    if (p->kernel_h > TAPS_MAX || p->kernel_w > TAPS_MAX || p->kernel_h * p->kernel_w > TAPS_MAX ||
        job->y_min > -128 || job->y_max < 127)
        return 0;
    *s = (eight_channels){.taps = p->kernel_h * p->kernel_w,
                          .kernel_w = p->kernel_w,
                          .x_zero = job->x_zero,
                          .y_zero = job->y_zero};
    int16x8_t sums = vdupq_n_s16(0);
    for (int32_t k = 0; k < s->taps; k++) {
        const int16x8_t weights = vldrbq_s16(job->w + (ptrdiff_t)k * job->channels + c);
        vstrbq_s16(s->weights[k], weights);
        sums = vaddq_s16(sums, weights);
    }
    const int16x8_t zero = vdupq_n_s16((int16_t)job->x_zero);
    const int32x4_t zeros[2] = {vmullbq_int_s16(sums, zero), vmulltq_int_s16(sums, zero)};
    EACH (odd, 2) {
        const int32x4_t bias =
            job->bias == NULL ? vdupq_n_s32(0) : every_other(job->bias + c + odd, 1);
        const int32_t at = (c + odd) * step;
        const int32x4_t shift = every_other(job->shift + at, step);
        if (!is_usual(shift))
            return 0;
        vstrwq_s32(s->bias[odd], bias);
        vstrwq_s32(s->whole_bias[odd], vsubq_s32(bias, zeros[odd]));
        vstrwq_s32(s->multiplier[odd], every_other(job->multiplier + at, step));
        vstrwq_s32(s->right[odd], shift);
    }
    return 1;
}

/* What the assembly reads, in its order. */
typedef struct {
    const int8_t *weights;   /* of the first tap */
    ptrdiff_t x_col, x_next; /* to the next tap; from behind a row to the next one */
    int32_t rows, x_zero, y_zero;
    ptrdiff_t x_step, y_step; /* from behind a pixel to the next one */
    int32_t pixels;
    const int32_t *start, *scales; /* even, odd; multipliers even, odd, shifts even, odd */
} pixel_job;

typedef char pixel_job_is_as_read[offsetof(pixel_job, scales) == 40 ? 1 : -1];
typedef char shifts_follow
    [offsetof(eight_channels, right) == offsetof(eight_channels, multiplier) + 32 ? 1 : -1];

/* Functions of nothing but assembly: it needs low registers for all that it reads vectors from,
 * more than a compiler finds. The compiler must not look into them: it would find their arguments
 * unused. */
#define NAKED __attribute__((naked, noipa)) static
#pragma GCC diagnostic ignored "-Wunused-parameter"

/* clang-format off */
#define TAP(zero)                      \
    "vldrb.s16 q0, [r1]\n"             \
    "vldrb.s16 q1, [r3], #8\n" zero    \
    "add r1, r1, r4\n"                 \
    "vmullb.s16 q2, q0, q1\n"          \
    "vmullt.s16 q3, q0, q1\n"          \
    "vadd.i32 q4, q4, q2\n"            \
    "vadd.i32 q5, q5, q3\n"
#define OFF "vsub.i16 q0, q0, r7\n"
#define RESCALE(sum, multiplier, right)                                 \
    "vldrw.32 q0, [r2, #" multiplier "]\n" "vldrw.32 q1, [r2, #" right "]\n" \
    "vqrdmulh.s32 " sum ", " sum ", q0\n" "vshr.s32 q0, " sum ", #31\n"    \
    "vqadd.s32 " sum ", " sum ", q0\n" "vrshl.s32 " sum ", " sum ", q1\n"
/* A kernel row has three taps, 24 bytes of weights. */
#define PIXELS_OF(taps)                                                             \
    __asm volatile("push {r4-r11, lr}\n" "vpush {d8-d11}\n"                         \
                   "ldrd r3, r4, [r2]\n" "ldrd r5, r6, [r2, #8]\n"                  \
                   "ldrd r7, r8, [r2, #16]\n" "ldrd r9, r10, [r2, #24]\n"           \
                   "ldrd r11, r12, [r2, #32]\n" "ldr r2, [r2, #40]\n"               \
                   "0:\n" "vldrw.32 q4, [r12]\n" "vldrw.32 q5, [r12, #16]\n"        \
                   "dls lr, r6\n"                                                   \
                   "1:\n" taps "add r1, r1, r5\n" "le lr, 1b\n"                     \
                   RESCALE("q4", "0", "32") RESCALE("q5", "16", "48")               \
                   "vqmovnb.s32 q0, q4\n" "vqmovnt.s32 q0, q5\n"                    \
                   "vqadd.s16 q0, q0, r8\n" "vqmovnb.s16 q1, q0\n"                  \
                   "vstrb.16 q1, [r0]\n"                                            \
                   "add r0, r0, r10\n" "add r1, r1, r9\n"                           \
                   "add lr, r6, r6, lsl #1\n" "sub r3, r3, lr, lsl #3\n"            \
                   "subs r11, r11, #1\n" "bne 0b\n"                                 \
                   "vpop {d8-d11}\n" "pop {r4-r11, pc}")
/* clang-format on */

/* Of pixels whose taps are all inside: of inputs as they are. */
NAKED void whole_pixels(int8_t *y, const int8_t *x, const pixel_job *job) {
    PIXELS_OF(TAP("") TAP("") TAP(""));
}

NAKED void three_wide_pixels(int8_t *y, const int8_t *x, const pixel_job *job) {
    PIXELS_OF(TAP(OFF) TAP(OFF) TAP(OFF));
}

/* At an edge: two of three. */
NAKED void two_wide_pixels(int8_t *y, const int8_t *x, const pixel_job *job) {
    PIXELS_OF(TAP(OFF) TAP(OFF) "add r3, r3, #8\n");
}

static void any_pixels(int8_t *y, const int8_t *x, const int8_t *w, const eight_channels *s,
                       const seam_q8_part *part) {
    for (int32_t p = 0; p < part->pixels; p++, x += part->x_pixel, y += part->y_pixel) {
        int32x4_t even = vldrwq_s32(s->bias[0]), odd = vldrwq_s32(s->bias[1]);
        for (int32_t i = 0; i < part->rows; i++)
            for (int32_t j = 0; j < part->cols; j++) {
                const int8_t *at = x + i * part->x_row + j * part->x_col;
                const int16x8_t value = vsubq_n_s16(vldrbq_s16(at), (int16_t)s->x_zero);
                const int16x8_t weight = vldrbq_s16(w + 8 * (i * s->kernel_w + j));
                even = vaddq_s32(even, vmullbq_int_s16(value, weight));
                odd = vaddq_s32(odd, vmulltq_int_s16(value, weight));
            }
        even = rescale_usual(even, vldrwq_s32(s->multiplier[0]), vldrwq_s32(s->right[0]));
        odd = rescale_usual(odd, vldrwq_s32(s->multiplier[1]), vldrwq_s32(s->right[1]));
        int16x8_t both = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
        both = vqaddq_n_s16(both, (int16_t)s->y_zero);
        vstrbq_s16(y, vminq_s16(vmaxq_s16(both, vdupq_n_s16(-128)), vdupq_n_s16(127)));
    }
}

static void block_part(int8_t *y, const int8_t *x, const void *state, const seam_q8_part *part) {
    const eight_channels *s = state;
    const int8_t *w = s->weights[part->tap];
    const int whole = part->rows > 0 && part->rows * part->cols == s->taps;
    if (s->kernel_w != 3 || part->rows <= 0 || part->cols < 2) {
        any_pixels(y, x, w, s, part);
        return;
    }
    const pixel_job job = {.weights = w,
                           .x_col = part->x_col,
                           .x_next = part->x_row - part->cols * part->x_col,
                           .rows = part->rows,
                           .x_zero = s->x_zero,
                           .y_zero = s->y_zero,
                           .x_step = part->x_pixel - part->rows * part->x_row,
                           .y_step = part->y_pixel,
                           .pixels = part->pixels,
                           .start = whole ? s->whole_bias[0] : s->bias[0],
                           .scales = s->multiplier[0]};
    if (whole)
        whole_pixels(y, x, &job);
    else if (part->cols == 3)
        three_wide_pixels(y, x, &job);
    else
        two_wide_pixels(y, x, &job);
}

/* ---- Element by element ---- */

/* One scale for all, not above 1. */
typedef struct {
    int32_t multiplier, right; /* negative */
    int32x4_t rights;
} common_scale;

FIXED common_scale common_of(int32_t multiplier, int32_t right) {
    return (common_scale){multiplier, right, vdupq_n_s32(right)};
}

FIXED int32x4_t rescale_down(int32x4_t sum, const common_scale *s) {
    const int32x4_t y = vqrdmulhq_n_s32(sum, s->multiplier);
    const int32x4_t less = vshrq_n_s32(vandq_s32(y, s->rights), 31);
    return vrshlq_n_s32(vqaddq_s32(y, less), s->right);
}

typedef struct {
    common_scale a, b, y;
    int32x4_t y_min, y_max;
} sum_scales;

FIXED int32x4_t sum_of(int32x4_t a, int32x4_t b, const seam_q8_sum *how, const sum_scales *s) {
    a = vshlq_n_s32(vsubq_n_s32(a, how->a_zero), SEAM_Q8_SUM_SHIFT);
    b = vshlq_n_s32(vsubq_n_s32(b, how->b_zero), SEAM_Q8_SUM_SHIFT);
    const int32x4_t sum = vaddq_s32(rescale_down(a, &s->a), rescale_down(b, &s->b));
    const int32x4_t value = vaddq_n_s32(rescale_down(sum, &s->y), how->y_zero);
    return vminq_s32(vmaxq_s32(value, s->y_min), s->y_max);
}

static void add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count) {
    const seam_q8_sum local = *how;
    const sum_scales scales = {.a = common_of(how->a_multiplier, how->a_shift),
                               .b = common_of(how->b_multiplier, how->b_shift),
                               .y = common_of(how->y_multiplier, how->y_shift),
                               .y_min = vdupq_n_s32(how->y_min),
                               .y_max = vdupq_n_s32(how->y_max)};
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        vstrbq_s32(y + i, sum_of(vldrbq_s32(a + i), vldrbq_s32(b + i), &local, &scales));
    if (i < count) {
        const mve_pred16_t used = vctp32q((uint32_t)(count - i));
        const int32x4_t left = vldrbq_z_s32(a + i, used), right = vldrbq_z_s32(b + i, used);
        vstrbq_p_s32(y + i, sum_of(left, right, &local, &scales), used);
    }
}

FIXED void store4(int8_t *y, int32x4_t value, int32_t y_min, int32_t y_max, mve_pred16_t used) {
    value = vminq_s32(vmaxq_s32(value, vdupq_n_s32(y_min)), vdupq_n_s32(y_max));
    vstrbq_p_s32(y, value, used);
}

static void requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    const scale4 scale = scale_of(vdupq_n_s32(*how->multiplier), vdupq_n_s32(*how->shift));
    for (size_t i = 0; i < count; i += 4) {
        const mve_pred16_t used = vctp32q((uint32_t)(count - i));
        const int32x4_t value =
            rescale(vsubq_n_s32(vldrbq_z_s32(x + i, used), how->x_zero), &scale);
        store4(y + i, vaddq_n_s32(value, how->y_zero), how->y_min, how->y_max, used);
    }
}

const seam_q8_kernels seam_q8_kernels_m_mve = {
    .pixels = 8,
    .packed_size = packed_size,
    .pack = pack,
    .patch = patch,
    .patch_end = patch_end,
    .tile = tile,
    .lone = lone,
    .depthwise = seam_q8_generic_depthwise,
    .block = 8,
    .block_begin = block_begin,
    .block_part = block_part,
    .add = add,
    .requantise = requantise,
};
#endif
