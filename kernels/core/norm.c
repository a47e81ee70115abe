/* Group normalisation, forward and backward (Wu and He, arXiv:1803.08494). Plain products and sums:
 * each channel sums over its pixels, then a group sums over its channels. */
#include "seam.h"

#define BLOCK 16 /* channels summed side by side */

static int32_t block_size(int32_t first, int32_t size) {
    return size - first < BLOCK ? size - first : BLOCK;
}

/* Sum of x over the pixels of one group. */
static float sum_values(const float *x, int32_t pixels, int32_t channels, int32_t size) {
    float total = 0.0f;
    for (int32_t first = 0; first < size; first += BLOCK) {
        float sum[BLOCK] = {0};
        int32_t n = block_size(first, size);
        for (int32_t p = 0; p < pixels; p++)
            for (int32_t c = 0; c < n; c++)
                sum[c] += x[(ptrdiff_t)p * channels + first + c];
        for (int32_t c = 0; c < n; c++)
            total += sum[c];
    }
    return total;
}

/* Sum of (x - mean)^2 over the pixels of one group. */
static float sum_squares(const float *x, float mean, int32_t pixels, int32_t channels,
                         int32_t size) {
    float total = 0.0f;
    for (int32_t first = 0; first < size; first += BLOCK) {
        float sum[BLOCK] = {0};
        int32_t n = block_size(first, size);
        for (int32_t p = 0; p < pixels; p++)
            for (int32_t c = 0; c < n; c++) {
                float d = x[(ptrdiff_t)p * channels + first + c] - mean;
                sum[c] += d * d;
            }
        for (int32_t c = 0; c < n; c++)
            total += sum[c];
    }
    return total;
}

void seam_f32_group_norm(float *y, float *saved, const float *x, const float *gamma,
                         const float *beta, int32_t n, int32_t pixels, int32_t channels,
                         int32_t groups, float epsilon) {
    int32_t size = channels / groups;
    float count = (float)pixels * (float)size;
    for (int32_t i = 0; i < n; i++)
        for (int32_t g = 0; g < groups; g++, saved += 2) {
            ptrdiff_t base = (ptrdiff_t)i * pixels * channels + (ptrdiff_t)g * size;
            float mean = sum_values(x + base, pixels, channels, size) / count;
            float variance = sum_squares(x + base, mean, pixels, channels, size) / count;
            float scale = 1.0f / __builtin_sqrtf(variance + epsilon);
            saved[0] = mean;
            saved[1] = scale;
            for (int32_t p = 0; p < pixels; p++, base += channels)
                for (int32_t c = 0; c < size; c++)
                    y[base + c] =
                        (x[base + c] - mean) * scale * gamma[g * size + c] + beta[g * size + c];
        }
}

/* Adds the sums of one group to dgamma and dbeta; returns them weighted by gamma in total[0] (of
 * dy) and total[1] (of dy times the normalised x). */
static void sum_gradients(float *total, float *dgamma, float *dbeta, const float *dy,
                          const float *x, const float *saved, const float *gamma, int32_t pixels,
                          int32_t channels, int32_t size) {
    total[0] = total[1] = 0.0f;
    for (int32_t first = 0; first < size; first += BLOCK) {
        float plain[BLOCK] = {0}, scaled[BLOCK] = {0};
        int32_t n = block_size(first, size);
        for (int32_t p = 0; p < pixels; p++)
            for (int32_t c = 0; c < n; c++) {
                ptrdiff_t at = (ptrdiff_t)p * channels + first + c;
                plain[c] += dy[at];
                scaled[c] += dy[at] * ((x[at] - saved[0]) * saved[1]);
            }
        for (int32_t c = 0; c < n; c++) {
            dbeta[first + c] += plain[c];
            dgamma[first + c] += scaled[c];
            total[0] += plain[c] * gamma[first + c];
            total[1] += scaled[c] * gamma[first + c];
        }
    }
}

void seam_f32_group_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                                  const float *x, const float *saved, const float *gamma, int32_t n,
                                  int32_t pixels, int32_t channels, int32_t groups) {
    int32_t size = channels / groups;
    float count = (float)pixels * (float)size;
    for (int32_t i = 0; i < n; i++)
        for (int32_t g = 0; g < groups; g++, saved += 2) {
            ptrdiff_t base = (ptrdiff_t)i * pixels * channels + (ptrdiff_t)g * size;
            const float *weight = gamma + g * size;
            float total[2];
            sum_gradients(total, dgamma + g * size, dbeta + g * size, dy + base, x + base, saved,
                          weight, pixels, channels, size);
            float plain = total[0] / count, scaled = total[1] / count;
            for (int32_t p = 0; dx != NULL && p < pixels; p++, base += channels)
                for (int32_t c = 0; c < size; c++) {
                    float normal = (x[base + c] - saved[0]) * saved[1];
                    float inner = dy[base + c] * weight[c] - plain - normal * scaled;
                    dx[base + c] += saved[1] * inner;
                }
        }
}
