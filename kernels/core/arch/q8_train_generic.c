/* The micro-kernels of int8 training in plain C. */
#include "generic_x86.h"

#include "q8_train_loops.h"

static void product(int32_t *c, const int32_t *a, const int32_t *b, const seam_q8_product *shape) {
    for (int32_t row = 0; row < shape->rows; row++, c += shape->c_row, a += shape->a_row)
        for (int32_t term = 0; term < shape->terms; term++) {
            const int32_t pair = a[term * shape->a_term];
            const int32_t low = (int16_t)(pair & 0xFFFF), high = pair >> 16;
            const int32_t *terms = b + term * shape->b_term;
            for (int32_t col = 0; col < shape->cols; col++)
                c[col] += low * (int16_t)(terms[col] & 0xFFFF) + high * (terms[col] >> 16);
        }
}

const seam_q8_train_kernels seam_q8_train_generic = {
    .product = product,
    .pairs = pairs,
    .tap_inputs = tap_inputs,
    .tap_weights = tap_weights,
    .weigh = weigh,
    .bias = bias,
    .peak = peak,
    .settle = settle,
    .update = update,
};
