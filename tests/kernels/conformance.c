/* Runs the cases of a file with every variant this machine has and prints the CRC-32 of the
 * results.
 *
 * The file, in 32-bit little-endian words: "SEAMCASE", the number of cases, and for each case
 *   name      32 bytes: of the kernel, zeros behind
 *   numbers   how many, and that many int32 (of a float, its bits)
 *   arrays    how many, and for each its size in bytes and its bytes, zeros up to a whole word
 * Below, each kernel says its numbers and arrays; an array of no bytes is NULL, where the kernel
 * takes that. conformance.py writes such files.
 *
 * A line for each case and variant: case, name, variant, CRC of all results one after another, or
 * what went wrong. Memory of a result has its exact size and lies between guards.
 *
 * A machine without files and arguments compiles this with -DCONFORMANCE_BARE, has the two
 * functions below and calls conformance_run. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "seam.h"

/* 1: `size` bytes were read; 0: the file has ended. */
int conformance_read(void *to, size_t size);
void conformance_print(const char *text);
/* 0, or 1 if some case did not give a CRC. only: a variant, or NULL for all. */
int conformance_run(const char *only);

#ifndef CONFORMANCE_ARENA
#define CONFORMANCE_ARENA (1u << 20) /* bytes for all arrays of a case */
#endif
#define GUARD 16 /* bytes, and a block starts 16-aligned */
#define GUARD_BYTE 0xA5
#define NAME_BYTES 32
#define NUMBERS_MAX 64u
#define ARRAYS_MAX 16u
#define BLOCKS_MAX 32u

typedef struct {
    unsigned char *bytes; /* NULL: of no bytes */
    size_t size;
} block;

static _Alignas(16) unsigned char arena[CONFORMANCE_ARENA];
static size_t taken;
static const char *wrong; /* what the case met; NULL: nothing */

static char name[NAME_BYTES + 1];
static int32_t numbers[NUMBERS_MAX];
static block arrays[ARRAYS_MAX];
static uint32_t number_count, array_count;

/* Reset for each variant. */
static block blocks[BLOCKS_MAX];
static uint32_t block_count, next_number, next_array;
static uint32_t results; /* their CRC */

/* ---- Memory ---- */

static int take(block *b, size_t size) {
    const size_t whole = (size + GUARD - 1) / GUARD * GUARD;
    if (size > sizeof arena || block_count == BLOCKS_MAX ||
        sizeof arena - taken < whole + 2 * GUARD) {
        wrong = "needs a larger arena";
        return 0;
    }
    memset(arena + taken, GUARD_BYTE, whole + 2 * GUARD);
    b->bytes = arena + taken + GUARD;
    b->size = size;
    taken += whole + GUARD; /* the guard behind is the one before the next */
    blocks[block_count++] = *b;
    return 1;
}

static void check_guards(void) {
    for (uint32_t i = 0; i < block_count; i++) {
        const unsigned char *behind = blocks[i].bytes + blocks[i].size;
        for (const unsigned char *g = blocks[i].bytes - GUARD; g < blocks[i].bytes; g++)
            if (*g != GUARD_BYTE)
                wrong = "wrote before its memory";
        for (int k = 0; k < GUARD; k++)
            if (behind[k] != GUARD_BYTE)
                wrong = "wrote behind its memory";
    }
}

/* Memory for a kernel to write to; what it finds there are NaNs. Never NULL: after a failure, the
 * start of the arena. */
static void *space(size_t size) {
    block b = {arena, 0};
    if (wrong == NULL && take(&b, size))
        memset(b.bytes, 0xFF, size);
    return b.bytes;
}

static size_t product(const int32_t *dims, int count) {
    size_t size = 1;
    for (int i = 0; i < count; i++)
        size *= (size_t)dims[i];
    return size;
}

/* ---- What a kernel finds in its case ---- */

static int32_t number(void) {
    if (next_number == number_count) {
        wrong = "has too few numbers";
        return 1;
    }
    return numbers[next_number++];
}

static float fraction(void) {
    const int32_t bits = number();
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static block next(void) {
    if (next_array == array_count) {
        wrong = "has too few arrays";
        return (block){arena, 0};
    }
    return arrays[next_array++];
}

static const void *array(void) {
    return next().bytes;
}

/* A copy of the next array, for a kernel that adds to it. */
static block changed(void) {
    block b = next();
    if (b.bytes != NULL) {
        const unsigned char *from = b.bytes;
        b.bytes = space(b.size);
        if (wrong == NULL)
            memcpy(b.bytes, from, b.size);
    }
    return b;
}

static void result(const void *bytes, size_t size) {
    if (wrong == NULL)
        results = seam_crc32(results, bytes, size);
}

static void result_block(block b) {
    if (b.bytes != NULL)
        result(b.bytes, b.size);
}

/* The fields of seam_window in their order; all are int32. */
static seam_window window(void) {
    seam_window p;
    int32_t fields[sizeof p / sizeof(int32_t)];
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        fields[i] = number();
    memcpy(&p, fields, sizeof p);
    if (wrong == NULL && seam_window_check(&p) != SEAM_OK)
        wrong = "has a window that does not fit";
    return p;
}

static size_t outputs(const seam_window *p) {
    return product((const int32_t[]){p->batch, p->out_h, p->out_w, p->out_c}, 4);
}

/* scales, x_zero, y_zero, y_min, y_max; arrays multiplier, shift. */
static seam_q8_scaling scaling(void) {
    seam_q8_scaling how = {0};
    how.scales = number();
    how.x_zero = number();
    how.y_zero = number();
    how.y_min = number();
    how.y_max = number();
    how.multiplier = array();
    how.shift = array();
    return how;
}

/* ---- f32 kernels ---- */

typedef void forward(float *y, const float *x, const float *w, const float *b, const seam_window *p,
                     void *scratch);
typedef void backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                      const float *w, const seam_window *p, void *scratch);
typedef size_t scratch_size(const seam_window *p);

/* window; x, w, b or NULL: y. */
static void f32_forward(forward *kernel, scratch_size *bytes) {
    const seam_window p = window();
    const float *x = array(), *w = array(), *b = array();
    const size_t size = outputs(&p) * sizeof(float);
    float *y = space(size);
    void *scratch = space(bytes(&p));
    if (wrong == NULL)
        kernel(y, x, w, b, &p, scratch);
    result(y, size);
}

/* window; dx or NULL, dw, db or NULL, dy, x, w: dx, dw, db. */
static void f32_backward(backward *kernel, scratch_size *bytes) {
    const seam_window p = window();
    const block dx = changed(), dw = changed(), db = changed();
    const float *dy = array(), *x = array(), *w = array();
    void *scratch = space(bytes(&p));
    if (wrong == NULL)
        kernel((void *)dx.bytes, (void *)dw.bytes, (void *)db.bytes, dy, x, w, &p, scratch);
    result_block(dx);
    result_block(dw);
    result_block(db);
}

static void f32_conv2d(void) {
    f32_forward(seam_f32_conv2d, seam_f32_conv2d_scratch);
}

static void f32_conv2d_backward(void) {
    f32_backward(seam_f32_conv2d_backward, seam_f32_conv2d_scratch);
}

static void f32_depthwise(void) {
    f32_forward(seam_f32_depthwise, seam_f32_depthwise_scratch);
}

static void f32_depthwise_backward(void) {
    f32_backward(seam_f32_depthwise_backward, seam_f32_depthwise_scratch);
}

/* n, in, out; x, w, b or NULL: y. */
static void f32_dense(void) {
    const int32_t n = number(), in = number(), out = number();
    const float *x = array(), *w = array(), *b = array();
    const size_t size = (size_t)n * (size_t)out * sizeof(float);
    float *y = space(size);
    void *scratch = space(seam_f32_dense_scratch(n, in, out));
    if (wrong == NULL)
        seam_f32_dense(y, x, w, b, n, in, out, scratch);
    result(y, size);
}

/* n, in, out; dx or NULL, dw, db or NULL, dy, x, w: dx, dw, db. */
static void f32_dense_backward(void) {
    const int32_t n = number(), in = number(), out = number();
    const block dx = changed(), dw = changed(), db = changed();
    const float *dy = array(), *x = array(), *w = array();
    void *scratch = space(seam_f32_dense_scratch(n, in, out));
    if (wrong == NULL)
        seam_f32_dense_backward((void *)dx.bytes, (void *)dw.bytes, (void *)db.bytes, dy, x, w, n,
                                in, out, scratch);
    result_block(dx);
    result_block(dw);
    result_block(db);
}

/* window; x: y. */
static void f32_pool(void (*kernel)(float *y, const float *x, const seam_window *p)) {
    const seam_window p = window();
    const float *x = array();
    const size_t size = outputs(&p) * sizeof(float);
    float *y = space(size);
    if (wrong == NULL)
        kernel(y, x, &p);
    result(y, size);
}

static void f32_max_pool2d(void) {
    f32_pool(seam_f32_max_pool2d);
}

static void f32_average_pool2d(void) {
    f32_pool(seam_f32_average_pool2d);
}

/* window; dx, dy, x: dx. */
static void f32_max_pool2d_backward(void) {
    const seam_window p = window();
    const block dx = changed();
    const float *dy = array(), *x = array();
    if (wrong == NULL)
        seam_f32_max_pool2d_backward((void *)dx.bytes, dy, x, &p);
    result_block(dx);
}

/* window; dx, dy: dx. */
static void f32_average_pool2d_backward(void) {
    const seam_window p = window();
    const block dx = changed();
    const float *dy = array();
    if (wrong == NULL)
        seam_f32_average_pool2d_backward((void *)dx.bytes, dy, &p);
    result_block(dx);
}

/* ceiling; x: y. */
static void f32_relu(void) {
    const float ceiling = fraction();
    const block y = changed();
    if (wrong == NULL)
        seam_f32_relu((void *)y.bytes, (void *)y.bytes, ceiling, y.size / sizeof(float));
    result_block(y);
}

/* ceiling; dx, dy, y: dx. */
static void f32_relu_backward(void) {
    const float ceiling = fraction();
    const block dx = changed();
    const float *dy = array(), *y = array();
    if (wrong == NULL)
        seam_f32_relu_backward((void *)dx.bytes, dy, y, ceiling, dx.size / sizeof(float));
    result_block(dx);
}

/* a, b: a + b. */
static void f32_add(void) {
    const block a = next();
    const float *b = array();
    float *y = space(a.size);
    if (wrong == NULL)
        seam_f32_add(y, (const void *)a.bytes, b, a.size / sizeof(float));
    result(y, a.size);
}

/* dx, dy: dx. */
static void f32_accumulate(void) {
    const block dx = changed();
    const float *dy = array();
    if (wrong == NULL)
        seam_f32_accumulate((void *)dx.bytes, dy, dx.size / sizeof(float));
    result_block(dx);
}

/* n, pixels, channels, groups, epsilon; x, gamma, beta: y, saved. */
static void f32_group_norm(void) {
    const int32_t n = number(), pixels = number(), channels = number(), groups = number();
    const float epsilon = fraction();
    const block x = next();
    const float *gamma = array(), *beta = array();
    const size_t size = (size_t)n * (size_t)groups * 2 * sizeof(float);
    float *y = space(x.size), *saved = space(size);
    if (wrong == NULL)
        seam_f32_group_norm(y, saved, (const void *)x.bytes, gamma, beta, n, pixels, channels,
                            groups, epsilon);
    result(y, x.size);
    result(saved, size);
}

/* n, pixels, channels, groups; dx or NULL, dgamma, dbeta, dy, x, saved, gamma: dx, dgamma, dbeta.
 */
static void f32_group_norm_backward(void) {
    const int32_t n = number(), pixels = number(), channels = number(), groups = number();
    const block dx = changed(), dgamma = changed(), dbeta = changed();
    const float *dy = array(), *x = array(), *saved = array(), *gamma = array();
    if (wrong == NULL)
        seam_f32_group_norm_backward((void *)dx.bytes, (void *)dgamma.bytes, (void *)dbeta.bytes,
                                     dy, x, saved, gamma, n, pixels, channels, groups);
    result_block(dx);
    result_block(dgamma);
    result_block(dbeta);
}

/* n, classes, scale; logits, labels: loss, dlogits. */
static void f32_softmax_cross_entropy(void) {
    const int32_t n = number(), classes = number();
    const float scale = fraction();
    const block logits = next();
    const int32_t *labels = array();
    const size_t size = (size_t)n * sizeof(float);
    float *loss = space(size), *dlogits = space(logits.size);
    if (wrong == NULL)
        seam_f32_softmax_cross_entropy(loss, dlogits, (const void *)logits.bytes, labels, n,
                                       classes, scale);
    result(loss, size);
    result(dlogits, logits.size);
}

/* rate, momentum, decay; w, v, dw: w, v. */
static void f32_sgd(void) {
    const float rate = fraction(), momentum = fraction(), decay = fraction();
    const block w = changed(), v = changed();
    const float *dw = array();
    if (wrong == NULL)
        seam_f32_sgd((void *)w.bytes, (void *)v.bytes, dw, rate, momentum, decay,
                     w.size / sizeof(float));
    result_block(w);
    result_block(v);
}

/* ---- q8 kernels ---- */

/* groups, window, scaling; x, w, bias or NULL: y, with packed weights and without. */
static void q8_conv2d(void) {
    const int32_t groups = number();
    const seam_window p = window();
    const int8_t *x = array(), *w = array();
    const int32_t *bias = array();
    const seam_q8_scaling how = scaling();
    const size_t size = outputs(&p), packed_size = seam_q8_conv2d_packed_size(&p, groups);
    int8_t *y = space(size), *plain = space(size);
    void *packed = space(packed_size), *scratch = space(seam_q8_conv2d_scratch(&p, groups));
    if (wrong == NULL) {
        seam_q8_conv2d(plain, x, w, bias, &how, &p, groups, NULL, scratch);
        if (packed_size > 0)
            seam_q8_conv2d_pack(packed, w, &p, groups);
        seam_q8_conv2d(y, x, w, bias, &how, &p, groups, packed_size > 0 ? packed : NULL, scratch);
        if (memcmp(y, plain, size) != 0)
            wrong = "differs with packed weights";
    }
    result(y, size);
}

/* window, scaling; x, w, bias or NULL: y. */
static void q8_depthwise(void) {
    const seam_window p = window();
    const int8_t *x = array(), *w = array();
    const int32_t *bias = array();
    const seam_q8_scaling how = scaling();
    int8_t *y = space(outputs(&p));
    if (wrong == NULL)
        seam_q8_depthwise(y, x, w, bias, &how, &p);
    result(y, outputs(&p));
}

/* window, y_min, y_max; x: y. */
static void q8_pool(void (*kernel)(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                                   int32_t y_max)) {
    const seam_window p = window();
    const int32_t y_min = number(), y_max = number();
    const int8_t *x = array();
    int8_t *y = space(outputs(&p));
    if (wrong == NULL)
        kernel(y, x, &p, y_min, y_max);
    result(y, outputs(&p));
}

static void q8_max_pool2d(void) {
    q8_pool(seam_q8_max_pool2d);
}

static void q8_average_pool2d(void) {
    q8_pool(seam_q8_average_pool2d);
}

/* The fields of seam_q8_sum in their order; a, b: y. */
static void q8_add(void) {
    seam_q8_sum how;
    int32_t fields[sizeof how / sizeof(int32_t)];
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        fields[i] = number();
    memcpy(&how, fields, sizeof how);
    const block a = next();
    const int8_t *b = array();
    int8_t *y = space(a.size);
    if (wrong == NULL)
        seam_q8_add(y, (const void *)a.bytes, b, &how, a.size);
    result(y, a.size);
}

/* window, zero; x: y. */
static void q8_pad(void) {
    const seam_window p = window();
    const int8_t zero = (int8_t)number();
    const int8_t *x = array();
    int8_t *y = space(outputs(&p));
    if (wrong == NULL)
        seam_q8_pad(y, x, &p, zero);
    result(y, outputs(&p));
}

/* rows, classes, multiplier, shift; x: y. */
static void q8_softmax(void) {
    const int32_t rows = number(), classes = number(), multiplier = number(), shift = number();
    const block x = next();
    int8_t *y = space(x.size);
    if (wrong == NULL)
        seam_q8_softmax(y, (const void *)x.bytes, (size_t)rows, classes, multiplier, shift);
    result(y, x.size);
}

/* scale, zero, half; x: q. */
static void q8_quantise(void) {
    const float scale = fraction();
    const int32_t zero = number();
    const seam_half half = (seam_half)number();
    const block x = next();
    const size_t count = x.size / sizeof(float);
    int8_t *q = space(count);
    if (wrong == NULL &&
        seam_q8_quantise(q, (const void *)x.bytes, scale, zero, half, count) != SEAM_OK)
        wrong = "was refused";
    result(q, count);
}

/* scale, zero; q: x. */
static void q8_dequantise(void) {
    const float scale = fraction();
    const int32_t zero = number();
    const block q = next();
    float *x = space(q.size * sizeof(float));
    if (wrong == NULL)
        seam_q8_dequantise(x, (const void *)q.bytes, scale, zero, q.size);
    result(x, q.size * sizeof(float));
}

/* scaling (its two arrays first); x: y. */
static void q8_requantise(void) {
    const seam_q8_scaling how = scaling();
    const block x = next();
    int8_t *y = space(x.size);
    if (wrong == NULL)
        seam_q8_requantise(y, (const void *)x.bytes, &how, x.size);
    result(y, x.size);
}

/* ---- q8 training ---- */

/* seed, stream, mode. */
static seam_q8_noise noise_of(void) {
    const int32_t seed = number(), stream = number();
    return (seam_q8_noise){(uint32_t)seed, (uint32_t)stream, number()};
}

/* y_min, y_max; dy, y: dy. */
static void q8_mask(void) {
    const int32_t y_min = number(), y_max = number();
    const block dy = changed();
    const int8_t *y = array();
    if (wrong == NULL)
        seam_q8_mask((void *)dy.bytes, y, y_min, y_max, dy.size);
    result_block(dy);
}

/* channels, noise; dy, ratios: dy weighed. */
static void q8_weigh(void) {
    const int32_t channels = number();
    const seam_q8_noise noise = noise_of();
    const block dy = next();
    const uint16_t *ratios = array();
    int8_t *out = space(dy.size);
    if (wrong == NULL)
        seam_q8_weigh(out, (const void *)dy.bytes, ratios, channels, dy.size / (size_t)channels, 0,
                      &noise);
    result(out, dy.size);
}

/* groups, window; dy, w: sums. Two pieces must be the whole. */
static void q8_conv2d_inputs(void) {
    const int32_t groups = number();
    const seam_window p = window();
    const int8_t *dy = array(), *w = array();
    const int32_t rows = p.batch * p.in_h, half = rows / 2;
    const size_t row = (size_t)p.in_w * (size_t)p.in_c, size = (size_t)rows * row * 4;
    int32_t *sums = space(size);
    void *scratch = space(seam_q8_conv2d_input_scratch(&p, groups));
    if (wrong == NULL && half > 0)
        seam_q8_conv2d_input_sums(sums, dy, w, &p, groups, 0, half, scratch);
    if (wrong == NULL)
        seam_q8_conv2d_input_sums(sums + (size_t)half * row, dy, w, &p, groups, half, rows - half,
                                  scratch);
    result(sums, size);
}

/* groups, x_zero, window; dy, x: sums. */
static void q8_conv2d_weights(void) {
    const int32_t groups = number(), x_zero = number();
    const seam_window p = window();
    const int8_t *dy = array(), *x = array();
    const int32_t each = p.out_c / groups;
    const size_t terms = product((const int32_t[]){p.kernel_h, p.kernel_w, p.in_c / groups}, 3);
    const size_t size = terms * (size_t)p.out_c * 4;
    int32_t *sums = space(size);
    void *scratch = space(seam_q8_conv2d_weight_scratch(&p, groups, each));
    for (int32_t c = 0; wrong == NULL && c < p.out_c; c += each)
        seam_q8_conv2d_weight_sums(sums + (size_t)c * terms, dy, x, x_zero, &p, groups, c, each,
                                   scratch);
    result(sums, size);
}

/* window; dy, w: sums. */
static void q8_depthwise_inputs(void) {
    const seam_window p = window();
    const int8_t *dy = array(), *w = array();
    const size_t size = product((const int32_t[]){p.batch, p.in_h, p.in_w, p.in_c}, 4) * 4;
    int32_t *sums = space(size);
    if (wrong == NULL)
        seam_q8_depthwise_input_sums(sums, dy, w, &p, 0, p.batch * p.in_h);
    result(sums, size);
}

/* x_zero, window; dy, x: sums. */
static void q8_depthwise_weights(void) {
    const int32_t x_zero = number();
    const seam_window p = window();
    const int8_t *dy = array(), *x = array();
    const size_t size = product((const int32_t[]){p.kernel_h, p.kernel_w, p.out_c}, 3) * 4;
    int32_t *sums = space(size);
    if (wrong == NULL)
        seam_q8_depthwise_weight_sums(sums, dy, x, x_zero, &p, 0, p.out_c);
    result(sums, size);
}

/* channels; dy: sums. */
static void q8_bias_sums(void) {
    const int32_t channels = number();
    const block dy = next();
    int32_t *sums = space((size_t)channels * 4);
    if (wrong == NULL)
        seam_q8_bias_sums(sums, (const void *)dy.bytes, channels, dy.size / (size_t)channels);
    result(sums, (size_t)channels * 4);
}

/* multiplier, noise; sums: g, and the bits they lost. */
static void q8_settle(void) {
    const int32_t multiplier = number();
    const seam_q8_noise noise = noise_of();
    const block sums = next();
    const size_t count = sums.size / 4;
    const int32_t *from = (const void *)sums.bytes;
    int8_t *g = space(count);
    int32_t bits = 0;
    if (wrong == NULL) {
        bits = seam_q8_settle_bits(seam_q8_largest(from, count), multiplier);
        seam_q8_settle(g, from, multiplier, bits, 0, count, &noise);
    }
    result(g, count);
    result(&bits, sizeof bits);
}

/* depthwise, channels, v_exponent, dw_exponent, rate, momentum, decay, noise; w, v or NULL, dw,
 * steps: w, v, and the new exponent. */
static void q8_update(void) {
    const int32_t depthwise = number(), channels = number(), v_exponent = number();
    seam_q8_rates rates = {.dw_exponent = number()};
    rates.rate = fraction();
    rates.momentum = fraction();
    rates.decay = fraction();
    const seam_q8_noise noise = noise_of();
    const block w = changed(), v = changed();
    const int32_t *dw = array();
    rates.steps = array();
    const int32_t terms = (int32_t)(w.size / (size_t)channels);
    const seam_q8_order order = {channels, terms, depthwise ? 1 : terms, depthwise ? channels : 1};
    int32_t exponent = 0;
    if (wrong == NULL) {
        seam_q8_bound bound = {0};
        int moves = 0;
        int8_t *weights = (void *)w.bytes, *velocity = (void *)v.bytes;
        seam_q8_bound_take(&bound, dw, &order, 0, rates.steps);
        exponent = seam_q8_velocity_exponent(&moves, &bound, weights, velocity, v_exponent, w.size,
                                             &rates);
        if (moves)
            seam_q8_update(weights, velocity, dw, &order, &order, 0, &bound, v_exponent, exponent,
                           &rates, &noise);
    }
    result_block(w);
    result_block(v);
    result(&exponent, sizeof exponent);
}

/* depthwise, channels, dw_exponent, rate, momentum, decay, noise; w, v, dw, steps: w and v. */
static void q8_update_float(void) {
    const int32_t depthwise = number(), channels = number();
    seam_q8_rates rates = {.dw_exponent = number()};
    rates.rate = fraction();
    rates.momentum = fraction();
    rates.decay = fraction();
    const seam_q8_noise noise = noise_of();
    const block w = changed(), v = changed();
    const int32_t *dw = array();
    rates.steps = array();
    const int32_t terms = (int32_t)(w.size / (size_t)channels);
    const seam_q8_order order = {channels, terms, depthwise ? 1 : terms, depthwise ? channels : 1};
    if (wrong == NULL)
        seam_q8_update_float((void *)w.bytes, (void *)v.bytes, dw, &order, &order, 0, &rates,
                             &noise);
    result_block(w);
    result_block(v);
}

/* ---- Parcels and random bits ---- */

/* codec, rounding, seed, shape ...; x: the parcel, and the values in it. */
static void parcel(void) {
    const int32_t codec = number(), rounding = number(), seed = number();
    uint32_t shape[SEAM_PARCEL_DIMS_MAX], dims = 0;
    while (next_number < number_count && dims < SEAM_PARCEL_DIMS_MAX)
        shape[dims++] = (uint32_t)number();
    const block x = next();
    const size_t count = x.size / sizeof(float), size = seam_parcel_size(codec, dims, shape);
    uint8_t *bytes = space(size);
    float *back = space(x.size);
    seam_parcel found;
    if (wrong == NULL && (seam_parcel_pack(bytes, size, (const void *)x.bytes, codec, rounding,
                                           (uint32_t)seed, dims, shape) != (int64_t)size ||
                          seam_parcel_parse(&found, bytes, size) != SEAM_OK ||
                          seam_parcel_unpack(back, count, &found) != SEAM_OK))
        wrong = "was refused";
    result(bytes, size);
    result(back, x.size);
}

/* seed, stream, first, count: the bits. */
static void random_bits(void) {
    const int32_t seed = number(), stream = number(), first = number();
    const size_t count = (size_t)number();
    uint32_t *bits = space(count * sizeof *bits);
    if (wrong == NULL)
        seam_random_fill(bits, (uint32_t)seed, (uint32_t)stream, (uint32_t)first, count);
    result(bits, count * sizeof *bits);
}

static const struct {
    const char *name;
    void (*run)(void);
} kernels[] = {
    {"f32_conv2d", f32_conv2d},
    {"f32_conv2d_backward", f32_conv2d_backward},
    {"f32_depthwise", f32_depthwise},
    {"f32_depthwise_backward", f32_depthwise_backward},
    {"f32_dense", f32_dense},
    {"f32_dense_backward", f32_dense_backward},
    {"f32_max_pool2d", f32_max_pool2d},
    {"f32_max_pool2d_backward", f32_max_pool2d_backward},
    {"f32_average_pool2d", f32_average_pool2d},
    {"f32_average_pool2d_backward", f32_average_pool2d_backward},
    {"f32_relu", f32_relu},
    {"f32_relu_backward", f32_relu_backward},
    {"f32_add", f32_add},
    {"f32_accumulate", f32_accumulate},
    {"f32_group_norm", f32_group_norm},
    {"f32_group_norm_backward", f32_group_norm_backward},
    {"f32_softmax_cross_entropy", f32_softmax_cross_entropy},
    {"f32_sgd", f32_sgd},
    {"q8_conv2d", q8_conv2d},
    {"q8_depthwise", q8_depthwise},
    {"q8_max_pool2d", q8_max_pool2d},
    {"q8_average_pool2d", q8_average_pool2d},
    {"q8_add", q8_add},
    {"q8_pad", q8_pad},
    {"q8_softmax", q8_softmax},
    {"q8_quantise", q8_quantise},
    {"q8_dequantise", q8_dequantise},
    {"q8_requantise", q8_requantise},
    {"q8_mask", q8_mask},
    {"q8_weigh", q8_weigh},
    {"q8_conv2d_inputs", q8_conv2d_inputs},
    {"q8_conv2d_weights", q8_conv2d_weights},
    {"q8_depthwise_inputs", q8_depthwise_inputs},
    {"q8_depthwise_weights", q8_depthwise_weights},
    {"q8_bias_sums", q8_bias_sums},
    {"q8_settle", q8_settle},
    {"q8_update", q8_update},
    {"q8_update_float", q8_update_float},
    {"parcel", parcel},
    {"random", random_bits},
};

/* ---- The file ---- */

static uint32_t read_word(void) {
    uint32_t word = 0;
    if (wrong == NULL && !conformance_read(&word, sizeof word))
        wrong = "ends early";
    return word;
}

static void read_array(block *b) {
    b->size = read_word();
    b->bytes = NULL;
    const size_t whole = (b->size + 3) / 4 * 4;
    if (wrong != NULL || b->size == 0 || !take(b, b->size))
        return;
    unsigned char end[4];
    if ((b->size >= 4 && !conformance_read(b->bytes, whole - 4)) || !conformance_read(end, 4))
        wrong = "ends early";
    memcpy(b->bytes + whole - 4, end, b->size - (whole - 4));
}

static void read_case(void) {
    taken = block_count = 0;
    if (!conformance_read(name, NAME_BYTES))
        wrong = "ends early";
    number_count = read_word();
    if (number_count > NUMBERS_MAX)
        wrong = "has too many numbers";
    for (uint32_t i = 0; wrong == NULL && i < number_count; i++)
        numbers[i] = (int32_t)read_word();
    array_count = read_word();
    if (array_count > ARRAYS_MAX)
        wrong = "has too many arrays";
    for (uint32_t i = 0; wrong == NULL && i < array_count; i++)
        read_array(&arrays[i]);
}

/* ---- The report ---- */

static void print_number(uint32_t value, uint32_t base, int digits) {
    char text[12];
    char *at = text + sizeof text - 1;
    *at = '\0';
    while (value > 0 || digits > 0) {
        *--at = "0123456789abcdef"[value % base];
        value /= base;
        digits--;
    }
    conformance_print(at);
}

static void report(uint32_t index, const char *variant) {
    print_number(index, 10, 1);
    conformance_print(" ");
    conformance_print(name);
    conformance_print(" ");
    conformance_print(variant);
    conformance_print(" ");
    if (wrong == NULL)
        print_number(results, 16, 8);
    else
        conformance_print(wrong);
    conformance_print("\n");
}

static uint32_t inputs_crc(void) {
    uint32_t crc = 0;
    for (uint32_t i = 0; i < array_count; i++)
        if (arrays[i].bytes != NULL)
            crc = seam_crc32(crc, arrays[i].bytes, arrays[i].size);
    return crc;
}

/* The case that was read, with the variant in use. */
static void run_case(size_t kernel) {
    const size_t inputs = taken;
    const uint32_t input_blocks = block_count, crc = inputs_crc();
    next_number = next_array = results = 0;
    kernels[kernel].run();
    if (wrong == NULL && (next_number != number_count || next_array != array_count))
        wrong = "has too many numbers or arrays";
    check_guards();
    if (inputs_crc() != crc)
        wrong = "wrote to its inputs";
    taken = inputs;
    block_count = input_blocks;
}

static int run_variants(uint32_t index, const char *only) {
    size_t kernel = 0;
    int failed = 0;
    while (kernel < sizeof kernels / sizeof kernels[0] && strcmp(kernels[kernel].name, name) != 0)
        kernel++;
    if (kernel == sizeof kernels / sizeof kernels[0]) {
        wrong = "is not known here";
        report(index, "none");
        return 1;
    }
    const char *variant;
    for (int i = 0; (variant = seam_kernels_name(i)) != NULL; i++) {
        if ((only != NULL && strcmp(only, variant) != 0) || seam_kernels_choose(variant) != SEAM_OK)
            continue;
        wrong = NULL;
        run_case(kernel);
        report(index, seam_kernels_variant());
        failed |= wrong != NULL;
    }
    return failed;
}

int conformance_run(const char *only) {
    char magic[8];
    int failed = 0;
    wrong = NULL;
    if (!conformance_read(magic, sizeof magic) || memcmp(magic, "SEAMCASE", sizeof magic) != 0) {
        conformance_print("error: expected a file that begins with SEAMCASE\n");
        return 1;
    }
    const uint32_t count = read_word();
    for (uint32_t i = 0; i < count; i++) {
        read_case();
        if (wrong != NULL) { /* nothing behind it can be found */
            report(i, "none");
            return 1;
        }
        failed |= run_variants(i, only);
        wrong = NULL;
    }
    return failed;
}

#ifndef CONFORMANCE_BARE
#include <stdio.h>

static FILE *file;

int conformance_read(void *to, size_t size) {
    return fread(to, 1, size, file) == size;
}

void conformance_print(const char *text) {
    fputs(text, stdout);
}

/* conformance FILE [VARIANT]; conformance alone: the variants that run here, the best one first. */
int main(int count, char **arguments) {
    if (count < 2) {
        if (seam_kernels_choose(NULL) != SEAM_OK)
            return 1;
        puts(seam_kernels_variant());
        const char *best = seam_kernels_variant(), *variant;
        for (int i = 0; (variant = seam_kernels_name(i)) != NULL; i++)
            if (strcmp(variant, best) != 0 && seam_kernels_choose(variant) == SEAM_OK)
                puts(variant);
        return 0;
    }
    if (count > 2 && seam_kernels_choose(arguments[2]) != SEAM_OK) {
        fprintf(stderr, "error: the variant %s does not run here\n", arguments[2]);
        return 2;
    }
    file = fopen(arguments[1], "rb");
    if (file == NULL) {
        fprintf(stderr, "error: cannot read %s\n", arguments[1]);
        return 2;
    }
    const int failed = conformance_run(count > 2 ? arguments[2] : NULL);
    fclose(file);
    return failed;
}
#endif
