/* Which results of a window share their taps, and how tiles of such results are fed to a
 * micro-kernel. */
#include "walk.h"

seam_axis seam_axis_h(const seam_window *p) {
    return (seam_axis){p->in_h, p->out_h, p->kernel_h, p->stride_h, p->dilation_h, p->pad_top};
}

seam_axis seam_axis_w(const seam_window *p) {
    return (seam_axis){p->in_w, p->out_w, p->kernel_w, p->stride_w, p->dilation_w, p->pad_left};
}

/* Smallest k >= 0 with k * step >= value. */
static int32_t divide_up(int32_t value, int32_t step) {
    return value <= 0 ? 0 : (value + step - 1) / step;
}

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t common_divisor(int32_t a, int32_t b) {
    while (b != 0) {
        int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void seam_axis_outputs(int32_t *first, int32_t *end, const seam_axis *axis, int32_t tap) {
    int32_t shift = axis->pad - tap * axis->dilation;
    *first = smaller(divide_up(shift, axis->stride), axis->out);
    *end = smaller(divide_up(axis->in + shift, axis->stride), axis->out);
}

void seam_axis_taps(int32_t *first, int32_t *end, const seam_axis *axis, int32_t o) {
    int32_t start = o * axis->stride - axis->pad;
    *end = smaller(divide_up(axis->in - start, axis->dilation), axis->kernel);
    *first = smaller(divide_up(-start, axis->dilation), *end);
}

seam_taps seam_taps_at(const seam_window *p, int32_t n, int32_t oh, int32_t ow) {
    seam_axis h = seam_axis_h(p), w = seam_axis_w(p);
    int32_t h_first, h_end, w_first, w_end;
    seam_axis_taps(&h_first, &h_end, &h, oh);
    seam_axis_taps(&w_first, &w_end, &w, ow);
    ptrdiff_t row = (ptrdiff_t)oh * p->stride_h - p->pad_top + h_first * p->dilation_h;
    ptrdiff_t col = (ptrdiff_t)ow * p->stride_w - p->pad_left + w_first * p->dilation_w;
    ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    return (seam_taps){.rows = h_end - h_first,
                       .cols = w_end - w_first,
                       .x = ((ptrdiff_t)n * p->in_h + row) * line + col * p->in_c,
                       .x_row = p->dilation_h * line,
                       .x_col = (ptrdiff_t)p->dilation_w * p->in_c};
}

/* The outputs from `at` on that use the same taps. */
static seam_span span_forward(const seam_axis *axis, int32_t at) {
    int32_t first, end;
    seam_axis_taps(&first, &end, axis, at);
    seam_span span = {.first = at,
                      .step = 1,
                      .length = 1,
                      .tap = first,
                      .tap_step = 1,
                      .taps = end - first,
                      .source = at * axis->stride - axis->pad + first * axis->dilation,
                      .source_tap = axis->dilation,
                      .source_step = axis->stride};
    if (span.taps == 0) {
        span.source = 0; /* never read, but always a place inside */
        return span;
    }
    /* Until the last tap leaves the input, or one more tap enters it. */
    int32_t last = span.source + (span.taps - 1) * axis->dilation;
    span.length = (axis->in - 1 - last) / axis->stride + 1;
    if (first > 0)
        span.length = smaller(span.length, divide_up(axis->dilation - span.source, axis->stride));
    span.length = smaller(span.length, axis->out - at);
    return span;
}

/* The inputs at, at + stride, ... that the same taps read: output o reads input `at` through tap k
 * where at + pad = o * stride + k * dilation. */
static seam_span span_backward(const seam_axis *axis, int32_t at) {
    int32_t divisor = common_divisor(axis->stride, axis->dilation);
    seam_span span = {.first = at,
                      .step = axis->stride,
                      .length = 1,
                      .tap_step = axis->stride / divisor,
                      .source_tap = -(axis->dilation / divisor),
                      .source_step = 1};
    int32_t target = at + axis->pad;
    /* o < out bounds the tap from below, o >= 0 from above. */
    int32_t tap = divide_up(target - (axis->out - 1) * axis->stride, axis->dilation);
    int32_t searched = 0;
    while (searched < span.tap_step && (target - tap * axis->dilation) % axis->stride != 0) {
        tap++;
        searched++;
    }
    if (searched == span.tap_step || target - tap * axis->dilation < 0 || tap >= axis->kernel)
        return span;
    int32_t room = (axis->kernel - 1 - tap) / span.tap_step;
    span.tap = tap;
    span.source = (target - tap * axis->dilation) / axis->stride;
    span.taps = 1 + smaller(room, span.source / -span.source_tap);
    /* Until the first tap's output is past the end, or one more tap reads output 0. */
    span.length = smaller(axis->out - span.source, (axis->in - 1 - at) / axis->stride + 1);
    if (span.taps <= room)
        span.length = smaller(span.length, -(span.source + span.taps * span.source_tap));
    return span;
}

int seam_spans_next(seam_span *span, seam_spans *spans) {
    const seam_axis *axis = &spans->axis;
    int32_t results = spans->backward ? axis->in : axis->out;
    if (spans->next >= results) {
        spans->phase++;
        spans->next = spans->phase;
        if (!spans->backward || spans->phase >= axis->stride || spans->next >= results)
            return 0;
    }
    *span = spans->backward ? span_backward(axis, spans->next) : span_forward(axis, spans->next);
    spans->next += span->length * span->step;
    return 1;
}

void seam_tiles(seam_tile *tile, int32_t pixels, float *y, const float *a, const seam_box *box,
                const seam_job *job) {
    float *ys[SEAM_TILE_MAX] = {0};
    const float *as[SEAM_TILE_MAX] = {0};
    int32_t filled = 0;
    for (int32_t n = 0; n < box->count[0]; n++)
        for (int32_t i = 0; i < box->count[1]; i++) {
            const float *an = a + n * box->a[0] + i * box->a[1];
            float *yn = y + n * box->b[0] + i * box->b[1];
            for (int32_t j = 0; j < box->count[2]; j++) {
                as[filled] = an + j * box->a[2];
                ys[filled] = yn + j * box->b[2];
                if (++filled == pixels) {
                    tile(ys, as, filled, job);
                    filled = 0;
                }
            }
        }
    if (filled > 0)
        tile(ys, as, filled, job);
}
