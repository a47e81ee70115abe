/* int8 convolution, grouped too, and with a 1x1 window the dense layer: patches of terms, tile by
 * tile. */
#include "walk.h"

static const int32_t pack_pixels = 8; /* fewer do not pay for packing */

typedef struct {
    int32_t in, out, terms; /* channels of one group, products in one of its sums */
} group_sizes;

static group_sizes sizes_of(const seam_window *p, int32_t groups) {
    const int32_t in = p->in_c / groups;
    return (group_sizes){in, p->out_c / groups, p->kernel_h * p->kernel_w * in};
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

size_t seam_q8_conv2d_packed_size(const seam_window *p, int32_t groups) {
    const group_sizes size = sizes_of(p, groups);
    if ((int64_t)p->batch * p->out_h * p->out_w < pack_pixels)
        return 0;
    return (size_t)groups * seam_kernels_now()->q8->packed_size(size.out, size.terms);
}

void seam_q8_conv2d_pack(void *packed, const int8_t *w, const seam_window *p, int32_t groups) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const group_sizes size = sizes_of(p, groups);
    const size_t step = kernels->packed_size(size.out, size.terms);
    for (int32_t g = 0; g < groups; g++) {
        const seam_q8_job job = {.w = w + (ptrdiff_t)g * size.out * size.terms,
                                 .channels = size.out,
                                 .terms = size.terms};
        kernels->pack((char *)packed + (size_t)g * step, &job);
    }
}

size_t seam_q8_conv2d_scratch(const seam_window *p, int32_t groups) {
    return SEAM_Q8_TILE_BYTES * seam_q8_padded(sizes_of(p, groups).terms);
}

/* Where the tile's patches come from. */
typedef struct {
    const seam_q8_kernels *kernels;
    const seam_window *p;
    const int8_t *x; /* first channel of the group */
    int32_t in, x_zero;
} source;

/* One kernel row of a patch; x_row: the input row, NULL outside. */
static void gather_row(void *patch, int32_t at, const int8_t *x_row, const source *from,
                       int32_t ow) {
    const seam_window *p = from->p;
    const int32_t n = from->in;
    if (x_row == NULL) {
        from->kernels->patch(patch, at, NULL, p->kernel_w * n, from->x_zero);
        return;
    }
    const seam_axis axis = seam_axis_w(p);
    int32_t first, end;
    seam_axis_taps(&first, &end, &axis, ow);
    if (first > 0)
        from->kernels->patch(patch, at, NULL, first * n, from->x_zero);
    const ptrdiff_t col = (ptrdiff_t)ow * p->stride_w - p->pad_left;
    if (p->dilation_w == 1 && n == p->in_c) { /* neighbours lie side by side */
        if (end > first)
            from->kernels->patch(patch, at + first * n, x_row + (col + first) * n,
                                 (end - first) * n, from->x_zero);
    } else {
        for (int32_t j = first; j < end; j++)
            from->kernels->patch(patch, at + j * n,
                                 x_row + (col + (ptrdiff_t)j * p->dilation_w) * p->in_c, n,
                                 from->x_zero);
    }
    if (end < p->kernel_w)
        from->kernels->patch(patch, at + end * n, NULL, (p->kernel_w - end) * n, from->x_zero);
}

static void gather(void *patch, const source *from, int32_t n, int32_t oh, int32_t ow) {
    const seam_window *p = from->p;
    const int32_t width = p->kernel_w * from->in;
    const ptrdiff_t line = (ptrdiff_t)p->in_w * p->in_c;
    for (int32_t i = 0; i < p->kernel_h; i++) {
        const int32_t row = oh * p->stride_h - p->pad_top + i * p->dilation_h;
        const int inside = row >= 0 && row < p->in_h;
        const int8_t *x_row = inside ? from->x + ((ptrdiff_t)n * p->in_h + row) * line : NULL;
        gather_row(patch, i * width, x_row, from, ow);
    }
    from->kernels->patch_end(patch, p->kernel_h * width);
}

static void group_run(int8_t *y, const source *from, const seam_q8_job *job, void *scratch) {
    const seam_window *p = from->p;
    const int32_t tile = from->kernels->pixels;
    const size_t step = seam_q8_padded(job->terms) * SEAM_Q8_TILE_BYTES / (size_t)tile;
    int32_t filled = 0;
    for (int32_t n = 0; n < p->batch; n++)
        for (int32_t oh = 0; oh < p->out_h; oh++)
            for (int32_t ow = 0; ow < p->out_w; ow++) {
                gather((char *)scratch + (size_t)filled * step, from, n, oh, ow);
                if (++filled == tile) {
                    from->kernels->tile(y, p->out_c, scratch, filled, job);
                    y += (ptrdiff_t)filled * p->out_c;
                    filled = 0;
                }
            }
    if (filled > 0)
        from->kernels->tile(y, p->out_c, scratch, filled, job);
}

void seam_q8_conv2d(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                    const seam_q8_scaling *how, const seam_window *p, int32_t groups,
                    const void *packed, void *scratch) {
    const seam_q8_kernels *kernels = seam_kernels_now()->q8;
    const group_sizes size = sizes_of(p, groups);
    const size_t packed_step = kernels->packed_size(size.out, size.terms);
    for (int32_t g = 0; g < groups; g++) {
        const ptrdiff_t first = (ptrdiff_t)g * size.out;
        const ptrdiff_t scale = how->scales > 1 ? first : 0;
        const source from = {kernels, p, x + (ptrdiff_t)g * size.in, size.in, how->x_zero};
        const seam_q8_job job = {
            .w = w + first * size.terms,
            .packed = packed == NULL ? NULL : (const char *)packed + (size_t)g * packed_step,
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
        group_run(y + first, &from, &job, scratch);
    }
}
