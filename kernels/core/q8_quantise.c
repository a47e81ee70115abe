/* Between float32 and int8, and from one int8 scale to another. */
#include "arch/arch.h"

int seam_q8_quantise(int8_t *q, const float *x, float scale, int32_t zero, seam_half half,
                     size_t count) {
    const seam_codec_kernels *kernels = seam_kernels_now()->codec;
    return kernels->round(q, x, scale, zero, half, count) ? SEAM_OK : SEAM_E_NOT_FINITE;
}

void seam_q8_dequantise(float *x, const int8_t *q, float scale, int32_t zero, size_t count) {
    seam_kernels_now()->codec->dequantise(x, q, scale, zero, count);
}

void seam_q8_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    seam_kernels_now()->q8->requantise(y, x, how, count);
}
