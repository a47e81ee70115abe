/* Max and average pooling, forward and backward. Only taps inside the input count. */
#include "walk.h"

/* y[c] = largest tap; 0 where no tap is inside. The last NaN wins, so that it is seen. */
static void max_forward(float *y, const float *x, const seam_taps *at, int32_t channels) {
    for (int32_t c = 0; c < channels; c++)
        y[c] = at->rows > 0 && at->cols > 0 ? x[at->x + c] : 0.0f;
    for (int32_t i = 0; i < at->rows; i++)
        for (int32_t j = 0; j < at->cols; j++) {
            const float *tap = x + at->x + i * at->x_row + j * at->x_col;
            for (int32_t c = 0; c < channels; c++)
                y[c] = ((tap[c] > y[c]) | (tap[c] != tap[c])) ? tap[c] : y[c];
        }
}

/* The first of equal taps takes the gradient. */
static void max_backward(float *dx, const float *dy, const float *x, const seam_taps *at,
                         int32_t channels) {
    for (int32_t c = 0; c < channels && at->rows > 0 && at->cols > 0; c++) {
        ptrdiff_t best = at->x + c;
        for (int32_t i = 0; i < at->rows; i++)
            for (int32_t j = 0; j < at->cols; j++) {
                ptrdiff_t tap = at->x + i * at->x_row + j * at->x_col + c;
                best = ((x[tap] > x[best]) | (x[tap] != x[tap])) ? tap : best;
            }
        dx[best] += dy[c];
    }
}

static void average_forward(float *y, const float *x, const seam_taps *at, int32_t channels) {
    for (int32_t c = 0; c < channels; c++)
        y[c] = 0.0f;
    for (int32_t i = 0; i < at->rows; i++)
        for (int32_t j = 0; j < at->cols; j++) {
            const float *tap = x + at->x + i * at->x_row + j * at->x_col;
            for (int32_t c = 0; c < channels; c++)
                y[c] += tap[c];
        }
    float count = (float)(at->rows * at->cols);
    for (int32_t c = 0; c < channels && count > 0.0f; c++)
        y[c] /= count;
}

static void average_backward(float *dx, const float *dy, const seam_taps *at, int32_t channels) {
    float count = (float)(at->rows * at->cols);
    for (int32_t i = 0; i < at->rows; i++)
        for (int32_t j = 0; j < at->cols; j++) {
            float *tap = dx + at->x + i * at->x_row + j * at->x_col;
            for (int32_t c = 0; c < channels; c++)
                tap[c] += dy[c] / count;
        }
}

void seam_f32_max_pool2d(float *y, const float *x, const seam_window *p) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, y += p->in_c) {
                seam_taps at = seam_taps_at(p, n, oh, ow);
                max_forward(y, x, &at, p->in_c);
            }
}

void seam_f32_max_pool2d_backward(float *dx, const float *dy, const float *x,
                                  const seam_window *p) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, dy += p->in_c) {
                seam_taps at = seam_taps_at(p, n, oh, ow);
                max_backward(dx, dy, x, &at, p->in_c);
            }
}

void seam_f32_average_pool2d(float *y, const float *x, const seam_window *p) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, y += p->in_c) {
                seam_taps at = seam_taps_at(p, n, oh, ow);
                average_forward(y, x, &at, p->in_c);
            }
}

void seam_f32_average_pool2d_backward(float *dx, const float *dy, const seam_window *p) {
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++, dy += p->in_c) {
                seam_taps at = seam_taps_at(p, n, oh, ow);
                average_backward(dx, dy, &at, p->in_c);
            }
}
