/* 2-D convolution, forward and backward, as walks over tiles of pixels with packed weights. */
#include "walk.h"

static const int32_t value_limit = 1
                                   << 28; /* floats in one array, so that byte counts fit 32 bits */

static int fits(int32_t a, int32_t b, int32_t c, int32_t d) {
    int64_t product = (int64_t)a * b; /* each is at most 65535 */
    if (product > value_limit)
        return 0;
    product *= c;
    return product <= value_limit && product * d <= value_limit;
}

static int axis_fits(const seam_axis *axis, int32_t pad_end) {
    int32_t limit = SEAM_DIM_MAX;
    if (axis->in < 1 || axis->out < 1 || axis->kernel < 1 || axis->stride < 1 ||
        axis->dilation < 1 || axis->pad < 0 || pad_end < 0)
        return 0;
    if (axis->in > limit || axis->out > limit || axis->kernel > limit || axis->stride > limit ||
        axis->dilation > limit || axis->pad > limit || pad_end > limit)
        return 0;
    int64_t room = (int64_t)axis->in + axis->pad + pad_end -
                   ((int64_t)(axis->kernel - 1) * axis->dilation + 1);
    return room >= 0 && axis->out == room / axis->stride + 1;
}

int seam_window_check(const seam_window *p) {
    seam_axis h = seam_axis_h(p), w = seam_axis_w(p);
    if (p->batch < 1 || p->in_c < 1 || p->out_c < 1)
        return SEAM_E_SHAPE;
    if (p->batch > (int32_t)SEAM_BATCH_MAX || p->in_c > SEAM_DIM_MAX || p->out_c > SEAM_DIM_MAX)
        return SEAM_E_LIMIT;
    if (!axis_fits(&h, p->pad_bottom) || !axis_fits(&w, p->pad_right))
        return SEAM_E_SHAPE;
    if (!fits(p->batch, p->in_h, p->in_w, p->in_c) ||
        !fits(p->batch, p->out_h, p->out_w, p->out_c) ||
        !fits(p->kernel_h, p->kernel_w, p->in_c, p->out_c))
        return SEAM_E_LIMIT;
    return SEAM_OK;
}

/* The weights as one side sees them: `channels` results, each of `outer` x `inner` terms. */
typedef struct {
    const float *w;
    const float *bias;
    int32_t channels, outer, inner;
    ptrdiff_t channel_step, outer_step, inner_step;
    int backward;
} matrix;

#define BLOCK_VECTORS 3 /* most vectors in a block of channels */

/* Floats one block takes when it is packed: its start values, then its weights. */
static size_t packed_size(const matrix *m) {
    size_t most = BLOCK_VECTORS * SEAM_LANES_MAX;
    size_t width = ((size_t)m->channels + SEAM_LANES_MAX - 1) / SEAM_LANES_MAX * SEAM_LANES_MAX;
    if (m->backward && width == (size_t)m->channels)
        return 0; /* whole blocks lie as they are wanted */
    return (width < most ? width : most) * ((size_t)m->outer * (size_t)m->inner + 1);
}

/* Forward: an output channel sums over taps and input channels. */
static matrix matrix_forward(const seam_window *p, const float *w, const float *bias) {
    int32_t taps = p->kernel_h * p->kernel_w;
    return (matrix){.w = w,
                    .bias = bias,
                    .channels = p->out_c,
                    .outer = taps,
                    .inner = p->in_c,
                    .channel_step = (ptrdiff_t)taps * p->in_c,
                    .outer_step = p->in_c,
                    .inner_step = 1};
}

/* Backward: an input channel sums over taps and output channels. */
static matrix matrix_backward(const seam_window *p, const float *w) {
    int32_t taps = p->kernel_h * p->kernel_w;
    return (matrix){.w = w,
                    .channels = p->in_c,
                    .outer = taps,
                    .inner = p->out_c,
                    .channel_step = 1,
                    .outer_step = p->in_c,
                    .inner_step = (ptrdiff_t)taps * p->in_c,
                    .backward = 1};
}

size_t seam_f32_conv2d_first_scratch(const seam_window *p) {
    matrix forward = matrix_forward(p, NULL, NULL);
    return packed_size(&forward) * sizeof(float);
}

size_t seam_f32_conv2d_scratch(const seam_window *p) {
    matrix backward = matrix_backward(p, NULL);
    size_t a = seam_f32_conv2d_first_scratch(p), b = packed_size(&backward) * sizeof(float);
    return a > b ? a : b;
}

/* Channels [first, first + width) as start values, then [term][width]; zero after the last channel.
 */
static void matrix_pack(float *packed, const matrix *m, int32_t first, int32_t width) {
    int32_t used = m->channels - first < width ? m->channels - first : width;
    const float *w = m->w + first * m->channel_step;
    for (int32_t l = 0; l < width; l++)
        packed[l] = m->bias != NULL && l < used ? m->bias[first + l] : 0.0f;
    float *row = packed + width;
    if (m->channel_step == 1) {
        for (int32_t o = 0; o < m->outer; o++)
            for (int32_t i = 0; i < m->inner; i++, row += width) {
                const float *from = w + o * m->outer_step + i * m->inner_step;
                for (int32_t l = 0; l < width; l++)
                    row[l] = l < used ? from[l] : 0.0f;
            }
        return;
    }
    /* Forward: terms lie one after another. A stretch of them at a time stays in the cache. */
    const seam_kernels *kernels = seam_kernels_now();
    int32_t terms = m->outer * m->inner, stretch = 64, lanes = kernels->lanes;
    for (int32_t k = 0; k < terms; k += stretch)
        for (int32_t l = 0; l < width; l += lanes)
            kernels->pack(row + (ptrdiff_t)k * width + l, w + l * m->channel_step + k, width,
                          m->channel_step, used - l, terms - k < stretch ? terms - k : stretch);
}

/* All pixels of one block of channels. job: w, steps of w per tap and term, start, channels. */
static void block_run(float *y, const float *a, const matrix *m, const seam_window *p,
                      const seam_job *block, int32_t pixels) {
    const seam_kernels *kernels = seam_kernels_now();
    int32_t a_h = m->backward ? p->out_h : p->in_h, a_w = m->backward ? p->out_w : p->in_w;
    int32_t y_h = m->backward ? p->in_h : p->out_h, y_w = m->backward ? p->in_w : p->out_w;
    ptrdiff_t a_pixel = m->inner, a_line = a_pixel * a_w;
    ptrdiff_t y_pixel = m->channels, y_line = y_pixel * y_w;
    seam_spans rows = {.axis = seam_axis_h(p), .backward = m->backward};
    for (seam_span h; seam_spans_next(&h, &rows);) {
        seam_spans cols = {.axis = seam_axis_w(p), .backward = m->backward};
        for (seam_span w; seam_spans_next(&w, &cols);) {
            if (m->backward && (h.taps == 0 || w.taps == 0))
                continue; /* inputs that no output reads */
            seam_job job = *block;
            job.rows = h.taps;
            job.cols = w.taps;
            job.run = m->inner;
            job.a_row = h.source_tap * a_line;
            job.a_col = w.source_tap * a_pixel;
            job.w += (ptrdiff_t)h.tap * block->w_row + (ptrdiff_t)w.tap * block->w_col;
            job.w_row = h.tap_step * block->w_row;
            job.w_col = w.tap_step * block->w_col;
            if (w.taps == 0)
                job.rows = 0;
            if (!m->backward && p->dilation_w == 1) { /* neighbouring taps are one run */
                job.run = w.taps * m->inner;
                job.cols = 1;
            }
            seam_box box = {.count = {p->batch, h.length, w.length},
                            .a = {a_line * a_h, h.source_step * a_line, w.source_step * a_pixel},
                            .b = {y_line * y_h, h.step * y_line, w.step * y_pixel}};
            seam_tiles(kernels->tile, pixels, y + h.first * y_line + w.first * y_pixel,
                       a + h.source * a_line + w.source * a_pixel, &box, &job);
        }
    }
}

/* Blocks of one to three vectors, as even as they go: 4 is 2 + 2. */
static int32_t block_vectors(int32_t left) {
    return left == 4 ? 2 : left < BLOCK_VECTORS ? left : BLOCK_VECTORS;
}

static void contract(float *y, const float *a, const matrix *m, const seam_window *p,
                     float *scratch) {
    const seam_kernels *kernels = seam_kernels_now();
    int32_t lanes = kernels->lanes;
    for (int32_t first = 0; first < m->channels;) {
        int32_t left = m->channels - first;
        int32_t vectors = block_vectors((left + lanes - 1) / lanes);
        int32_t width = vectors * lanes;
        seam_job job = {.channels = left < width ? left : width};
        if (m->backward && left >= width) { /* lies as the micro-kernel wants it */
            job.w = m->w + first;
            job.w_term = m->inner_step;
            job.w_col = m->outer_step;
        } else {
            matrix_pack(scratch, m, first, width);
            job.w = scratch + width;
            job.w_term = width;
            job.w_col = (ptrdiff_t)m->inner * width;
        }
        job.w_row = p->kernel_w * job.w_col;
        job.start = m->backward ? NULL : scratch;
        block_run(y + first, a, m, p, &job, kernels->pixels[vectors - 1]);
        first += width;
    }
}

void seam_f32_conv2d(float *y, const float *x, const float *w, const float *b, const seam_window *p,
                     void *scratch) {
    matrix m = matrix_forward(p, w, b);
    contract(y, x, &m, p, scratch);
}

/* dw of one tap: out_c x in_c sums over the pixels whose tap is inside. Vectors go along whichever
 * channel wastes fewer lanes. */
static void tap_gradient(float *dw, const float *dy, const float *x, const seam_window *p,
                         const seam_box *box) {
    const seam_kernels *kernels = seam_kernels_now();
    int32_t lanes = kernels->lanes;
    int32_t along_in = (p->in_c + lanes - 1) / lanes * p->out_c;
    int32_t along_out = (p->out_c + lanes - 1) / lanes * p->in_c;
    int swap = along_out < along_in;
    ptrdiff_t row = (ptrdiff_t)p->kernel_h * p->kernel_w * p->in_c;
    const float *scalar = swap ? x : dy, *vector = swap ? dy : x;
    int32_t scalars = swap ? p->in_c : p->out_c, channels = swap ? p->out_c : p->in_c;
    seam_box pixels = *box;
    if (swap)
        for (int d = 0; d < 3; d++) {
            pixels.a[d] = box->b[d];
            pixels.b[d] = box->a[d];
        }
    seam_outer shape = {.c_p = swap ? 1 : row, .c_l = swap ? row : 1};
    for (int32_t l = 0; l < channels; l += shape.channels) {
        int32_t vectors = block_vectors((channels - l + lanes - 1) / lanes);
        shape.channels = channels - l < vectors * lanes ? channels - l : vectors * lanes;
        for (int32_t s = 0; s < scalars; s += shape.scalars) {
            int32_t most = kernels->scalars[vectors - 1];
            shape.scalars = scalars - s < most ? scalars - s : most;
            kernels->outer(dw + s * shape.c_p + l * shape.c_l, scalar + s, vector + l, &shape,
                           &pixels);
        }
    }
}

/* Few input channels make few sums for a tap; then neighbouring taps of a kernel row, whose inputs
 * lie side by side, are summed together. That pays where rows are long: at their ends taps drop
 * out.
 */
static int is_narrow(const seam_window *p) {
    return p->in_c < 8 && p->kernel_w > 1 && p->dilation_w == 1 && p->out_w / 4 >= p->kernel_w;
}

/* One block of output channels, for one row of outputs and one kernel row: rows[kw * in_c + ic]
 * has `width` sums side by side. */
static void narrow_row(float *rows, const float *dy, const float *x, const seam_window *p,
                       seam_outer shape, int32_t most) {
    seam_spans cols = {.axis = seam_axis_w(p)};
    for (seam_span w; seam_spans_next(&w, &cols);) {
        seam_box box = {.count = {1, 1, w.length},
                        .a = {0, 0, (ptrdiff_t)p->stride_w * p->in_c},
                        .b = {0, 0, p->out_c}};
        const float *from = x + (ptrdiff_t)w.source * p->in_c;
        float *to = rows + (ptrdiff_t)w.tap * p->in_c * shape.c_p;
        int32_t scalars = w.taps * p->in_c;
        for (int32_t s = 0; s < scalars; s += shape.scalars) {
            shape.scalars = scalars - s < most ? scalars - s : most;
            seam_kernels_now()->outer(to + s * shape.c_p, from + s,
                                      dy + (ptrdiff_t)w.first * p->out_c, &shape, &box);
        }
    }
}

/* dw by blocks of output channels, as sums that lie side by side in the scratch memory. */
static void narrow_gradient(float *dw, const float *dy, const float *x, const seam_window *p,
                            float *scratch) {
    const seam_kernels *kernels = seam_kernels_now();
    matrix m = matrix_forward(p, dw, NULL);
    seam_axis h = seam_axis_h(p);
    ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c, y_line = (ptrdiff_t)p->out_w * p->out_c;
    int32_t row_terms = p->kernel_w * p->in_c, terms = p->kernel_h * row_terms;
    for (int32_t first = 0, width; first < p->out_c; first += width) {
        int32_t left = p->out_c - first;
        int32_t vectors = block_vectors((left + kernels->lanes - 1) / kernels->lanes);
        width = vectors * kernels->lanes;
        matrix_pack(scratch, &m, first, width);
        float *sums = scratch + width;
        seam_outer shape = {.c_p = width, .c_l = 1, .channels = left < width ? left : width};
        for (int32_t kh = 0; kh < p->kernel_h; kh++) {
            int32_t h_first, h_end;
            seam_axis_outputs(&h_first, &h_end, &h, kh);
            for (int32_t n = 0; n < p->batch; n++)
                for (int32_t oh = h_first; oh < h_end; oh++) {
                    int32_t ih = oh * p->stride_h - p->pad_top + kh * p->dilation_h;
                    narrow_row(sums + (ptrdiff_t)kh * row_terms * width,
                               dy + ((ptrdiff_t)n * p->out_h + oh) * y_line + first,
                               x + ((ptrdiff_t)n * p->in_h + ih) * x_line, p, shape,
                               kernels->scalars[vectors - 1]);
                }
        }
        for (int32_t l = 0; l < shape.channels; l++)
            for (int32_t k = 0; k < terms; k++)
                dw[(ptrdiff_t)(first + l) * terms + k] = sums[(ptrdiff_t)k * width + l];
    }
}

static void weight_gradient(float *dw, const float *dy, const float *x, const seam_window *p) {
    seam_axis h = seam_axis_h(p), w = seam_axis_w(p);
    ptrdiff_t x_line = (ptrdiff_t)p->in_w * p->in_c, y_line = (ptrdiff_t)p->out_w * p->out_c;
    for (int32_t kh = 0; kh < p->kernel_h; kh++) {
        int32_t h_first, h_end;
        seam_axis_outputs(&h_first, &h_end, &h, kh);
        for (int32_t kw = 0; kw < p->kernel_w; kw++) {
            int32_t w_first, w_end;
            seam_axis_outputs(&w_first, &w_end, &w, kw);
            if (h_first >= h_end || w_first >= w_end)
                continue;
            seam_box box = {
                .count = {p->batch, h_end - h_first, w_end - w_first},
                .a = {y_line * p->out_h, y_line, p->out_c},
                .b = {x_line * p->in_h, p->stride_h * x_line, (ptrdiff_t)p->stride_w * p->in_c}};
            ptrdiff_t row = (ptrdiff_t)h_first * p->stride_h - p->pad_top + kh * p->dilation_h;
            ptrdiff_t col = (ptrdiff_t)w_first * p->stride_w - p->pad_left + kw * p->dilation_w;
            tap_gradient(dw + ((ptrdiff_t)kh * p->kernel_w + kw) * p->in_c,
                         dy + h_first * y_line + (ptrdiff_t)w_first * p->out_c,
                         x + row * x_line + col * p->in_c, p, &box);
        }
    }
}

void seam_f32_conv2d_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                              const float *w, const seam_window *p, void *scratch) {
    size_t pixels = (size_t)p->batch * (size_t)p->out_h * (size_t)p->out_w;
    if (is_narrow(p))
        narrow_gradient(dw, dy, x, p, scratch);
    else
        weight_gradient(dw, dy, x, p);
    if (db != NULL)
        seam_kernels_now()->column_sum(db, dy, pixels, p->out_c);
    if (dx != NULL) {
        matrix m = matrix_backward(p, w);
        contract(dx, dy, &m, p, scratch);
    }
}
