/* The sums of int8 training for convolutions and dense layers: as products of pairs of terms. */
#include "arch/arch.h"
#include "walk.h"

#include <string.h>

#define CHUNK 8   /* pairs of pixels whose terms lie in the scratch memory at a time */
#define PIXELS 32 /* of a 1x1 layer, at a time */
#define PAIRS 16  /* of output channels, at a time: what is packed of weights and pixels */

typedef struct {
    int32_t in, out, terms; /* channels of one group, products in one of its sums */
} group_sizes;

static group_sizes sizes_of(const seam_window *p, int32_t groups) {
    const int32_t in = p->in_c / groups;
    return (group_sizes){in, p->out_c / groups, p->kernel_h * p->kernel_w * in};
}

static int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* One tap, every pixel where it stands: then rows of pixels need not be told apart. */
static int is_pointwise(const seam_window *p) {
    return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 &&
           p->in_h == p->out_h && p->in_w == p->out_w && p->pad_top == 0 && p->pad_left == 0;
}

static void product(int32_t *c, const int32_t *a, const int32_t *b, const seam_q8_product *shape) {
    if (shape->rows > 0 && shape->cols > 0 && shape->terms > 0)
        seam_kernels_now()->train->product(c, a, b, shape);
}

static void pairs(int32_t *to, const int8_t *a, const int8_t *b, int32_t zero, int32_t count) {
    seam_kernels_now()->train->pairs(to, a, b, zero, count);
}

/* ---- for each input ---- */

static int32_t pairs_of(int32_t terms) {
    return (terms + 1) / 2;
}

size_t seam_q8_conv2d_input_scratch(const seam_window *p, int32_t groups) {
    const group_sizes size = sizes_of(p, groups);
    const size_t pairs = (size_t)lesser(pairs_of(size.out), PAIRS);
    const int32_t all = p->batch * p->out_h * p->out_w;
    const size_t pixels = (size_t)(is_pointwise(p) ? lesser(all, PIXELS) : p->out_w);
    return pairs * ((size_t)size.terms + pixels) * sizeof(int32_t);
}

/* packed[pair of output channels][terms] of some channels of one group. */
static void pack_weights(int32_t *packed, const int8_t *w, int32_t channels, int32_t terms) {
    for (int32_t o = 0; o < channels; o += 2, w += 2 * (ptrdiff_t)terms, packed += terms)
        pairs(packed, w, o + 1 < channels ? w + terms : NULL, 0, terms);
}

/* packed[pixel][pair of channels] of pixels that are `step` apart. */
static void pack_pixels(int32_t *packed, const int8_t *dy, ptrdiff_t step, int32_t pixels,
                        int32_t channels) {
    for (int32_t p = 0; p < pixels; p++, dy += step) {
        int32_t c = 0;
        for (; c + 1 < channels; c += 2)
            *packed++ = seam_pair(dy[c], dy[c + 1]);
        if (c < channels)
            *packed++ = seam_pair(dy[c], 0);
    }
}

/* What some output channels of one group add to the rows. */
typedef struct {
    const seam_window *p;
    group_sizes size; /* out: of these channels */
    const int8_t *dy; /* the first of them */
    const int32_t *weights;
    int32_t *pixels;
} input_work;

static void pointwise_inputs(int32_t *sums, const input_work *work, int32_t first, int32_t count) {
    const seam_window *p = work->p;
    const int32_t pairs = pairs_of(work->size.out);
    for (int32_t done = 0, n; done < count; done += n) {
        n = lesser(count - done, PIXELS);
        pack_pixels(work->pixels, work->dy + (ptrdiff_t)(first + done) * p->out_c, p->out_c, n,
                    work->size.out);
        const seam_q8_product shape = {.c_row = p->in_c,
                                       .a_row = pairs,
                                       .a_term = 1,
                                       .b_term = work->size.terms,
                                       .rows = n,
                                       .cols = work->size.in,
                                       .terms = pairs};
        product(sums + (ptrdiff_t)done * p->in_c, work->pixels, work->weights, &shape);
    }
}

/* One row of inputs, from one row of outputs through one kernel row. */
static void inputs_from_row(int32_t *sums, const input_work *work, int32_t kh) {
    const seam_window *p = work->p;
    const seam_axis w = seam_axis_w(p);
    const int32_t pairs = pairs_of(work->size.out);
    for (int32_t kw = 0; kw < p->kernel_w; kw++) {
        int32_t first, end;
        seam_axis_outputs(&first, &end, &w, kw);
        const int32_t iw = first * p->stride_w - p->pad_left + kw * p->dilation_w;
        const seam_q8_product shape = {.c_row = (ptrdiff_t)p->stride_w * p->in_c,
                                       .a_row = pairs,
                                       .a_term = 1,
                                       .b_term = work->size.terms,
                                       .rows = end - first,
                                       .cols = work->size.in,
                                       .terms = pairs};
        if (end > first)
            product(sums + (ptrdiff_t)iw * p->in_c, work->pixels + (ptrdiff_t)first * pairs,
                    work->weights + (ptrdiff_t)(kh * p->kernel_w + kw) * work->size.in, &shape);
    }
}

static void row_inputs(int32_t *sums, const input_work *work, int32_t row) {
    const seam_window *p = work->p;
    const int32_t n = row / p->in_h, ih = row % p->in_h;
    for (int32_t kh = 0; kh < p->kernel_h; kh++) {
        const int32_t at = ih + p->pad_top - kh * p->dilation_h, oh = at / p->stride_h;
        if (at < 0 || at % p->stride_h != 0 || oh >= p->out_h)
            continue;
        pack_pixels(work->pixels, work->dy + ((ptrdiff_t)n * p->out_h + oh) * p->out_w * p->out_c,
                    p->out_c, p->out_w, work->size.out);
        inputs_from_row(sums, work, kh);
    }
}

void seam_q8_conv2d_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                               const seam_window *p, int32_t groups, int32_t first, int32_t rows,
                               void *scratch) {
    const group_sizes size = sizes_of(p, groups);
    int32_t *weights = scratch;
    int32_t *pixels = weights + (ptrdiff_t)lesser(pairs_of(size.out), PAIRS) * size.terms;
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    memset(sums, 0, (size_t)rows * (size_t)line * sizeof *sums);
    for (int32_t o = 0, n; o < p->out_c; o += n) { /* a group's channels lie in whole blocks */
        const int32_t group = o / size.out;
        n = lesser((group + 1) * size.out - o, 2 * PAIRS);
        const input_work work = {p, {size.in, n, size.terms}, dy + o, weights, pixels};
        pack_weights(weights, w + (ptrdiff_t)o * size.terms, n, size.terms);
        int32_t *to = sums + group * size.in;
        if (is_pointwise(p))
            pointwise_inputs(to, &work, first * p->in_w, rows * p->in_w);
        else
            for (int32_t r = 0; r < rows; r++)
                row_inputs(to + r * line, &work, first + r);
    }
}

/* ---- for each weight ---- */

/* Taps of a kernel row whose inputs lie side by side are one run. */
static int32_t run_taps(const seam_window *p, int32_t groups) {
    return groups == 1 && p->dilation_w == 1 ? p->kernel_w : 1;
}

/* Pairs of pixels at a time. */
static int32_t chunk_of(const seam_window *p) {
    return lesser(pairs_of(p->batch * p->out_h * p->out_w), CHUNK);
}

size_t seam_q8_conv2d_weight_scratch(const seam_window *p, int32_t groups, int32_t channels) {
    const group_sizes size = sizes_of(p, groups);
    return (size_t)chunk_of(p) *
           ((size_t)channels + (size_t)run_taps(p, groups) * (size_t)size.in) * sizeof(int32_t);
}

typedef struct {
    const seam_window *p;
    const int8_t *x; /* first input channel of the group */
    int32_t in, taps, x_zero;
} weight_source;

/* An output pixel, and where its window begins. */
typedef struct {
    int32_t n, oh, ow, ih, iw;
} corner;

static void corner_next(corner *at, const seam_window *p) {
    at->ow++;
    at->iw += p->stride_w;
    if (at->ow < p->out_w)
        return;
    at->ow = 0;
    at->iw = -p->pad_left;
    at->oh++;
    at->ih += p->stride_h;
    if (at->oh < p->out_h)
        return;
    at->oh = 0;
    at->ih = -p->pad_top;
    at->n++;
}

/* What a pixel reads of a run of taps: values begin to end of it lie inside; place: of value 0. */
typedef struct {
    int32_t begin, end;
    ptrdiff_t place;
} reach;

static reach reach_of(const weight_source *from, const corner *at, int32_t kh, int32_t kw) {
    const seam_window *p = from->p;
    const int32_t ih = at->ih + kh * p->dilation_h, iw = at->iw + kw * p->dilation_w;
    if (ih < 0 || ih >= p->in_h)
        return (reach){0, 0, 0};
    return (reach){.begin = (iw < 0 ? -iw : 0) * from->in,
                   .end = lesser(p->in_w - iw, from->taps) * from->in,
                   .place = (((ptrdiff_t)at->n * p->in_h + ih) * p->in_w + iw) * p->in_c};
}

/* Where, behind i and up to `end`, a run of taps begins or ends to lie inside. */
static int32_t next_edge(const reach *at, int32_t i, int32_t end) {
    const int32_t next = i < at->begin ? at->begin : i < at->end ? at->end : end;
    return lesser(next, end);
}

static const int8_t *value_at(const weight_source *from, const reach *at, int32_t i) {
    return i >= at->begin && i < at->end ? from->x + at->place + i : NULL;
}

/* The values x - x_zero of two pixels side by side; what lies outside is 0. */
static void pair_values(int32_t *to, const weight_source *from, const reach *a, const reach *b,
                        int32_t count) {
    for (int32_t i = 0, n; i < count; i += n) {
        const int8_t *first = value_at(from, a, i), *second = value_at(from, b, i);
        n = next_edge(a, i, next_edge(b, i, count)) - i;
        if (first != NULL)
            pairs(to + i, first, second, from->x_zero, n);
        else
            for (int32_t k = 0; k < n; k++)
                to[i + k] = seam_pair(0, second != NULL ? second[k] - from->x_zero : 0);
    }
}

/* packed[pair][channel] of dy for so many pixels, `step` apart. */
static void pack_gradients(int32_t *packed, const int8_t *dy, ptrdiff_t step, int32_t pixels,
                           int32_t channels) {
    for (int32_t p = 0; p < pixels; p += 2, dy += 2 * step, packed += channels)
        pairs(packed, dy, p + 1 < pixels ? dy + step : NULL, 0, channels);
}

/* These pixels, at most 2 * CHUNK, through the run at (kh, kw). */
static void run_sums(int32_t *sums, const int32_t *gradients, int32_t *inputs,
                     const weight_source *from, const corner *pixels, int32_t count, int32_t kh,
                     int32_t kw, const seam_q8_product *shape) {
    for (int32_t i = 0; i < count; i += 2) {
        const reach a = reach_of(from, pixels + i, kh, kw);
        const reach none = {0, 0, 0};
        const reach b = i + 1 < count ? reach_of(from, pixels + i + 1, kh, kw) : none;
        pair_values(inputs + (ptrdiff_t)(i / 2) * shape->cols, from, &a, &b, shape->cols);
    }
    product(sums, gradients, inputs, shape);
}

void seam_q8_conv2d_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t x_zero,
                                const seam_window *p, int32_t groups, int32_t first,
                                int32_t channels, void *scratch) {
    const group_sizes size = sizes_of(p, groups);
    const weight_source from = {p, x + first / size.out * size.in, size.in, run_taps(p, groups),
                                x_zero};
    int32_t *gradients = scratch;
    int32_t *inputs = gradients + (ptrdiff_t)chunk_of(p) * channels;
    corner at = {.ih = -p->pad_top, .iw = -p->pad_left}, pixels[2 * CHUNK];
    const int32_t total = p->batch * p->out_h * p->out_w;
    memset(sums, 0, (size_t)channels * (size_t)size.terms * sizeof *sums);
    for (int32_t pixel = 0, n; pixel < total; pixel += n) {
        n = lesser(total - pixel, 2 * CHUNK);
        const seam_q8_product shape = {.c_row = size.terms,
                                       .a_row = 1,
                                       .a_term = channels,
                                       .b_term = (ptrdiff_t)from.taps * size.in,
                                       .rows = channels,
                                       .cols = from.taps * size.in,
                                       .terms = pairs_of(n)};
        pack_gradients(gradients, dy + (ptrdiff_t)pixel * p->out_c + first, p->out_c, n, channels);
        for (int32_t i = 0; i < n; i++, corner_next(&at, p))
            pixels[i] = at;
        for (int32_t kh = 0; kh < p->kernel_h; kh++)
            for (int32_t kw = 0; kw < p->kernel_w; kw += from.taps)
                run_sums(sums + (ptrdiff_t)(kh * p->kernel_w + kw) * size.in, gradients, inputs,
                         &from, pixels, n, kh, kw, &shape);
    }
}
