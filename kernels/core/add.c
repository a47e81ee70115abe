/* The residual sum, and adding one gradient to another. */
#include "seam.h"

void seam_f32_add(float *y, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

void seam_f32_accumulate(float *dx, const float *dy, size_t count) {
    for (size_t i = 0; i < count; i++)
        dx[i] += dy[i];
}
