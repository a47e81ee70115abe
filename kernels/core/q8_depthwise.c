/* int8 depthwise convolution; lines of pixels that use the same taps go to the micro-kernel. */
#include "q8_requant.h"
#include "walk.h"

/* Several output channels read one input channel: rare, and plain. */
static void line_shared(int8_t *y, const int8_t *x, const seam_q8_line *line, int32_t multiplier) {
    const seam_q8_job *job = &line->job;
    for (int32_t p = 0; p < line->pixels; p++, x += line->x_pixel, y += line->y_pixel)
        for (int32_t c = 0; c < job->channels; c++) {
            const int32_t scale = c * job->scale_step;
            int32_t sum = job->bias != NULL ? job->bias[c] : 0;
            for (int32_t i = 0; i < line->rows; i++)
                for (int32_t j = 0; j < line->cols; j++)
                    sum += (x[i * line->x_row + j * line->x_col + c / multiplier] - job->x_zero) *
                           job->w[i * line->w_row + j * line->w_col + c];
            sum = seam_q8_rescale(sum, job->multiplier[scale], job->shift[scale]);
            y[c] = seam_q8_clamp(sum + job->y_zero, job->y_min, job->y_max);
        }
}

#define SPANS_MAX 7

/* One block of channels; x and y: of its first. */
static void block_image(int8_t *y, const int8_t *x, const void *state, const seam_window *p,
                        const seam_span *spans, int32_t count) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c;
    const seam_axis axis = seam_axis_h(p);
    seam_q8_part part = {.x_row = p->dilation_h * x_line,
                         .x_col = (ptrdiff_t)p->dilation_w * p->in_c,
                         .x_pixel = (ptrdiff_t)p->stride_w * p->in_c,
                         .y_pixel = p->out_c};
    for (int32_t n = 0; n < p->batch; n++, x += p->in_h * x_line)
        for (int32_t oh = 0; oh < p->out_h; oh++) {
            int32_t first, end;
            seam_axis_taps(&first, &end, &axis, oh);
            const int32_t row = oh * p->stride_h - p->pad_top + first * p->dilation_h;
            const int8_t *from = end > first ? x + row * x_line : x;
            part.rows = end - first;
            for (int32_t i = 0; i < count; i++, y += (ptrdiff_t)part.pixels * p->out_c) {
                part.pixels = spans[i].length;
                part.cols = spans[i].taps;
                part.tap = first * p->kernel_w + spans[i].tap;
                kernels->block_part(y, from + (ptrdiff_t)spans[i].source * p->in_c, state, &part);
            }
        }
}

/* All channels, block by block: what a block needs of its weights is made once for the image.
 * 0: nothing is done. */
static int blocks(int8_t *y, const int8_t *x, const seam_q8_job *job, const seam_window *p) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const int32_t block = kernels->block;
    uint64_t state[SEAM_Q8_STATE_WORDS / 2];
    seam_spans cols = {.axis = seam_axis_w(p)};
    seam_span spans[SPANS_MAX];
    int32_t count = 0;
    for (seam_span span; seam_spans_next(&span, &cols); spans[count++] = span)
        if (count == SPANS_MAX)
            return 0;
    if (job->channels < block)
        return 0;
    for (int pass = 0; pass < 2; pass++) /* first only: are all of them usual? */
        for (int32_t start = 0; start < job->channels; start += block) {
            const int32_t last = job->channels - block;
            const int32_t c = start < last ? start : last; /* some may be done twice */
            if (!kernels->block_begin(state, job, p, c))
                return 0;
            if (pass == 1)
                block_image(y + c, x + c, state, p, spans, count);
        }
    return 1;
}

void seam_q8_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                       const seam_q8_scaling *how, const seam_window *p) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const int32_t multiplier = p->out_c / p->in_c;
    const ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c, y_line = (ptrdiff_t)p->out_w * p->out_c;
    const ptrdiff_t w_line = (ptrdiff_t)p->kernel_w * p->out_c;
    seam_q8_line line = {.job = {.bias = bias,
                                 .multiplier = how->multiplier,
                                 .shift = how->shift,
                                 .scale_step = how->scales > 1,
                                 .channels = p->out_c,
                                 .terms = p->kernel_h * p->kernel_w,
                                 .x_zero = how->x_zero,
                                 .y_zero = how->y_zero,
                                 .y_min = how->y_min,
                                 .y_max = how->y_max},
                         .x_pixel = (ptrdiff_t)p->stride_w * p->in_c,
                         .x_row = p->dilation_h * x_line,
                         .x_col = (ptrdiff_t)p->dilation_w * p->in_c,
                         .y_pixel = p->out_c,
                         .w_row = w_line,
                         .w_col = p->out_c};
    line.job.w = w;
    if (multiplier == 1 && kernels->depthwise_image != NULL &&
        kernels->depthwise_image(y, x, &line.job, p))
        return;
    if (multiplier == 1 && kernels->block > 0 && blocks(y, x, &line.job, p))
        return;
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++) {
            const seam_axis axis = seam_axis_h(p);
            int32_t first, end;
            seam_axis_taps(&first, &end, &axis, oh);
            const ptrdiff_t row = end > first ? (ptrdiff_t)oh * p->stride_h - p->pad_top +
                                                    (ptrdiff_t)first * p->dilation_h
                                              : 0;
            seam_spans cols = {.axis = seam_axis_w(p)};
            for (seam_span span; seam_spans_next(&span, &cols);) {
                int8_t *to =
                    y + ((ptrdiff_t)n * p->out_h + oh) * y_line + (ptrdiff_t)span.first * p->out_c;
                const int8_t *from =
                    x + ((ptrdiff_t)n * p->in_h + row) * x_line + (ptrdiff_t)span.source * p->in_c;
                line.job.w = w + first * w_line + (ptrdiff_t)span.tap * p->out_c;
                line.pixels = span.length;
                line.rows = end - first;
                line.cols = span.taps;
                if (multiplier == 1)
                    kernels->depthwise(to, from, &line);
                else
                    line_shared(to, from, &line, multiplier);
            }
        }
}
