/* The micro-kernels of the int8 layers in plain C; weights are read as they lie. */
#include "q8.h"

#include "../q8_requant.h"

#define TILE 4

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

static void tile(int8_t *y, ptrdiff_t y_step, const void *patches, int32_t pixels,
                 const seam_q8_job *job) {
    const size_t patch_step = seam_q8_padded(job->terms);
    const int8_t *w = job->w;
    for (int32_t c = 0; c < job->channels; c++, w += job->terms) {
        const int16_t *x = patches;
        for (int32_t p = 0; p < pixels; p++, x += patch_step) {
            int32_t sum = job->bias != NULL ? job->bias[c] : 0;
            for (int32_t k = 0; k < job->terms; k++)
                sum += x[k] * w[k];
            y[p * y_step + c] = finish(sum, job, c);
        }
    }
}

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
    .depthwise = seam_q8_generic_depthwise,
    .add = add,
    .requantise = requantise,
    .peak_products = 1,
    .peak = peak,
};
