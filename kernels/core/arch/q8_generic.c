/* The micro-kernels of the int8 layers in plain C; weights are read as they lie. */
#include "generic_x86.h"

#include "q8_usual.h"

#define TILE 4
#define FIXED static inline __attribute__((always_inline))
#undef EACH /* fewer registers than a vector machine has */
#define EACH(i, n) _Pragma("GCC unroll 4") for (int i = 0; i < (n); i++)

static size_t packed_size(int32_t channels, int32_t terms) {
    (void)channels;
    (void)terms;
    return 0;
}

static void pack(void *packed, const seam_q8_job *job) {
    (void)packed;
    (void)job;
}

static void patch(void *to, ptrdiff_t at, ptrdiff_t to_step, const int8_t *x, ptrdiff_t x_step,
                  int32_t rows, int32_t count, int32_t x_zero) {
    for (int32_t r = 0; r < rows; r++) {
        int16_t *row = (int16_t *)to + at + r * to_step;
        for (int32_t i = 0; i < count; i++)
            row[i] = x == NULL ? (int16_t)0 : (int16_t)(x[r * x_step + i] - x_zero);
    }
}

static void patch_end(void *to, int32_t terms) {
    (void)to;
    (void)terms;
}

static int8_t finish(int32_t sum, const seam_q8_job *job, int32_t channel) {
    const int32_t scale = channel * job->scale_step;
    const int32_t y = seam_q8_rescale(sum, job->multiplier[scale], job->shift[scale]);
    return seam_q8_clamp(y + job->y_zero, job->y_min, job->y_max);
}

/* P pixels x C channels from c on: a value that is read is used more than once. */
FIXED void tile_fixed(const int P, const int C, int8_t *y, ptrdiff_t y_step, const int16_t *x,
                      const seam_q8_job *job, int32_t c, const seam_q8_range *range) {
    const int32_t terms = job->terms;
    const size_t patch_step = seam_q8_padded(terms);
    const int8_t *w = job->w + (ptrdiff_t)c * terms;
    int32_t sum[2][4], bias[4];
    EACH (i, C) {
        bias[i] = job->bias != NULL ? job->bias[c + i] : 0;
        EACH (p, P)
            sum[p][i] = bias[i];
    }
    for (int32_t k = 0; k < terms; k++)
        EACH (p, P)
            EACH (i, C)
                sum[p][i] += x[(size_t)p * patch_step + (size_t)k] * w[(ptrdiff_t)i * terms + k];
    EACH (i, C) {
        seam_q8_usual s;
        const int usual = seam_q8_usual_of(&s, job, c + i, bias[i], range);
        EACH (p, P)
            y[p * y_step + c + i] =
                usual ? seam_q8_usual_finish(sum[p][i] * 2, &s) : finish(sum[p][i], job, c + i);
    }
}

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const size_t patch_step = seam_q8_padded(job->terms);
    const seam_q8_range range = seam_q8_range_of(job, job->terms);
    const int32_t channels = job->channels;
    const int16_t *x = patches;
    int32_t p = 0;
    for (; p + 2 <= pixels; p += 2, y += 2 * y_step, x += 2 * patch_step) {
        int32_t c = 0;
        for (; c + 2 <= channels; c += 2)
            tile_fixed(2, 2, y, y_step, x, job, c, &range);
        if (c < channels)
            tile_fixed(2, 1, y, y_step, x, job, c, &range);
    }
    if (p < pixels) {
        int32_t c = 0;
        for (; c + 4 <= channels; c += 4)
            tile_fixed(1, 4, y, y_step, x, job, c, &range);
        for (; c < channels; c++)
            tile_fixed(1, 1, y, y_step, x, job, c, &range);
    }
}

/* C channels of a pixel that is read where it lies. */
FIXED void lone_fixed(const int C, int8_t *y, const int8_t *x, const seam_q8_job *job, int32_t c) {
    const int32_t terms = job->terms, zero = job->x_zero;
    const int8_t *w = job->w + (ptrdiff_t)c * terms;
    int32_t sum[4];
    EACH (i, C)
        sum[i] = job->bias != NULL ? job->bias[c + i] : 0;
    for (int32_t k = 0; k < terms; k++)
        EACH (i, C)
            sum[i] += (x[k] - zero) * w[(ptrdiff_t)i * terms + k];
    EACH (i, C)
        y[c + i] = finish(sum[i], job, c + i);
}

static void lone(int8_t *y, const int8_t *x, const seam_q8_job *job) {
    int32_t c = 0;
    for (; c + 4 <= job->channels; c += 4)
        lone_fixed(4, y, x, job, c);
    for (; c < job->channels; c++)
        lone_fixed(1, y, x, job, c);
}

/* A line of one channel after another: whatever the figures and the taps. */
void seam_q8_generic_depthwise(int8_t *y, const int8_t *x, const seam_q8_line *line) {
    const seam_q8_job *job = &line->job;
    for (int32_t p = 0; p < line->pixels; p++, x += line->x_pixel, y += line->y_pixel)
        for (int32_t c = 0; c < job->channels; c++) {
            int32_t sum = job->bias != NULL ? job->bias[c] : 0;
            for (int32_t i = 0; i < line->rows; i++)
                for (int32_t j = 0; j < line->cols; j++)
                    sum += (x[i * line->x_row + j * line->x_col + c] - job->x_zero) *
                           job->w[i * line->w_row + j * line->w_col + c];
            y[c] = finish(sum, job, c);
        }
}

/* Four channels of the whole image. whole_bias: of sums of inputs as they are, over all taps; the
 * zero point is taken off it instead of each of them. */
typedef struct {
    const int8_t *w;
    ptrdiff_t w_row, w_col;
    int32_t bias[4], whole_bias[4];
    seam_q8_usual scales[4];
    int32_t taps, x_zero;
} four_channels;

typedef char state_fits[sizeof(four_channels) <= 4 * SEAM_Q8_STATE_WORDS ? 1 : -1];

static int block_begin(void *state, const seam_q8_job *job, const seam_window *p, int32_t c) {
    const int64_t taps = (int64_t)p->kernel_h * p->kernel_w;
    four_channels *four = state;
    if (taps > 1024)
        return 0;
    const seam_q8_range range = seam_q8_range_of(job, (int32_t)taps);
    *four = (four_channels){.w = job->w + c,
                            .w_row = (ptrdiff_t)p->kernel_w * job->channels,
                            .w_col = job->channels,
                            .taps = (int32_t)taps,
                            .x_zero = job->x_zero};
    EACH (i, 4) {
        const int32_t bias = job->bias != NULL ? job->bias[c + i] : 0;
        if (!seam_q8_usual_of(&four->scales[i], job, c + i, bias, &range))
            return 0;
        int32_t weights = 0;
        for (int32_t k = 0; k < four->taps; k++)
            weights += four->w[k * four->w_col + i];
        four->bias[i] = bias;
        four->whole_bias[i] = bias - job->x_zero * weights;
    }
    return 1;
}

/* zero: taken off each input. */
FIXED void sum_taps(int32_t *sum, const int8_t *x, const int8_t *w, const four_channels *four,
                    const seam_q8_part *part, const int32_t zero) {
    const int32_t cols = part->cols;
    const ptrdiff_t x_step = part->x_row - cols * part->x_col;
    const ptrdiff_t w_step = four->w_row - cols * four->w_col;
    for (int32_t i = part->rows; i > 0; i--, x += x_step, w += w_step)
        for (int32_t j = cols; j > 0; j--, x += part->x_col, w += four->w_col)
            EACH (c, 4)
                sum[c] += (x[c] - zero) * w[c];
}

static void block_part(int8_t *y, const int8_t *x, const void *state, const seam_q8_part *given) {
    const four_channels *four = state;
    const seam_q8_part part = *given;
    const int whole = part.rows > 0 && part.cols > 0 && part.rows * part.cols == four->taps;
    const int8_t *w = four->w + (ptrdiff_t)part.tap * four->w_col;
    const int32_t *bias = whole ? four->whole_bias : four->bias;
    for (int32_t p = 0; p < part.pixels; p++, x += part.x_pixel, y += part.y_pixel) {
        int32_t sum[4] = {bias[0], bias[1], bias[2], bias[3]};
        if (whole)
            sum_taps(sum, x, w, four, &part, 0);
        else
            sum_taps(sum, x, w, four, &part, four->x_zero);
        EACH (c, 4)
            y[c] = seam_q8_usual_finish(sum[c] * 2, &four->scales[c]);
    }
}

static void add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const int32_t left = (a[i] - how->a_zero) * (1 << SEAM_Q8_SUM_SHIFT);
        const int32_t right = (b[i] - how->b_zero) * (1 << SEAM_Q8_SUM_SHIFT);
        const int32_t sum = seam_q8_rescale(left, how->a_multiplier, how->a_shift) +
                            seam_q8_rescale(right, how->b_multiplier, how->b_shift);
        const int32_t value = seam_q8_rescale(sum, how->y_multiplier, how->y_shift) + how->y_zero;
        y[i] = seam_q8_clamp(value, how->y_min, how->y_max);
    }
}

static void requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const int32_t value = seam_q8_rescale(x[i] - how->x_zero, *how->multiplier, *how->shift);
        y[i] = seam_q8_clamp(value + how->y_zero, how->y_min, how->y_max);
    }
}

/* Nothing but multiply-adds: the most a core can do. */
static int32_t peak(uint32_t rounds) {
    int32_t sums[SEAM_PEAK_VECTORS] = {0};
    for (uint32_t r = 0; r < rounds; r++)
        for (int32_t i = 0; i < SEAM_PEAK_VECTORS; i++)
            sums[i] += (int16_t)(sums[i] & 3) * (int8_t)i;
    int32_t sum = 0;
    for (int32_t i = 0; i < SEAM_PEAK_VECTORS; i++)
        sum += sums[i];
    return sum;
}

const seam_q8_kernels seam_q8_kernels_generic = {
    .pixels = TILE,
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
    .peak_products = 1,
    .peak = peak,
};
