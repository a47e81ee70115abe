/* Scalar float functions with every operation fixed, so that they give the same bits everywhere. */
#ifndef SEAM_MATH_H
#define SEAM_MATH_H

#include <stdint.h>

static inline float seam_fma(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}

static inline float seam_from_bits(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t seam_to_bits(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* e^x for x <= 0; 0 below -87. Taylor to x^7 on |r| <= ln(2)/2 after x = n ln(2) + r. */
static inline float seam_exp(float x) {
    if (x < -87.0f)
        return 0.0f;
    if (x != x)
        return x;
    int32_t n = (int32_t)seam_fma(x, 1.44269504f, -0.5f); /* to nearest: the sum is <= 0 */
    float r = seam_fma((float)n, -0.693359375f, x);
    r = seam_fma((float)n, 2.12194440e-4f, r);
    float p = 1.98412698e-4f;
    p = seam_fma(p, r, 1.38888889e-3f);
    p = seam_fma(p, r, 8.33333333e-3f);
    p = seam_fma(p, r, 4.16666667e-2f);
    p = seam_fma(p, r, 1.66666667e-1f);
    p = seam_fma(p, r, 0.5f);
    p = seam_fma(p, r, 1.0f);
    p = seam_fma(p, r, 1.0f);
    return p * seam_from_bits((uint32_t)(n + 127) << 23);
}

/* ln x for x >= 1: x = 2^n m, 0.70 < m < 1.42, ln m = 2 atanh(s), s = (m - 1) / (m + 1). */
static inline float seam_log(float x) {
    if (!(x <= 3.4028235e38f))
        return x - x; /* NaN, also for infinity: a softmax without finite logits has no loss */
    uint32_t bits = seam_to_bits(x) - 0x3F350000u;
    int32_t n = (int32_t)(bits >> 23);
    float m = seam_from_bits((bits & 0x007FFFFFu) + 0x3F350000u);
    float s = (m - 1.0f) / (m + 1.0f);
    float z = s * s;
    float p = 1.11111111e-1f;
    p = seam_fma(p, z, 1.42857143e-1f);
    p = seam_fma(p, z, 2.0e-1f);
    p = seam_fma(p, z, 3.33333333e-1f);
    p = seam_fma(p, z, 1.0f);
    p = p * s;
    float low = seam_fma((float)n, -2.12194440e-4f, p + p);
    return seam_fma((float)n, 0.693359375f, low);
}

#endif
