/* The sums of int8 training for depthwise layers, and those of pools: tap by tap. */
#include "arch/arch.h"
#include "walk.h"

#include <string.h>

/* The row of outputs that reads input row `ih` through kernel row `kh`, or -1. */
static int32_t output_row(const seam_window *p, int32_t ih, int32_t kh) {
    const int32_t at = ih + p->pad_top - kh * p->dilation_h;
    return at >= 0 && at % p->stride_h == 0 && at / p->stride_h < p->out_h ? at / p->stride_h : -1;
}

/* Outputs of a row that read an input through kernel column `kw`, and the first of these inputs. */
typedef struct {
    int32_t first, count, input;
} column;

static column column_of(const seam_window *p, int32_t kw) {
    const seam_axis w = seam_axis_w(p);
    int32_t first, end;
    seam_axis_outputs(&first, &end, &w, kw);
    return (column){first, end - first, first * p->stride_w - p->pad_left + kw * p->dilation_w};
}

/* ---- depthwise ---- */

static void inputs_of_tap(int32_t *sums, const int8_t *dy, const int8_t *w, const seam_window *p,
                          const column *at) {
    const int32_t each = p->out_c / p->in_c;
    const seam_q8_tap_line line = {.y_step = p->out_c,
                                   .x_step = (ptrdiff_t)p->stride_w * p->in_c,
                                   .pixels = at->count,
                                   .channels = p->in_c};
    if (each == 1) {
        seam_kernels_now()->train->tap_inputs(sums, dy, w, &line);
        return;
    }
    for (int32_t i = 0; i < at->count; i++, sums += line.x_step, dy += p->out_c)
        for (int32_t c = 0; c < p->out_c; c++)
            sums[c / each] += dy[c] * w[c];
}

void seam_q8_depthwise_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                                  const seam_window *p, int32_t first, int32_t rows) {
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    memset(sums, 0, (size_t)rows * (size_t)line * sizeof *sums);
    for (int32_t r = 0; r < rows; r++, sums += line)
        for (int32_t kh = 0; kh < p->kernel_h; kh++) {
            const int32_t n = (first + r) / p->in_h, oh = output_row(p, (first + r) % p->in_h, kh);
            const int8_t *from = dy + ((ptrdiff_t)n * p->out_h + oh) * p->out_w * p->out_c;
            for (int32_t kw = 0; oh >= 0 && kw < p->kernel_w; kw++) {
                const column at = column_of(p, kw);
                if (at.count > 0)
                    inputs_of_tap(sums + (ptrdiff_t)at.input * p->in_c,
                                  from + (ptrdiff_t)at.first * p->out_c,
                                  w + (ptrdiff_t)(kh * p->kernel_w + kw) * p->out_c, p, &at);
            }
        }
}

static void weights_of_tap(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t x_zero,
                           const seam_window *p, const column *at, int32_t first,
                           int32_t channels) {
    const int32_t each = p->out_c / p->in_c;
    const seam_q8_tap_line line = {.y_step = p->out_c,
                                   .x_step = (ptrdiff_t)p->stride_w * p->in_c,
                                   .pixels = at->count,
                                   .channels = channels,
                                   .x_zero = x_zero};
    if (each == 1) {
        seam_kernels_now()->train->tap_weights(sums, dy + first, x + first, &line);
        return;
    }
    for (int32_t i = 0; i < at->count; i++, x += line.x_step, dy += p->out_c)
        for (int32_t c = 0; c < channels; c++)
            sums[c] += dy[first + c] * (x[(first + c) / each] - x_zero);
}

void seam_q8_depthwise_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t x_zero,
                                   const seam_window *p, int32_t first, int32_t channels) {
    const seam_axis h = seam_axis_h(p);
    memset(sums, 0, (size_t)(p->kernel_h * p->kernel_w) * (size_t)channels * sizeof *sums);
    for (int32_t kh = 0; kh < p->kernel_h; kh++) {
        int32_t h_first, h_end;
        seam_axis_outputs(&h_first, &h_end, &h, kh);
        for (int32_t kw = 0; kw < p->kernel_w; kw++, sums += channels) {
            const column at = column_of(p, kw);
            for (int32_t n = 0; at.count > 0 && n < p->batch; n++)
                for (int32_t oh = h_first; oh < h_end; oh++) {
                    const int32_t ih = oh * p->stride_h - p->pad_top + kh * p->dilation_h;
                    const ptrdiff_t out = ((ptrdiff_t)n * p->out_h + oh) * p->out_w + at.first;
                    const ptrdiff_t in = ((ptrdiff_t)n * p->in_h + ih) * p->in_w + at.input;
                    weights_of_tap(sums, dy + out * p->out_c, x + in * p->in_c, x_zero, p, &at,
                                   first, channels);
                }
        }
    }
}

/* ---- pools ---- */

/* The place in the image of the first of the largest taps of output (oh, ow), channel c. */
static ptrdiff_t largest(const int8_t *x, const seam_taps *taps, int32_t c) {
    ptrdiff_t best = -1;
    for (int32_t i = 0; i < taps->rows; i++)
        for (int32_t j = 0; j < taps->cols; j++) {
            const ptrdiff_t at = taps->x + i * taps->x_row + j * taps->x_col + c;
            if (best < 0 || x[at] > x[best])
                best = at;
        }
    return best;
}

/* Rows of inputs in one image, and the outputs that may read them. */
typedef struct {
    int32_t n, first, end; /* rows of inputs of the batch: first <= row < end */
} rows_of_image;

static void max_rows(int32_t *sums, const int8_t *dy, const int8_t *x, const seam_window *p,
                     const rows_of_image *rows) {
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c, base = rows->first * line;
    for (int32_t oh = 0; oh < p->out_h; oh++)
        for (int32_t ow = 0; ow < p->out_w; ow++) {
            const seam_taps taps = seam_taps_at(p, rows->n, oh, ow);
            const int8_t *from =
                dy + (((ptrdiff_t)rows->n * p->out_h + oh) * p->out_w + ow) * p->out_c;
            if (taps.rows <= 0 || taps.x + (taps.rows - 1) * taps.x_row + line <= base ||
                taps.x >= rows->end * line)
                continue;
            for (int32_t c = 0; c < p->out_c; c++) {
                const ptrdiff_t best = largest(x, &taps, c);
                if (best >= base && best < rows->end * line)
                    sums[best - base] += from[c];
            }
        }
}

static void average_rows(int32_t *sums, const int8_t *dy, const seam_window *p,
                         const rows_of_image *rows) {
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c, base = rows->first * line;
    for (int32_t oh = 0; oh < p->out_h; oh++)
        for (int32_t ow = 0; ow < p->out_w; ow++) {
            const seam_taps taps = seam_taps_at(p, rows->n, oh, ow);
            const int32_t inside = taps.rows > 0 && taps.cols > 0 ? taps.rows * taps.cols : 1;
            const int32_t share = ((int32_t)SEAM_Q8_RATIO_ONE + inside / 2) / inside;
            const int8_t *from =
                dy + (((ptrdiff_t)rows->n * p->out_h + oh) * p->out_w + ow) * p->out_c;
            for (int32_t i = 0; i < taps.rows; i++)
                for (int32_t j = 0; j < taps.cols; j++) {
                    const ptrdiff_t at = taps.x + i * taps.x_row + j * taps.x_col;
                    for (int32_t c = 0; at >= base && at < rows->end * line && c < p->out_c; c++)
                        sums[at - base + c] += from[c] * share;
                }
        }
}

static void pool_rows(int32_t *sums, const int8_t *dy, const int8_t *x, const seam_window *p,
                      int32_t first, int32_t rows) {
    const size_t line = (size_t)p->in_w * (size_t)p->in_c;
    memset(sums, 0, (size_t)rows * line * sizeof *sums);
    for (int32_t row = first, end; row < first + rows; row = end) {
        const int32_t n = row / p->in_h, image_end = (n + 1) * p->in_h;
        end = first + rows < image_end ? first + rows : image_end;
        const rows_of_image part = {n, row, end};
        int32_t *to = sums + (size_t)(row - first) * line;
        if (x != NULL)
            max_rows(to, dy, x, p, &part);
        else
            average_rows(to, dy, p, &part);
    }
}

void seam_q8_max_pool2d_sums(int32_t *sums, const int8_t *dy, const int8_t *x, const seam_window *p,
                             int32_t first, int32_t rows) {
    pool_rows(sums, dy, x, p, first, rows);
}

void seam_q8_average_pool2d_sums(int32_t *sums, const int8_t *dy, const seam_window *p,
                                 int32_t first, int32_t rows) {
    pool_rows(sums, dy, NULL, p, first, rows);
}

/* Outputs along an axis that read one input. */
static int64_t readers(int32_t out, int32_t kernel, int32_t stride) {
    const int32_t most = (kernel + stride - 1) / stride;
    return most < out ? most : out;
}

int seam_q8_pool_sums_check(const seam_window *p) {
    const int64_t most =
        readers(p->out_h, p->kernel_h, p->stride_h) * readers(p->out_w, p->kernel_w, p->stride_w);
    return most * SEAM_Q8_MOST * SEAM_Q8_RATIO_ONE <= INT32_MAX ? SEAM_OK : SEAM_E_LIMIT;
}
