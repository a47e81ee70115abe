/* Runs every kernel over random windows in memory of the exact size, with guards around it, in
 * every variant; the results must have the same bytes. Meant for AddressSanitizer, honest without
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seam.h"

#define GUARD 8 /* floats before and after a block */

#define VARIANTS 8 /* there are fewer */
static uint32_t drawn;

static int32_t draw(int32_t least, int32_t most) {
    return least + (int32_t)(seam_random(1, 2, drawn++) % (uint32_t)(most - least + 1));
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* count random floats between two guards. */
static float *block(size_t count) {
    float *p = malloc((count + 2 * GUARD) * sizeof(float));
    if (p == NULL)
        fail("no memory");
    memset(p, 0xA5, (count + 2 * GUARD) * sizeof(float));
    for (size_t i = 0; i < count; i++)
        p[GUARD + i] = (float)draw(-1000, 1000) / 256.0f;
    return p + GUARD;
}

static void release(float *p, size_t count, const char *what) {
    const unsigned char *before = (const unsigned char *)(p - GUARD);
    const unsigned char *after = (const unsigned char *)(p + count);
    for (size_t i = 0; i < GUARD * sizeof(float); i++)
        if (before[i] != 0xA5 || after[i] != 0xA5)
            fail(what);
    free(p - GUARD);
}

/* Memory of exactly this size, so that a sanitizer sees one byte too many being read. */
static float *exact(const float *from, size_t count) {
    float *p = malloc(count * sizeof(float));
    if (p == NULL)
        fail("no memory");
    memcpy(p, from, count * sizeof(float));
    return p;
}

/* Mostly few, sometimes more than one block of the widest variant. */
static int draw_channels(void) {
    return draw(0, 7) == 0 ? draw(1, 110) : draw(1, 27);
}

static seam_window random_window(int depthwise) {
    seam_window p;
    do {
        p = (seam_window){.batch = draw(1, 9),
                          .in_h = draw(1, 6),
                          .in_w = draw(1, 9),
                          .in_c = draw_channels(),
                          .out_c = draw_channels(),
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
        if (depthwise)
            p.out_c = p.in_c * draw(1, 10);
        int32_t h = p.in_h + p.pad_top + p.pad_bottom - (p.kernel_h - 1) * p.dilation_h - 1;
        int32_t w = p.in_w + p.pad_left + p.pad_right - (p.kernel_w - 1) * p.dilation_w - 1;
        p.out_h = h < 0 ? 0 : h / p.stride_h + 1;
        p.out_w = w < 0 ? 0 : w / p.stride_w + 1;
    } while (seam_window_check(&p) != SEAM_OK);
    return p;
}

static void compare(const float *a, const float *b, size_t count, const char *what) {
    if (memcmp(a, b, count * sizeof(float)) != 0)
        fail(what);
}

/* Scratch memory of exactly this size, full of NaN. */
static void *poison(size_t bytes) {
    void *scratch = malloc(bytes == 0 ? 1 : bytes);
    if (scratch == NULL)
        fail("no memory");
    memset(scratch, 0xFF, bytes);
    return scratch;
}

typedef struct {
    float *y, *dx, *dw, *db;
} results;

/* One variant: forward and backward from the same start; y, dx, dw, db come back. */
static results run(const seam_window *p, int depthwise, const float *x, const float *w,
                   const float *b, const float *const *start, const size_t *sizes) {
    results r = {block(sizes[0]), block(sizes[1]), block(sizes[2]), block(sizes[3])};
    memcpy(r.dx, start[0], sizes[1] * sizeof(float));
    memcpy(r.dw, start[1], sizes[2] * sizeof(float));
    memcpy(r.db, start[2], sizes[3] * sizeof(float));
    void *scratch = poison(depthwise ? seam_f32_depthwise_scratch(p) : seam_f32_conv2d_scratch(p));
    if (depthwise) {
        seam_f32_depthwise(r.y, x, w, b, p, scratch);
        seam_f32_depthwise_backward(r.dx, r.dw, r.db, r.y, x, w, p, scratch);
    } else {
        seam_f32_conv2d(r.y, x, w, b, p, scratch);
        seam_f32_conv2d_backward(r.dx, r.dw, r.db, r.y, x, w, p, scratch);
    }
    free(scratch);
    return r;
}

/* Where no dx is wanted less scratch is enough, for the same dw and y. */
static void run_first(const results *all, const seam_window *p, const float *x, const float *w,
                      const float *b, const float *const *start, const size_t *sizes) {
    float *y = block(sizes[0]), *dw = exact(start[1], sizes[2]);
    void *scratch = poison(seam_f32_conv2d_first_scratch(p));
    seam_f32_conv2d(y, x, w, b, p, scratch);
    seam_f32_conv2d_backward(NULL, dw, NULL, y, x, w, p, scratch);
    compare(y, all->y, sizes[0], "y differs where no dx is wanted");
    compare(dw, all->dw, sizes[2], "dw differs where no dx is wanted");
    free(scratch);
    free(dw);
    release(y, sizes[0], "y overruns where no dx is wanted");
}

static void convolution(int depthwise) {
    const seam_window p = random_window(depthwise);
    const size_t pixels = (size_t)(p.batch * p.out_h * p.out_w);
    const size_t taps = (size_t)(p.kernel_h * p.kernel_w);
    const size_t sizes[4] = {pixels * (size_t)p.out_c, (size_t)(p.batch * p.in_h * p.in_w * p.in_c),
                             taps * (size_t)p.out_c * (depthwise ? 1u : (size_t)p.in_c),
                             (size_t)p.out_c};
    float *values[3] = {block(sizes[1]), block(sizes[2]), block(sizes[3])};
    float *tight[3];
    for (int k = 0; k < 3; k++)
        tight[k] = exact(values[k], sizes[k + 1]);
    const float *start[3] = {values[0], values[1], values[2]};
    results all[VARIANTS];
    int found = 0, with_bias = draw(0, 1);
    for (int v = 0; seam_kernels_name(v) != NULL; v++)
        if (seam_kernels_choose(seam_kernels_name(v)) == SEAM_OK) {
            const float *bias = with_bias ? tight[2] : NULL;
            all[found] = run(&p, depthwise, tight[0], tight[1], bias, start, sizes);
            if (!depthwise)
                run_first(&all[found], &p, tight[0], tight[1], bias, start, sizes);
            found++;
        }
    for (int v = 0; v < found; v++) {
        compare(all[v].y, all[0].y, sizes[0], "y differs between variants");
        compare(all[v].dx, all[0].dx, sizes[1], "dx differs between variants");
        compare(all[v].dw, all[0].dw, sizes[2], "dw differs between variants");
        compare(all[v].db, all[0].db, sizes[3], "db differs between variants");
    }
    for (int v = 0; v < found; v++) {
        release(all[v].y, sizes[0], "y overruns");
        release(all[v].dx, sizes[1], "dx overruns");
        release(all[v].dw, sizes[2], "dw overruns");
        release(all[v].db, sizes[3], "db overruns");
    }
    for (int k = 0; k < 3; k++) {
        free(tight[k]);
        release(values[k], sizes[k + 1], "an input was written");
    }
}

static void pools(void) {
    seam_window p = random_window(0);
    p.out_c = p.in_c;
    const size_t in = (size_t)(p.batch * p.in_h * p.in_w * p.in_c);
    const size_t out = (size_t)(p.batch * p.out_h * p.out_w * p.in_c);
    float *x = block(in), *y = block(out), *dx = block(in);
    seam_f32_max_pool2d(y, x, &p);
    seam_f32_max_pool2d_backward(dx, y, x, &p);
    seam_f32_average_pool2d(y, x, &p);
    seam_f32_average_pool2d_backward(dx, y, &p);
    release(x, in, "x overruns");
    release(y, out, "y overruns");
    release(dx, in, "dx overruns");
}

static void parcels(void) {
    const uint32_t shape[2] = {(uint32_t)draw(1, 30), (uint32_t)draw(1, 30)};
    const size_t count = shape[0] * shape[1];
    float *x = block(count), *back = exact(x, count);
    for (int codec = 0; codec < SEAM_CODEC_KEPT; codec++) {
        const size_t size = seam_parcel_size(codec, 2, shape);
        uint8_t *bytes[VARIANTS];
        int found = 0;
        for (int v = 0; seam_kernels_name(v) != NULL; v++) {
            if (seam_kernels_choose(seam_kernels_name(v)) != SEAM_OK)
                continue;
            bytes[found] = malloc(size);
            if (bytes[found] == NULL || seam_parcel_pack(bytes[found], size, x, codec, draw(0, 1),
                                                         5, 2, shape) != (int64_t)size)
                fail("pack");
            found++;
            drawn--; /* the same rounding for all */
        }
        drawn++;
        for (int v = 0; v < found; v++) {
            if (memcmp(bytes[v], bytes[0], size) != 0)
                fail("a parcel differs between variants");
            seam_parcel parcel;
            if (seam_parcel_parse(&parcel, bytes[v], size - 1) != SEAM_E_SHORT ||
                seam_parcel_parse(&parcel, bytes[v], size) != SEAM_OK ||
                seam_parcel_unpack(back, count - 1, &parcel) != SEAM_E_SPACE ||
                seam_parcel_unpack(back, count, &parcel) != SEAM_OK)
                fail("unpack");
        }
        if (seam_parcel_pack(bytes[0], size - 1, x, codec, 0, 5, 2, shape) != SEAM_E_SPACE)
            fail("pack into too little space");
        for (int v = 0; v < found; v++)
            free(bytes[v]);
    }
    free(back);
    release(x, count, "x overruns");
}

int main(void) {
    for (int i = 0; i < 400; i++) {
        convolution(0);
        convolution(1);
        pools();
        parcels();
    }
    return 0;
}
