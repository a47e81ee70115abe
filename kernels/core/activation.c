/* ReLU and ReLU6, forward and backward. NaN stays NaN, so that a diverged model is seen. */
#include "seam.h"

void seam_f32_relu(float *y, const float *x, float ceiling, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float value = x[i] <= 0.0f ? 0.0f : x[i];
        y[i] = value >= ceiling ? ceiling : value;
    }
}

void seam_f32_relu_backward(float *dx, const float *dy, const float *y, float ceiling,
                            size_t count) {
    if (dx == dy) {
        for (size_t i = 0; i < count; i++) {
            int open = (y[i] > 0.0f) & (y[i] < ceiling);
            dx[i] = open ? dx[i] : 0.0f;
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        int open = (y[i] > 0.0f) & (y[i] < ceiling);
        float sum = dx[i] + dy[i];
        dx[i] = open ? sum : dx[i];
    }
}
