/* Runs every kernel of int8 training in memory of the exact size, in every variant; the results
 * must have the same bytes. Meant for AddressSanitizer and UBSan; guards see writes without them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seam.h"

#define GUARD 32   /* bytes after a result */
#define VARIANTS 8 /* there are fewer */

static uint32_t drawn;

static int32_t draw(int32_t least, int32_t most) {
    const uint32_t range = (uint32_t)most - (uint32_t)least + 1u;
    return (int32_t)((int64_t)least + seam_random(5, 6, drawn++) % range);
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
        p[i] = (int8_t)draw(-SEAM_Q8_MOST, SEAM_Q8_MOST);
    return p;
}

static void *copy(const void *from, size_t size) {
    return memcpy(room(size), from, size);
}

/* The results of one kernel, one for each variant that runs here. */
typedef struct {
    void *made[VARIANTS];
    int count;
    size_t size;
} results;

static void *result(results *all, const void *start) {
    unsigned char *p = room(all->size + GUARD);
    if (start != NULL)
        memcpy(p, start, all->size);
    return all->made[all->count++] = p;
}

static void same(results *all, const char *what) {
    for (int v = 0; v < all->count; v++) {
        const unsigned char *p = all->made[v];
        if (memcmp(p, all->made[0], all->size) != 0)
            fail(what);
        for (size_t i = 0; i < GUARD; i++)
            if (p[all->size + i] != 0xA5)
                fail(what);
    }
    for (int v = 0; v < all->count; v++)
        free(all->made[v]);
}

static int choose(int variant) {
    return seam_kernels_choose(seam_kernels_name(variant)) == SEAM_OK;
}

static seam_window random_window(int32_t in_c, int32_t out_c) {
    seam_window p;
    do {
        p = (seam_window){.batch = draw(1, 3),
                          .in_h = draw(1, 6),
                          .in_w = draw(1, 9),
                          .in_c = in_c,
                          .out_c = out_c,
                          .kernel_h = draw(1, 4),
                          .kernel_w = draw(1, 4),
                          .stride_h = draw(1, 3),
                          .stride_w = draw(1, 3),
                          .dilation_h = draw(1, 2),
                          .dilation_w = draw(1, 2),
                          .pad_top = draw(0, 3),
                          .pad_bottom = draw(0, 3),
                          .pad_left = draw(0, 3),
                          .pad_right = draw(0, 3)};
        const int32_t h = p.in_h + p.pad_top + p.pad_bottom - (p.kernel_h - 1) * p.dilation_h - 1;
        const int32_t w = p.in_w + p.pad_left + p.pad_right - (p.kernel_w - 1) * p.dilation_w - 1;
        p.out_h = h < 0 ? 0 : h / p.stride_h + 1;
        p.out_w = w < 0 ? 0 : w / p.stride_w + 1;
    } while (seam_window_check(&p) != SEAM_OK);
    return p;
}

static void input_sums(int32_t *sums, const int8_t *dy, const int8_t *w, const seam_window *p,
                       int32_t groups, int32_t first, int32_t rows) {
    if (groups == 0) {
        seam_q8_depthwise_input_sums(sums, dy, w, p, first, rows);
        return;
    }
    void *scratch = room(seam_q8_conv2d_input_scratch(p, groups));
    seam_q8_conv2d_input_sums(sums, dy, w, p, groups, first, rows, scratch);
    free(scratch);
}

static void weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t zero,
                        const seam_window *p, int32_t groups, int32_t first, int32_t channels) {
    if (groups == 0) {
        seam_q8_depthwise_weight_sums(sums, dy, x, zero, p, first, channels);
        return;
    }
    void *scratch = room(seam_q8_conv2d_weight_scratch(p, groups, channels));
    seam_q8_conv2d_weight_sums(sums, dy, x, zero, p, groups, first, channels, scratch);
    free(scratch);
}

/* groups 0: depthwise. All rows and a part of them, a group's channels and a part of them. */
static void sums_of_a_layer(int32_t groups) {
    const int32_t parts = groups ? groups : 1, in_c = draw(1, 24) * parts;
    const int32_t each_out = groups ? draw(1, 24) : in_c * draw(1, 3);
    const seam_window p = random_window(in_c, each_out * parts);
    const int32_t taps = p.kernel_h * p.kernel_w, terms = groups ? taps * (in_c / groups) : taps;
    const int32_t all_rows = p.batch * p.in_h, first_row = draw(0, all_rows - 1);
    const int32_t first = draw(0, each_out - 1), zero = draw(-128, 127);
    const int32_t rows[2] = {all_rows, draw(1, all_rows - first_row)};
    const int32_t channels[2] = {each_out, draw(1, each_out - first)};
    int8_t *x = values((size_t)(p.batch * p.in_h * p.in_w * p.in_c));
    int8_t *w = values((size_t)(terms * p.out_c));
    int8_t *dy = values((size_t)(p.batch * p.out_h * p.out_w * p.out_c));
    for (int part = 0; part < 2; part++) {
        results dx = {.size = (size_t)(rows[part] * p.in_w * p.in_c) * sizeof(int32_t)};
        results dw = {.size = (size_t)(channels[part] * terms) * sizeof(int32_t)};
        for (int v = 0; seam_kernels_name(v) != NULL; v++) {
            if (!choose(v))
                continue;
            input_sums(result(&dx, NULL), dy, w, &p, groups, part ? first_row : 0, rows[part]);
            weight_sums(result(&dw, NULL), dy, x, zero, &p, groups, part ? first : 0,
                        channels[part]);
        }
        same(&dx, "input sums");
        same(&dw, "weight sums");
    }
    free(x);
    free(w);
    free(dy);
}

static void sums_of_pools(void) {
    const int32_t channels = draw(1, 40);
    const seam_window p = random_window(channels, channels);
    if (seam_q8_pool_check(&p) != SEAM_OK || seam_q8_pool_sums_check(&p) != SEAM_OK)
        return;
    const size_t count = (size_t)(p.batch * p.in_h * p.in_w * channels);
    int8_t *x = values(count);
    int8_t *dy = values((size_t)(p.batch * p.out_h * p.out_w * channels));
    int32_t *sums = room(count * sizeof *sums);
    seam_q8_max_pool2d_sums(sums, dy, x, &p, 0, p.batch * p.in_h);
    seam_q8_average_pool2d_sums(sums, dy, &p, 0, p.batch * p.in_h);
    free(x);
    free(dy);
    free(sums);
}

static void gradients(void) {
    const int32_t channels = draw(1, 70), pixels = draw(1, 5);
    const size_t count = (size_t)(channels * pixels);
    const seam_q8_noise noise = {drawn, 3, draw(0, 2)};
    const int32_t multiplier = draw(0, 1) ? draw(1 << 30, INT32_MAX) : 0, down = draw(0, 30);
    int8_t *dy = values(count), *other = values(count);
    uint16_t *ratios = room((size_t)channels * sizeof *ratios);
    int32_t *sums = room(count * sizeof *sums), *bias = room((size_t)channels * sizeof *bias);
    for (int32_t c = 0; c < channels; c++)
        ratios[c] = (uint16_t)draw(0, (int32_t)SEAM_Q8_RATIO_ONE);
    seam_q8_mask(dy, other, -100, 100, count);
    seam_q8_bias_sums(bias, dy, channels, (size_t)pixels);
    (void)seam_q8_join_sums(sums, dy, draw(-9, 9), other, draw(-9, 9), count);
    (void)seam_q8_add_sums(sums, dy, 0.3f, count);
    for (size_t i = 0; i < count; i++)
        sums[i] = draw(-INT32_MAX / 2, INT32_MAX / 2) >> down;
    results weighed = {.size = count}, settled = {.size = count};
    for (int v = 0; seam_kernels_name(v) != NULL; v++) {
        if (!choose(v))
            continue;
        seam_q8_weigh(result(&weighed, NULL), dy, ratios, channels, (size_t)pixels, 5, &noise);
        const int32_t bits = seam_q8_settle_bits(seam_q8_largest(sums, count), multiplier);
        seam_q8_settle(result(&settled, NULL), sums, multiplier, bits, 7, count, &noise);
    }
    same(&weighed, "weigh");
    same(&settled, "settle");
    free(dy);
    free(other);
    free(ratios);
    free(sums);
    free(bias);
}

/* One update of a layer, from an old exponent that is drawn. */
static void step(int8_t *w, int8_t *v, const int32_t *dw, const seam_q8_order *order,
                 const seam_q8_rates *rates, const seam_q8_noise *noise) {
    seam_q8_bound bound = {0};
    int moves;
    seam_q8_bound_take(&bound, dw, order, 0, rates->steps);
    const size_t count = (size_t)(order->channels * order->terms);
    const int32_t old = draw(-30, 30);
    const int32_t new = seam_q8_velocity_exponent(&moves, &bound, w, v, old, count, rates);
    if (moves)
        seam_q8_update(w, v, dw, order, order, 0, &bound, old, new, rates, noise);
}

static void updates(int depthwise) {
    const int32_t channels = draw(1, 90), terms = draw(1, 40);
    const size_t count = (size_t)(channels * terms), wide = (size_t)channels * sizeof(int32_t);
    const seam_q8_order order = depthwise ? (seam_q8_order){channels, terms, 1, channels}
                                          : (seam_q8_order){channels, terms, terms, 1};
    float *steps = room((size_t)channels * sizeof *steps);
    int32_t *dw = room(count * sizeof *dw), *db = room(wide), *b = room(wide), *vb = room(wide);
    int8_t *w = values(count), *v = draw(0, 3) ? values(count) : NULL;
    const int32_t down = draw(0, 30);
    for (size_t i = 0; i < count; i++)
        dw[i] = draw(-INT32_MAX / 2, INT32_MAX / 2) >> down;
    for (int32_t c = 0; c < channels; c++) {
        steps[c] = (float)draw(0, 1000) / (float)draw(1, 1000);
        db[c] = draw(-INT32_MAX / 2, INT32_MAX / 2) >> down;
        b[c] = draw(-(1 << 30), 1 << 30);
        vb[c] = draw(-(1 << 30), 1 << 30);
    }
    const float rate = (float)draw(0, 1000) / (float)draw(1, 100000);
    const seam_q8_rates rates = {steps, draw(-90, 60), rate, (float)draw(0, 99) / 100.0f,
                                 (float)draw(0, 9) / 1000.0f};
    const seam_q8_noise noise = {drawn, 2, draw(0, 2)};
    const uint32_t from = drawn;
    results new_w = {.size = count}, new_v = {.size = count};
    for (int variant = 0; seam_kernels_name(variant) != NULL; variant++) {
        if (!choose(variant))
            continue;
        drawn = from;
        step(result(&new_w, w), v != NULL ? result(&new_v, v) : NULL, dw, &order, &rates, &noise);
        int8_t *exact = copy(w, count), *exact_v = v != NULL ? copy(v, count) : NULL;
        step(exact, exact_v, dw, &order, &rates, &noise);
        free(exact);
        free(exact_v);
    }
    same(&new_w, "weights");
    same(&new_v, "velocities");
    float *floats = room(count * sizeof *floats);
    for (size_t i = 0; i < count; i++)
        floats[i] = (float)draw(-1000, 1000) / 7.0f;
    seam_q8_update_float(w, floats, dw, &order, &order, 0, &rates, &noise);
    free(floats);
    seam_q8_update_bias(b, draw(0, 1) ? vb : NULL, db, channels, (float)draw(1, 1 << 24), 1 << 30,
                        &rates, &noise);
    free(steps);
    free(dw);
    free(db);
    free(b);
    free(vb);
    free(w);
    free(v);
}

int main(void) {
    for (int i = 0; i < 250; i++) {
        sums_of_a_layer(draw(1, 3));
        sums_of_a_layer(0);
        sums_of_pools();
        gradients();
        updates(i & 1);
    }
    return 0;
}
