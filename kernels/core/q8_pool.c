/* int8 max and average pooling, and padding. Only taps inside the input count. */
#include "q8_requant.h"
#include "walk.h"

#define BLOCK 64 /* channels summed side by side */

int seam_q8_pool_check(const seam_window *p) {
    const seam_axis axes[2] = {seam_axis_h(p), seam_axis_w(p)};
    if ((int64_t)p->kernel_h * p->kernel_w > INT32_MAX / 256)
        return SEAM_E_LIMIT; /* the sum of an average */
    for (int a = 0; a < 2; a++)
        for (int32_t o = 0; o < axes[a].out; o++) {
            int32_t first, end;
            seam_axis_taps(&first, &end, &axes[a], o);
            if (end <= first)
                return SEAM_E_SHAPE;
        }
    return SEAM_OK;
}

static void max_pixel(int8_t *y, const int8_t *x, const seam_taps *at, int32_t channels,
                      int32_t y_min, int32_t y_max) {
    for (int32_t c = 0; c < channels; c++)
        y[c] = x[at->x + c];
    for (int32_t i = 0; i < at->rows; i++)
        for (int32_t j = 0; j < at->cols; j++) {
            const int8_t *tap = x + at->x + i * at->x_row + j * at->x_col;
            for (int32_t c = 0; c < channels; c++)
                y[c] = tap[c] > y[c] ? tap[c] : y[c];
        }
    for (int32_t c = 0; c < channels; c++)
        y[c] = seam_q8_clamp(y[c], y_min, y_max);
}

/* Rounds halves away from zero: C divides towards it. */
static int32_t mean_of(int32_t sum, int32_t count) {
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

static void average_pixel(int8_t *y, const int8_t *x, const seam_taps *at, int32_t channels,
                          int32_t y_min, int32_t y_max) {
    for (int32_t first = 0; first < channels; first += BLOCK) {
        const int32_t n = channels - first < BLOCK ? channels - first : BLOCK;
        int32_t sums[BLOCK] = {0};
        for (int32_t i = 0; i < at->rows; i++)
            for (int32_t j = 0; j < at->cols; j++) {
                const int8_t *tap = x + at->x + i * at->x_row + j * at->x_col + first;
                for (int32_t c = 0; c < n; c++)
                    sums[c] += tap[c];
            }
        for (int32_t c = 0; c < n; c++)
            y[first + c] = seam_q8_clamp(mean_of(sums[c], at->rows * at->cols), y_min, y_max);
    }
}

void seam_q8_max_pool2d(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                        int32_t y_max) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, y += p->in_c) {
                const seam_taps at = seam_taps_at(p, n, oh, ow);
                max_pixel(y, x, &at, p->in_c, y_min, y_max);
            }
}

void seam_q8_average_pool2d(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                            int32_t y_max) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, y += p->in_c) {
                const seam_taps at = seam_taps_at(p, n, oh, ow);
                average_pixel(y, x, &at, p->in_c, y_min, y_max);
            }
}

void seam_q8_pad(int8_t *y, const int8_t *x, const seam_window *p, int8_t zero) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++) {
            const int32_t row = oh - p->pad_top;
            const int inside = row >= 0 && row < p->in_h;
            const size_t left = (size_t)p->pad_left * (size_t)p->in_c;
            const size_t line = (size_t)p->in_w * (size_t)p->in_c;
            const size_t width = (size_t)p->out_w * (size_t)p->in_c;
            for (size_t i = 0; i < width; i++) {
                const int taken = inside && i >= left && i - left < line;
                y[i] = taken ? x[i - left] : zero;
            }
            y += width;
            x += inside ? line : 0;
        }
}
