/* Stochastic gradient descent with momentum and weight decay. */
#include "arch/arch.h"

void seam_f32_sgd(float *w, float *v, const float *dw, float rate, float momentum, float decay,
                  size_t count) {
    seam_kernels_now()->sgd(w, v, dw, rate, momentum, decay, count);
}
