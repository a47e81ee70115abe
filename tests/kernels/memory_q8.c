/* Runs every int8 kernel in memory of the exact size, in every variant; the results must have the
 * same bytes. Meant for AddressSanitizer, which sees one byte too many; guards see writes without
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seam.h"

#define GUARD 32 /* bytes after a result */

#define VARIANTS 8 /* there are fewer */
static uint32_t drawn;

static int32_t draw(int32_t least, int32_t most) {
    return least + (int32_t)(seam_random(3, 4, drawn++) % (uint32_t)(most - least + 1));
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *room(size_t size) {
    void *p = malloc(size == 0 ? 1 : size);
    if (p == NULL)
        fail("no memory");
    memset(p, 0xA5, size);
    return p;
}

static int8_t *values(size_t count) {
    int8_t *p = room(count);
    for (size_t i = 0; i < count; i++)
        p[i] = (int8_t)draw(-128, 127);
    return p;
}

static int32_t *figures(size_t count, int32_t least, int32_t most) {
    int32_t *p = room(count * sizeof(int32_t));
    for (size_t i = 0; i < count; i++)
        p[i] = draw(least, most);
    return p;
}

static void same(int8_t *const *y, int found, size_t count, const char *what) {
    for (int v = 0; v < found; v++) {
        if (memcmp(y[v], y[0], count) != 0)
            fail(what);
        for (size_t i = 0; i < GUARD; i++)
            if ((unsigned char)y[v][count + i] != 0xA5)
                fail(what);
    }
    for (int v = 0; v < found; v++)
        free(y[v]);
}

static seam_window random_window(int32_t in_c, int32_t out_c) {
    seam_window p;
    do {
        p = (seam_window){.batch = draw(1, 4),
                          .in_h = draw(1, 6),
                          .in_w = draw(1, 9),
                          .in_c = in_c,
                          .out_c = out_c,
                          .kernel_h = draw(1, 4),
                          .kernel_w = draw(1, 5),
                          .stride_h = draw(1, 3),
                          .stride_w = draw(1, 3),
                          .dilation_h = draw(1, 3),
                          .dilation_w = draw(1, 3),
                          .pad_top = draw(0, 4),
                          .pad_bottom = draw(0, 4),
                          .pad_left = draw(0, 4),
                          .pad_right = draw(0, 4)};
        int32_t h = p.in_h + p.pad_top + p.pad_bottom - (p.kernel_h - 1) * p.dilation_h - 1;
        int32_t w = p.in_w + p.pad_left + p.pad_right - (p.kernel_w - 1) * p.dilation_w - 1;
        p.out_h = h < 0 ? 0 : h / p.stride_h + 1;
        p.out_w = w < 0 ? 0 : w / p.stride_w + 1;
    } while (seam_window_check(&p) != SEAM_OK);
    return p;
}

static void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                     const seam_q8_scaling *how, const seam_window *p, int32_t groups) {
    size_t size = seam_q8_conv2d_packed_size(p, groups);
    void *packed = size == 0 ? NULL : room(size);
    void *scratch = room(seam_q8_conv2d_scratch(p, groups));
    if (packed != NULL)
        seam_q8_conv2d_pack(packed, w, p, groups);
    seam_q8_conv2d(y, x, w, bias, how, p, groups, packed, scratch);
    free(packed);
    free(scratch);
}

static void convolution(int depthwise) {
    const int32_t groups = depthwise ? 1 : draw(1, 3);
    const int32_t in_c = draw(1, 40) * groups;
    const seam_window p = random_window(in_c, depthwise ? in_c * draw(1, 3) : draw(1, 27) * groups);
    const size_t in = (size_t)(p.batch * p.in_h * p.in_w * p.in_c);
    const size_t out = (size_t)(p.batch * p.out_h * p.out_w * p.out_c);
    const int32_t terms = p.kernel_h * p.kernel_w * (depthwise ? 1 : p.in_c / groups);
    int8_t *x = values(in), *w = values((size_t)(terms * p.out_c));
    int32_t *bias = figures((size_t)p.out_c, -9999, 9999);
    const int32_t scales = draw(0, 1) ? p.out_c : 1;
    int32_t *multiplier = figures((size_t)scales, 1 << 30, INT32_MAX);
    int32_t *shift = figures((size_t)scales, -12, 2);
    const seam_q8_scaling how = {multiplier,      shift,         scales,      draw(-128, 127),
                                 draw(-128, 127), draw(-128, 0), draw(0, 127)};
    if (seam_q8_scaling_check(&how, p.out_c) != SEAM_OK ||
        seam_q8_sums_check(bias, p.out_c, terms) != SEAM_OK)
        fail("a check");
    int8_t *y[VARIANTS];
    int found = 0;
    for (int v = 0; seam_kernels_name(v) != NULL; v++) {
        if (seam_kernels_choose(seam_kernels_name(v)) != SEAM_OK)
            continue;
        int8_t *exact = room(out);
        y[found] = room(out + GUARD);
        if (depthwise) {
            seam_q8_depthwise(exact, x, w, bias, &how, &p);
            seam_q8_depthwise(y[found], x, w, bias, &how, &p);
        } else {
            convolve(exact, x, w, bias, &how, &p, groups);
            convolve(y[found], x, w, bias, &how, &p, groups);
        }
        if (memcmp(exact, y[found++], out) != 0)
            fail("two calls differ");
        free(exact);
    }
    same(y, found, out, depthwise ? "depthwise" : "convolution");
    free(x);
    free(w);
    free(bias);
    free(multiplier);
    free(shift);
}

static void pools(void) {
    const int32_t channels = draw(1, 90);
    const seam_window p = random_window(channels, channels);
    if (seam_q8_pool_check(&p) != SEAM_OK)
        return;
    int8_t *x = values((size_t)(p.batch * p.in_h * p.in_w * channels));
    int8_t *y = room((size_t)(p.batch * p.out_h * p.out_w * channels));
    seam_q8_max_pool2d(y, x, &p, -100, 100);
    seam_q8_average_pool2d(y, x, &p, -100, 100);
    free(x);
    free(y);
}

static void elements(void) {
    const size_t count = (size_t)draw(1, 60);
    int8_t *a = values(count), *b = values(count);
    const int32_t multiplier = draw(1 << 30, INT32_MAX), shift = draw(-3, 0);
    const seam_q8_sum sum = {multiplier,  shift, multiplier, shift, multiplier, -18,
                             draw(-9, 9), 3,     -3,         -128,  127};
    const seam_q8_scaling how = {&multiplier, &shift, 1, 5, -5, -120, 120};
    int8_t *y[VARIANTS], *z[VARIANTS];
    int found = 0;
    for (int v = 0; seam_kernels_name(v) != NULL; v++) {
        if (seam_kernels_choose(seam_kernels_name(v)) != SEAM_OK)
            continue;
        int8_t *exact = room(count);
        seam_q8_add(exact, a, b, &sum, count);
        seam_q8_requantise(exact, exact, &how, count); /* in place */
        y[found] = room(count + GUARD);
        z[found] = room(count + GUARD);
        seam_q8_add(y[found], a, b, &sum, count);
        seam_q8_requantise(z[found], y[found], &how, count);
        if (memcmp(exact, z[found], count) != 0)
            fail("in place differs");
        found++;
        free(exact);
    }
    same(y, found, count, "add");
    same(z, found, count, "requantise");
    float *x = room(count * sizeof(float));
    seam_q8_dequantise(x, a, 0.1f, 3, count);
    if (seam_q8_quantise(b, x, 0.1f, 3, SEAM_HALF_EVEN, count) != SEAM_OK ||
        memcmp(a, b, count) != 0)
        fail("quantise after dequantise");
    seam_q8_softmax(b, a, 1, (int32_t)count, 1 << 30, draw(0, 31));
    free(x);
    free(a);
    free(b);
}

int main(void) {
    for (int i = 0; i < 400; i++) {
        convolution(0);
        convolution(1);
        pools();
        elements();
    }
    return 0;
}
