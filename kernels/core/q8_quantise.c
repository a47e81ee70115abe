/* Between float32 and int8, and from one int8 scale to another. */
#include "q8_requant.h"

#include "arch/arch.h"

static float clip(float x) { /* beyond every int8, whatever the zero point */
    x = x < -512.0f ? -512.0f : x;
    return x > 512.0f ? 512.0f : x;
}

int seam_q8_quantise(int8_t *q, const float *x, float scale, int32_t zero, seam_half half,
                     size_t count) {
    int valid = 1;
    for (size_t i = 0; i < count; i++) {
        const int given = x[i] == x[i];
        const float t = clip(given ? x[i] / scale : 0.0f);
        const int32_t whole = (int32_t)t; /* towards zero; the rest is exact */
        const float rest = t - (float)whole;
        const float size = rest < 0.0f ? -rest : rest;
        const int up = size > 0.5f || (size == 0.5f && (half == SEAM_HALF_AWAY || (whole & 1)));
        const int32_t value = whole + (up ? (rest < 0.0f ? -1 : 1) : 0);
        q[i] = seam_q8_clamp(value + zero, -128, 127);
        valid &= given;
    }
    return valid ? SEAM_OK : SEAM_E_NOT_FINITE;
}

void seam_q8_dequantise(float *x, const int8_t *q, float scale, int32_t zero, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(q[i] - zero) * scale;
}

void seam_q8_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count) {
    seam_kernels_now()->q8->requantise(y, x, how, count);
}
