/* int8 convolution, grouped too, and with a 1x1 window the dense layer: patches of terms, tile by
 * tile. */
#include "walk.h"

static const int32_t pack_pixels = 8; /* fewer do not pay for packing */

typedef struct {
    int32_t in, out, terms; /* channels of one group, products in one of its sums */
} group_sizes;

static int32_t up_to_four(int32_t count) {
    return (count + 3) / 4 * 4;
}

static group_sizes sizes_of(const seam_window *p, int32_t groups) {
    const int32_t in = p->in_c / groups;
    return (group_sizes){in, p->out_c / groups, p->kernel_h * p->kernel_w * in};
}

/* Every input pixel gives the output pixel at its place. */
static int is_pointwise(const seam_window *p) {
    return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 &&
           p->pad_top + p->pad_bottom + p->pad_left + p->pad_right == 0;
}

/* One pixel for each channel of a group, whose terms lie side by side: a dense layer of one sample.
 */
static int is_lone(const seam_window *p) {
    return is_pointwise(p) && p->batch == 1 && p->out_h == 1 && p->out_w == 1;
}

int seam_q8_scaling_check(const seam_q8_scaling *how, int32_t channels) {
    if (how->scales != 1 && how->scales != channels)
        return SEAM_E_SHAPE;
    for (int32_t i = 0; i < how->scales; i++)
        if (how->multiplier[i] < 0 || how->shift[i] < -31 || how->shift[i] > 30)
            return SEAM_E_ARGUMENT;
    if (how->x_zero < -128 || how->x_zero > 127 || how->y_zero < -128 || how->y_zero > 127 ||
        how->y_min < -128 || how->y_max > 127 || how->y_min > how->y_max)
        return SEAM_E_ARGUMENT;
    return SEAM_OK;
}

int seam_q8_sums_check(const int32_t *bias, int32_t channels, int64_t terms) {
    const int64_t room = INT32_MAX - terms * (128 * 255);
    if (terms < 1 || room < 0)
        return SEAM_E_LIMIT;
    for (int32_t c = 0; bias != NULL && c < channels; c++)
        if (bias[c] > room || bias[c] < -room)
            return SEAM_E_LIMIT;
    return SEAM_OK;
}

/* The terms of a pixel as rows of neighbours, for a variant that reads them in place. Rows that do
 * not fill four bytes may take more room than the scratch memory has: then they are one run. */
static void lay_out(seam_q8_job *job, const seam_window *p, int32_t groups) {
    const group_sizes size = sizes_of(p, groups);
    job->rows = 1;
    job->run = job->terms = size.terms;
    if (p->dilation_w > 1 || groups > 1)
        return;
    const int32_t run = p->kernel_w * size.in;
    if ((size_t)p->kernel_h * (size_t)up_to_four(run) > seam_q8_padded(size.terms))
        return;
    job->rows = p->kernel_h;
    job->run = run;
}

/* Bytes of packed weights of one group. */
static size_t packed_step(const seam_window *p, int32_t groups) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    seam_q8_job job;
    lay_out(&job, p, groups);
    const int32_t terms = kernels->line != NULL ? job.rows * up_to_four(job.run) : job.terms;
    return kernels->packed_size(p->out_c / groups, terms);
}

size_t seam_q8_conv2d_packed_size(const seam_window *p, int32_t groups) {
    const int64_t pixels = (int64_t)p->batch * p->out_h * p->out_w;
    if (pixels < pack_pixels && seam_kernels_now()->q8->line == NULL)
        return 0;
    if (is_lone(p) && sizes_of(p, groups).terms % 4 != 0) /* not to be read in place as a line */
        return 0;
    return (size_t)groups * packed_step(p, groups);
}

void seam_q8_conv2d_pack(void *packed, const int8_t *w, const seam_window *p, int32_t groups) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const group_sizes size = sizes_of(p, groups);
    const size_t step = packed_step(p, groups);
    for (int32_t g = 0; g < groups; g++) {
        seam_q8_job job = {.w = w + (ptrdiff_t)g * size.out * size.terms, .channels = size.out};
        lay_out(&job, p, groups);
        kernels->pack((char *)packed + (size_t)g * step, &job);
    }
}

size_t seam_q8_conv2d_scratch(const seam_window *p, int32_t groups) {
    if (is_lone(p))
        return 0;
    return SEAM_Q8_TILE_BYTES * seam_q8_padded(sizes_of(p, groups).terms);
}

/* Kernel positions first <= k < end. */
typedef struct {
    int32_t first, end;
} tap_range;

/* Where the tile's patches come from. */
typedef struct {
    const seam_q8_kernels *kernels;
    const seam_window *p;
    const int8_t *x; /* first channel of the group */
    int32_t in, x_zero;
    int32_t reach_h, reach_w; /* from a window's first tap to behind its last */
    ptrdiff_t line;           /* from tap to tap down a column */
    int packed;               /* a kernel row's values lie side by side */
    int32_t pitch;            /* from kernel row to kernel row of a patch, in terms */
    seam_axis axis_h, axis_w;
} source;

static source source_of(const seam_q8_kernels *kernels, const seam_window *p, const int8_t *x,
                        int32_t in, int32_t x_zero) {
    return (source){.kernels = kernels,
                    .p = p,
                    .x = x,
                    .in = in,
                    .x_zero = x_zero,
                    .reach_h = (p->kernel_h - 1) * p->dilation_h + 1,
                    .reach_w = (p->kernel_w - 1) * p->dilation_w + 1,
                    .line = (ptrdiff_t)p->dilation_h * p->in_w * p->in_c,
                    .packed = p->dilation_w == 1 && in == p->in_c,
                    .pitch = p->kernel_w * in,
                    .axis_h = seam_axis_h(p),
                    .axis_w = seam_axis_w(p)};
}

/* An output pixel. */
typedef struct {
    int32_t n, oh, ow;
} position;

static void advance(position *at, const seam_window *p) {
    if (++at->ow < p->out_w)
        return;
    at->ow = 0;
    if (++at->oh < p->out_h)
        return;
    at->oh = 0;
    at->n++;
}

/* The kernel rows of a patch that lie inside; place: of tap 0 of kernel row 0 in x, which
 * may lie outside. */
static void gather_rows(void *patch, const source *from, ptrdiff_t place, const tap_range *h,
                        const tap_range *w) {
    const seam_window *p = from->p;
    const int32_t n = from->in, rows = h->end - h->first, end = p->kernel_w - w->end;
    const ptrdiff_t width = from->pitch, at = h->first * width;
    const ptrdiff_t line = from->line;
    if (rows <= 0)
        return;
    if (w->first > 0)
        from->kernels->patch(patch, at, width, NULL, 0, rows, w->first * n, from->x_zero);
    place += h->first * line;
    if (from->packed) {
        if (w->end > w->first)
            from->kernels->patch(patch, at + (ptrdiff_t)w->first * n, width,
                                 from->x + (place + (ptrdiff_t)w->first * n), line, rows,
                                 (w->end - w->first) * n, from->x_zero);
    } else {
        for (int32_t j = w->first; j < w->end; j++)
            from->kernels->patch(patch, at + (ptrdiff_t)j * n, width,
                                 from->x + (place + (ptrdiff_t)j * p->dilation_w * p->in_c), line,
                                 rows, n, from->x_zero);
    }
    if (end > 0)
        from->kernels->patch(patch, at + (ptrdiff_t)w->end * n, width, NULL, 0, rows, end * n,
                             from->x_zero);
}

static tap_range taps_of(const seam_axis *axis, int32_t o) {
    tap_range taps;
    seam_axis_taps(&taps.first, &taps.end, axis, o);
    return taps;
}

/* place: of tap 0 in x, which may lie outside. */
static void gather_edge(void *patch, const source *from, const position *at, ptrdiff_t place) {
    const seam_window *p = from->p;
    const tap_range h = taps_of(&from->axis_h, at->oh), w = taps_of(&from->axis_w, at->ow);
    const int32_t run = p->kernel_w * from->in, pitch = from->pitch;
    if (h.first > 0)
        from->kernels->patch(patch, 0, pitch, NULL, 0, h.first, run, from->x_zero);
    gather_rows(patch, from, place, &h, &w);
    if (h.end < p->kernel_h)
        from->kernels->patch(patch, (ptrdiff_t)h.end * pitch, pitch, NULL, 0, p->kernel_h - h.end,
                             run, from->x_zero);
}

static void gather(void *patch, const source *from, const position *at) {
    const seam_window *p = from->p;
    const int32_t row = at->oh * p->stride_h - p->pad_top;
    const int32_t col = at->ow * p->stride_w - p->pad_left;
    const ptrdiff_t place =
        (((ptrdiff_t)at->n * p->in_h + row) * p->in_w + col) * (ptrdiff_t)p->in_c;
    const int inside =
        row >= 0 && row + from->reach_h <= p->in_h && col >= 0 && col + from->reach_w <= p->in_w;
    if (inside && from->packed) {
        const int32_t width = p->kernel_w * from->in;
        from->kernels->patch(patch, 0, from->pitch, from->x + place, from->line, p->kernel_h, width,
                             from->x_zero);
    } else {
        gather_edge(patch, from, at, place);
    }
}

/* Patches of `count` pixels from `at` on, which is the first-th of the batch. */
static void gather_tile(void *patches, const source *from, position *at, int64_t first,
                        int32_t count) {
    const seam_window *p = from->p;
    const seam_q8_kernels *kernels = from->kernels;
    const int32_t terms = p->kernel_h * p->kernel_w * from->in;
    const ptrdiff_t step = (ptrdiff_t)seam_q8_padded(terms);
    size_t bytes = (size_t)step * SEAM_Q8_TILE_BYTES / (size_t)kernels->pixels;
    if (kernels->pixel_bytes > 0)
        bytes = (size_t)kernels->pixel_bytes;
    if (is_pointwise(p)) {
        const int8_t *x = from->x + (ptrdiff_t)first * p->in_c;
        if (kernels->pixel_bytes == 0) {
            kernels->patch(patches, 0, step, x, p->in_c, count, terms, from->x_zero);
        } else {
            for (int32_t i = 0; i < count; i++, x += p->in_c)
                kernels->patch((char *)patches + (size_t)i * bytes, 0, 0, x, 0, 1, terms,
                               from->x_zero);
        }
    } else {
        for (int32_t i = 0; i < count; i++, advance(at, p))
            gather((char *)patches + (size_t)i * bytes, from, at);
    }
    for (int32_t i = 0; i < count; i++)
        kernels->patch_end((char *)patches + (size_t)i * bytes, terms);
}

static void group_run(int8_t *y, const source *from, const seam_q8_job *job, void *scratch) {
    const seam_window *p = from->p;
    const int64_t pixels = (int64_t)p->batch * p->out_h * p->out_w;
    position at = {0, 0, 0};
    for (int64_t first = 0; first < pixels; first += from->kernels->pixels) {
        const int64_t left = pixels - first;
        const int32_t count = left < from->kernels->pixels ? (int32_t)left : from->kernels->pixels;
        gather_tile(scratch, from, &at, first, count);
        from->kernels->tile(y + (ptrdiff_t)first * p->out_c, p->out_c, scratch, count, job);
    }
}

/* Output pixels whose taps are all inside: rows [h.first, h.end), columns [w.first, w.end). */
typedef struct {
    tap_range h, w;
} inside;

static tap_range axis_inside(const seam_axis *axis) {
    const int32_t reach = (axis->kernel - 1) * axis->dilation, room = axis->in - 1 - reach;
    tap_range range = {(axis->pad + axis->stride - 1) / axis->stride,
                       room + axis->pad < 0 ? 0 : (room + axis->pad) / axis->stride + 1};
    range.end = range.end < axis->out ? range.end : axis->out;
    return range;
}

/* Output pixels first, first + step, ... of sample n from patches; y: of the sample. */
static void gathered(int8_t *y, const source *from, const seam_q8_job *job, void *scratch,
                     int32_t n, int32_t first, int32_t step, int32_t count) {
    const seam_window *p = from->p;
    const ptrdiff_t bytes = (ptrdiff_t)seam_q8_padded(job->terms);
    for (int32_t done = 0, now; done < count; done += now, first += now * step) {
        now = count - done < from->kernels->pixels ? count - done : from->kernels->pixels;
        for (int32_t i = 0, at = first; i < now; i++, at += step) {
            const position place = {n, at / p->out_w, at % p->out_w};
            gather((int8_t *)scratch + i * bytes, from, &place);
        }
        from->kernels->line(y + (ptrdiff_t)first * p->out_c, (ptrdiff_t)step * p->out_c, scratch,
                            bytes, from->pitch, now, job);
    }
}

/* The place of a pixel's first tap. */
static const int8_t *place_of(const source *from, int32_t n, int32_t oh, int32_t ow) {
    const seam_window *p = from->p;
    const ptrdiff_t row = (ptrdiff_t)n * p->in_h + (ptrdiff_t)oh * p->stride_h - p->pad_top;
    const ptrdiff_t col = (ptrdiff_t)ow * p->stride_w - p->pad_left;
    return from->x + (row * p->in_w + col) * p->in_c;
}

/* What is read in place: rows h, columns w; of the last of these rows only `most` columns, since
 * reading another would leave x. */
typedef struct {
    tap_range h, w;
    int32_t most;
} inner;

/* end: of x. */
static inner inner_of(const source *from, const seam_q8_job *job, const int8_t *end) {
    const seam_window *p = from->p;
    inner found = {axis_inside(&from->axis_h), axis_inside(&from->axis_w), 0};
    const ptrdiff_t x_row = (ptrdiff_t)p->dilation_h * p->in_w * p->in_c;
    const int direct = job->rows == p->kernel_h && job->run == p->kernel_w * from->in &&
                       ((p->dilation_w == 1 && from->in == p->in_c) || p->kernel_w == 1);
    if (!direct || found.h.first >= found.h.end || found.w.first >= found.w.end) {
        found.h = found.w = (tap_range){0, 0};
        return found;
    }
    const int8_t *last = place_of(from, p->batch - 1, found.h.end - 1, found.w.first);
    const ptrdiff_t room = end - last - (job->rows - 1) * x_row - up_to_four(job->run);
    const ptrdiff_t most = room < 0 ? 0 : room / ((ptrdiff_t)p->stride_w * p->in_c) + 1;
    const int32_t all = found.w.end - found.w.first;
    found.most = most < all ? (int32_t)most : all;
    return found;
}

/* As group_run, but only pixels at the border, and the last ones where another read would leave x,
 * are gathered: rows above and below, then columns on both sides. */
static void group_run_lines(int8_t *y, const source *from, const seam_q8_job *job, void *scratch,
                            const int8_t *end) {
    const seam_window *p = from->p;
    const inner in = inner_of(from, job, end);
    const tap_range h = in.h, w = in.w;
    const ptrdiff_t x_row = (ptrdiff_t)p->dilation_h * p->in_w * p->in_c;
    const ptrdiff_t x_step = (ptrdiff_t)p->stride_w * p->in_c;
    const int32_t width = p->out_w, rows = h.end - h.first;
    for (int32_t n = 0; n < p->batch; n++, y += (ptrdiff_t)p->out_h * width * p->out_c) {
        gathered(y, from, job, scratch, n, 0, 1, h.first * width);
        gathered(y, from, job, scratch, n, h.end * width, 1, (p->out_h - h.end) * width);
        for (int32_t ow = 0; ow < w.first; ow++)
            gathered(y, from, job, scratch, n, h.first * width + ow, width, rows);
        for (int32_t ow = w.end; ow < width && rows > 0; ow++)
            gathered(y, from, job, scratch, n, h.first * width + ow, width, rows);
        for (int32_t oh = h.first; oh < h.end; oh++) {
            const int cut = n == p->batch - 1 && oh == h.end - 1;
            const int32_t count = cut ? in.most : w.end - w.first, at = oh * width + w.first;
            if (count > 0)
                from->kernels->line(y + (ptrdiff_t)at * p->out_c, p->out_c,
                                    place_of(from, n, oh, w.first), x_step, x_row, count, job);
            gathered(y, from, job, scratch, n, at + count, 1, w.end - w.first - count);
        }
    }
}

/* Every input pixel gives one output pixel: all rows and samples are one row. */
static seam_window as_one_row(const seam_window *p) {
    seam_window row = *p;
    const int64_t pixels = (int64_t)p->batch * p->in_h * p->in_w;
    if (!is_pointwise(p) || pixels > INT32_MAX / 2)
        return row;
    row.batch = row.in_h = row.out_h = 1;
    row.in_w = row.out_w = (int32_t)pixels;
    return row;
}

void seam_q8_conv2d(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                    const seam_q8_scaling *how, const seam_window *p, int32_t groups,
                    const void *packed, void *scratch) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const group_sizes size = sizes_of(p, groups);
    const size_t step = packed == NULL ? 0 : packed_step(p, groups);
    const int8_t *end = x + (size_t)p->batch * (size_t)p->in_h * (size_t)p->in_w * (size_t)p->in_c;
    for (int32_t g = 0; g < groups; g++) {
        const ptrdiff_t first = (ptrdiff_t)g * size.out;
        const ptrdiff_t scale = how->scales > 1 ? first : 0;
        source from = source_of(kernels, p, x + (ptrdiff_t)g * size.in, size.in, how->x_zero);
        seam_q8_job job = {.w = w + first * size.terms,
                           .packed =
                               packed == NULL ? NULL : (const char *)packed + (size_t)g * step,
                           .bias = bias == NULL ? NULL : bias + first,
                           .multiplier = how->multiplier + scale,
                           .shift = how->shift + scale,
                           .scale_step = how->scales > 1,
                           .channels = size.out,
                           .terms = size.terms,
                           .x_zero = how->x_zero,
                           .y_zero = how->y_zero,
                           .y_min = how->y_min,
                           .y_max = how->y_max};
        if (is_lone(p) && packed == NULL) {
            kernels->lone(y + first, from.x, &job);
            continue;
        }
        if (kernels->line == NULL || packed == NULL) {
            group_run(y + first, &from, &job, scratch);
            continue;
        }
        const seam_window row = as_one_row(p);
        lay_out(&job, p, groups);
        job.falling = seam_q8_falling(&job);
        if (job.rows == p->kernel_h && job.rows > 1)
            from.pitch = up_to_four(job.run);
        from.p = &row;
        from.axis_h = seam_axis_h(&row);
        from.axis_w = seam_axis_w(&row);
        group_run_lines(y + first, &from, &job, scratch, end);
    }
}
