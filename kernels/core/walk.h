/* Which results of a window share their taps, and how tiles of such results are fed to a
 * micro-kernel. */
#ifndef SEAM_WALK_H
#define SEAM_WALK_H

#include "arch/arch.h"

/* One direction (height or width) of a window. */
typedef struct {
    int32_t in, out, kernel, stride, dilation, pad;
} seam_axis;

seam_axis seam_axis_h(const seam_window *p);
seam_axis seam_axis_w(const seam_window *p);

/* Results first, first + step, ... that all use the same taps. Forward a result is an output and
 * its sources are inputs; backward it is the other way round. */
typedef struct {
    int32_t first, step, length;
    int32_t tap, tap_step, taps;     /* kernel positions tap, tap + tap_step, ... */
    int32_t source;                  /* of the first result's first tap */
    int32_t source_tap, source_step; /* from tap to tap, from result to result */
} seam_span;

/* Spans one after another. Begin with next = 0, phase = 0; 0 at the end. */
typedef struct {
    seam_axis axis;
    int backward;
    int32_t next, phase;
} seam_spans;

int seam_spans_next(seam_span *span, seam_spans *spans);

/* Forward positions o (first <= o < end) at which kernel position `tap` lies inside the input. */
void seam_axis_outputs(int32_t *first, int32_t *end, const seam_axis *axis, int32_t tap);

/* Taps (first <= k < end) of output o that lie inside the input. */
void seam_axis_taps(int32_t *first, int32_t *end, const seam_axis *axis, int32_t o);

/* Taps of one output pixel that lie inside the input; none: rows or cols is not above 0. */
typedef struct {
    int32_t rows, cols;
    ptrdiff_t x, x_row, x_col; /* offsets in values */
} seam_taps;

seam_taps seam_taps_at(const seam_window *p, int32_t n, int32_t oh, int32_t ow);

/* Run `tile` over all pixels of a box (b steps: y), `pixels` at a time. */
void seam_tiles(seam_tile *tile, int32_t pixels, float *y, const float *a, const seam_box *box,
                const seam_job *job);

#endif
