/* Depthwise convolution, forward and backward; vectors go along channels. */
#include "walk.h"

/* A start of zeros for any block of lanes. */
static const float no_bias[SEAM_LANES_MAX] = {0};

size_t seam_f32_depthwise_scratch(const seam_window *p) {
    (void)p; /* weights are used as they lie */
    return 0;
}

/* Small windows of one input channel each have a micro-kernel that takes all channels at once. */
static int is_plain(const seam_window *p) {
    return p->out_c == p->in_c && p->kernel_h <= SEAM_DEPTHWISE_TAPS &&
           p->kernel_w <= SEAM_DEPTHWISE_TAPS;
}

/* One block of lanes: results [first, first + job->channels) of all pixels. */
static void block_run(float *y, const float *a, const seam_window *p, int backward,
                      const seam_job *block) {
    const seam_kernels *kernels = seam_kernels_now();
    int32_t a_c = backward ? p->out_c : p->in_c, y_c = backward ? p->in_c : p->out_c;
    int32_t a_h = backward ? p->out_h : p->in_h, y_h = backward ? p->in_h : p->out_h;
    ptrdiff_t a_line = (ptrdiff_t)a_c * (backward ? p->out_w : p->in_w);
    ptrdiff_t y_line = (ptrdiff_t)y_c * (backward ? p->in_w : p->out_w);
    seam_spans rows = {.axis = seam_axis_h(p), .backward = backward};
    for (seam_span h; seam_spans_next(&h, &rows);) {
        seam_spans cols = {.axis = seam_axis_w(p), .backward = backward};
        for (seam_span w; seam_spans_next(&w, &cols);) {
            seam_job job = *block;
            ptrdiff_t w_line = (ptrdiff_t)p->kernel_w * p->out_c;
            job.rows = h.taps;
            job.cols = w.taps;
            job.a_row = h.source_tap * a_line;
            job.a_col = (ptrdiff_t)w.source_tap * a_c;
            job.w += h.tap * w_line + (ptrdiff_t)w.tap * p->out_c;
            job.w_row = h.tap_step * w_line;
            job.w_col = (ptrdiff_t)w.tap_step * p->out_c;
            seam_box box = {
                .count = {p->batch, h.length, w.length},
                .a = {a_line * a_h, h.source_step * a_line, (ptrdiff_t)w.source_step * a_c},
                .b = {y_line * y_h, h.step * y_line, (ptrdiff_t)w.step * y_c}};
            float *to = y + h.first * y_line + (ptrdiff_t)w.first * y_c;
            const float *from = a + h.source * a_line + (ptrdiff_t)w.source * a_c;
            if (is_plain(p))
                kernels->depthwise_box(to, from, &job, &box);
            else
                seam_tiles(kernels->depthwise, kernels->depthwise_pixels, to, from, &box, &job);
        }
    }
}

void seam_f32_depthwise(float *y, const float *x, const float *w, const float *b,
                        const seam_window *p, void *scratch) {
    (void)scratch;
    int32_t multiplier = p->out_c / p->in_c, lanes = seam_kernels_now()->lanes;
    /* A block never crosses an odd share of an input channel: lane l reads channel l / multiplier.
     */
    int32_t width = multiplier == 1      ? lanes
                    : multiplier < lanes ? lanes / multiplier * multiplier
                                         : lanes;
    int whole = is_plain(p) && b != NULL;
    if (whole)
        width = p->out_c;
    for (int32_t c = 0; c < p->out_c;) {
        int32_t end = p->out_c;
        if (multiplier >= lanes && !whole) /* all lanes read one input channel */
            end = (c / multiplier + 1) * multiplier;
        int32_t n = end - c < width ? end - c : width;
        seam_job job = {.w = w + c,
                        .start = b != NULL ? b + c : no_bias,
                        .channels = n,
                        .run = 1,
                        .a_step = 1,
                        .a_share = multiplier,
                        .w_step = 1};
        block_run(y + c, x + c / multiplier, p, 0, &job);
        c += n;
    }
}

/* dw of one tap: sums over the pixels whose tap is inside. */
static void tap_gradient(float *dw, const float *dy, const float *x, const seam_window *p,
                         int32_t kh, int32_t kw) {
    seam_axis h = seam_axis_h(p), w = seam_axis_w(p);
    int32_t h_first, h_end, w_first, w_end;
    seam_axis_outputs(&h_first, &h_end, &h, kh);
    seam_axis_outputs(&w_first, &w_end, &w, kw);
    if (h_first >= h_end || w_first >= w_end)
        return;
    ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c, y_line = (ptrdiff_t)p->out_w * p->out_c;
    seam_box box = {
        .count = {p->batch, h_end - h_first, w_end - w_first},
        .a = {y_line * p->out_h, y_line, p->out_c},
        .b = {x_line * p->in_h, p->stride_h * x_line, (ptrdiff_t)p->stride_w * p->in_c}};
    ptrdiff_t row = (ptrdiff_t)h_first * p->stride_h - p->pad_top + kh * p->dilation_h;
    ptrdiff_t col = (ptrdiff_t)w_first * p->stride_w - p->pad_left + kw * p->dilation_w;
    seam_kernels_now()->depthwise_outer(dw, x + row * x_line + col * p->in_c,
                                        dy + h_first * y_line + (ptrdiff_t)w_first * p->out_c,
                                        p->out_c, p->out_c / p->in_c, &box);
}

/* dw of multiplier 1, up to three kernel rows at once: each tap still sees its pixels in order. */
static void plain_gradient(float *dw, const float *dy, const float *x, const seam_window *p,
                           int32_t n, const seam_span *h, int32_t kw) {
    seam_axis w = seam_axis_w(p);
    int32_t w_first, w_end;
    seam_axis_outputs(&w_first, &w_end, &w, kw);
    if (w_first >= w_end)
        return;
    ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c, y_line = (ptrdiff_t)p->out_w * p->out_c;
    ptrdiff_t col = (ptrdiff_t)w_first * p->stride_w - p->pad_left + kw * p->dilation_w;
    seam_box box = {.count = {1, h->length, w_end - w_first},
                    .a = {0, y_line, p->out_c},
                    .b = {0, p->stride_h * x_line, (ptrdiff_t)p->stride_w * p->in_c}};
    seam_tap_sums taps = {.channels = p->out_c,
                          .dw_tap = (ptrdiff_t)p->kernel_w * p->out_c,
                          .x_tap = p->dilation_h * x_line};
    const float *g = dy + (n * p->out_h + h->first) * y_line + (ptrdiff_t)w_first * p->out_c;
    const float *from = x + (n * p->in_h + h->source) * x_line + col * p->in_c;
    for (int32_t t = 0; t < h->taps; t += taps.taps) {
        taps.taps = h->taps - t < SEAM_DEPTHWISE_TAPS ? h->taps - t : SEAM_DEPTHWISE_TAPS;
        seam_kernels_now()->depthwise_taps(dw + (h->tap + t) * taps.dw_tap + kw * p->out_c,
                                           from + t * taps.x_tap, g, &taps, &box);
    }
}

static void weight_gradient(float *dw, const float *dy, const float *x, const seam_window *p) {
    if (p->out_c != p->in_c) {
        for (int32_t kh = 0; kh < p->kernel_h; kh++)
            for (int32_t kw = 0; kw < p->kernel_w; kw++)
                tap_gradient(dw + ((ptrdiff_t)kh * p->kernel_w + kw) * p->out_c, dy, x, p, kh, kw);
        return;
    }
    for (int32_t n = 0; n < p->batch; n++) {
        seam_spans rows = {.axis = seam_axis_h(p)};
        for (seam_span h; seam_spans_next(&h, &rows);)
            for (int32_t kw = 0; kw < p->kernel_w; kw++)
                plain_gradient(dw, dy, x, p, n, &h, kw);
    }
}

void seam_f32_depthwise_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                                 const float *w, const seam_window *p, void *scratch) {
    (void)scratch;
    size_t pixels = (size_t)p->batch * (size_t)p->out_h * (size_t)p->out_w;
    int32_t multiplier = p->out_c / p->in_c, lanes = seam_kernels_now()->lanes;
    int32_t width = is_plain(p) ? p->in_c : lanes;
    weight_gradient(dw, dy, x, p);
    if (db != NULL)
        seam_kernels_now()->column_sum(db, dy, pixels, p->out_c);
    for (int32_t c = 0; dx != NULL && c < p->in_c; c += width) {
        seam_job job = {.w = w + (ptrdiff_t)c * multiplier,
                        .channels = p->in_c - c < width ? p->in_c - c : width,
                        .run = multiplier,
                        .a_step = multiplier,
                        .a_share = 1,
                        .w_step = multiplier};
        block_run(dx + c, dy + (ptrdiff_t)c * multiplier, p, 1, &job);
    }
}
