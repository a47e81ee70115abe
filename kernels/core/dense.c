/* The dense layer, forward and backward: a 1x1 convolution of a 1x1 image. */
#include "seam.h"

seam_window seam_dense_window(int32_t n, int32_t in, int32_t out) {
    return (seam_window){.batch = n,
                         .in_h = 1,
                         .in_w = 1,
                         .in_c = in,
                         .out_h = 1,
                         .out_w = 1,
                         .out_c = out,
                         .kernel_h = 1,
                         .kernel_w = 1,
                         .stride_h = 1,
                         .stride_w = 1,
                         .dilation_h = 1,
                         .dilation_w = 1};
}

size_t seam_f32_dense_scratch(int32_t n, int32_t in, int32_t out) {
    seam_window p = seam_dense_window(n, in, out);
    return seam_f32_conv2d_scratch(&p);
}

void seam_f32_dense(float *y, const float *x, const float *w, const float *b, int32_t n, int32_t in,
                    int32_t out, void *scratch) {
    seam_window p = seam_dense_window(n, in, out);
    seam_f32_conv2d(y, x, w, b, &p, scratch);
}

void seam_f32_dense_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                             const float *w, int32_t n, int32_t in, int32_t out, void *scratch) {
    seam_window p = seam_dense_window(n, in, out);
    seam_f32_conv2d_backward(dx, dw, db, dy, x, w, &p, scratch);
}
