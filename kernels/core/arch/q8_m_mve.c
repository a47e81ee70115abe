/* The micro-kernels of the int8 layers for a Cortex-M with Helium (M55): sixteen products an
 * instruction. */
#include "q8.h"

#if defined(SEAM_M_MVE)
#include <arm_mve.h>

#define FIXED static inline __attribute__((always_inline))
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

/* Channels [c, c + 4) of a tile, or where there are fewer than four, all of them. */
FIXED void four_channels(const int whole, int8_t *y, ptrdiff_t y_step, const int8_t *x,
                         int32_t pixels, const seam_q8_job *job, int32_t c) {
    const size_t patch_step = seam_q8_padded(job->terms);
    const int32x4_t least = vdupq_n_s32(job->y_min), most = vdupq_n_s32(job->y_max);
    const mve_pred16_t used = vctp32q((uint32_t)job->channels);
    const int32_t last = job->channels - 1;
    rows4 rows = {.terms = job->terms};
    EACH (i, 4)
        rows.w[i] = job->w + (ptrdiff_t)(whole ? c + i : lesser(i, last)) * job->terms;
    const scale4 scale = scale_load(job, c, whole ? vctp32q(4) : used);
    int32x4_t start = vmulq_n_s32(row_sums(&rows), -job->x_zero);
    if (job->bias != NULL)
        start = vaddq_s32(start, vldrwq_z_s32(job->bias + c, whole ? vctp32q(4) : used));
    y += c;
    for (int32_t p = 0; p < pixels; p++, x += patch_step, y += y_step) {
        int32x4_t value = rescale(vaddq_s32(products(&rows, x), start), &scale);
        value = vaddq_n_s32(value, job->y_zero);
        value = vminq_s32(vmaxq_s32(value, least), most);
        if (whole)
            vstrbq_s32(y, value);
        else
            vstrbq_p_s32(y, value, used);
    }
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    if (job->channels < 4)
        four_channels(0, y, y_step, patches, pixels, job, 0);
    else /* the last ones may be done twice */
        for (int32_t c = 0; c < job->channels; c += 4)
            four_channels(1, y, y_step, patches, pixels, job, lesser(c, job->channels - 4));
}

/* ---- Depthwise: eight channels side by side ---- */

FIXED int32x4_t gather4(const int32_t *from, uint32x4_t at) {
    return vldrwq_gather_shifted_offset_s32(from, at);
}

/* Channels c, c + 2, c + 4, c + 6. */
FIXED scale4 scale_every_other(const seam_q8_job *job, int32_t c) {
    const uint32x4_t at = vmulq_n_u32(vidupq_n_u32(0, 2), (uint32_t)job->scale_step);
    const int32_t first = c * job->scale_step;
    return scale_of(gather4(job->multiplier + first, at), gather4(job->shift + first, at));
}

FIXED int32x4_t bias_every_other(const seam_q8_job *job, int32_t c) {
    return job->bias == NULL ? vdupq_n_s32(0) : gather4(job->bias + c, vidupq_n_u32(0, 2));
}

static void depthwise_eight(int8_t *y, const int8_t *x, const seam_q8_line *line, int32_t c) {
    const seam_q8_job *job = &line->job;
    const scale4 even_scale = scale_every_other(job, c), odd_scale = scale_every_other(job, c + 1);
    const int32x4_t even_bias = bias_every_other(job, c), odd_bias = bias_every_other(job, c + 1);
    const int16_t zero = (int16_t)job->x_zero;
    for (int32_t p = 0; p < line->pixels; p++) {
        int32x4_t even = even_bias, odd = odd_bias;
        const int8_t *x_row = x + p * line->x_pixel + c, *w_row = job->w + c;
        for (int32_t i = 0; i < line->rows; i++, x_row += line->x_row, w_row += line->w_row) {
            const int8_t *at = x_row, *w = w_row;
            for (int32_t j = 0; j < line->cols; j++, at += line->x_col, w += line->w_col) {
                const int16x8_t value = vsubq_n_s16(vldrbq_s16(at), zero);
                const int16x8_t weight = vldrbq_s16(w);
                even = vaddq_s32(even, vmullbq_int_s16(value, weight));
                odd = vaddq_s32(odd, vmulltq_int_s16(value, weight));
            }
        }
        int16x8_t both = vqmovnbq_s32(vdupq_n_s16(0), rescale(even, &even_scale));
        both = vqaddq_n_s16(vqmovntq_s32(both, rescale(odd, &odd_scale)), (int16_t)job->y_zero);
        both = vmaxq_s16(both, vdupq_n_s16((int16_t)job->y_min));
        both = vminq_s16(both, vdupq_n_s16((int16_t)job->y_max));
        vstrbq_s16(y + p * line->y_pixel + c, both);
    }
}

static void depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line) {
    const int32_t channels = line->job.channels;
    if (channels < 8) {
        seam_q8_generic_depthwise(y, x, line);
        return;
    }
    for (int32_t c = 0; c < channels; c += 8)
        depthwise_eight(y, x, line, lesser(c, channels - 8)); /* the last ones may be done twice */
}

/* ---- Element by element ---- */

FIXED int32x4_t raised(const int8_t *x, int32_t zero, mve_pred16_t used) {
    return vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(x, used), zero), SEAM_Q8_SUM_SHIFT);
}

FIXED void store4(int8_t *y, int32x4_t value, int32_t y_min, int32_t y_max, mve_pred16_t used) {
    value = vminq_s32(vmaxq_s32(value, vdupq_n_s32(y_min)), vdupq_n_s32(y_max));
    vstrbq_p_s32(y, value, used);
}

static void add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count) {
    const scale4 left = scale_of(vdupq_n_s32(how->a_multiplier), vdupq_n_s32(how->a_shift));
    const scale4 right = scale_of(vdupq_n_s32(how->b_multiplier), vdupq_n_s32(how->b_shift));
    const scale4 both = scale_of(vdupq_n_s32(how->y_multiplier), vdupq_n_s32(how->y_shift));
    for (size_t i = 0; i < count; i += 4) {
        const mve_pred16_t used = vctp32q((uint32_t)(count - i));
        const int32x4_t sum = vaddq_s32(rescale(raised(a + i, how->a_zero, used), &left),
                                        rescale(raised(b + i, how->b_zero, used), &right));
        store4(y + i, vaddq_n_s32(rescale(sum, &both), how->y_zero), how->y_min, how->y_max, used);
    }
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
    .depthwise = depthwise,
    .add = add,
    .requantise = requantise,
};
#endif
