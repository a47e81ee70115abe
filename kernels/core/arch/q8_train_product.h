/* The product of pairs in vectors, written once. A variant defines vec, lanes, LANES, ROWS, VECTORS
 * and the v_ functions; sums stay in registers over all terms. Where they lie in another way there,
 * it also defines SUMS, v_begin and v_end. */

#ifndef SUMS
#define SUMS vec
#define v_begin v_load
#define v_end v_store
#endif

#define FIXED static inline __attribute__((always_inline))

FIXED void tile(const int R, const int V, const int full, int32_t *c, const int32_t *a,
                const int32_t *b, const seam_q8_product *shape, int32_t cols) {
    SUMS sums[ROWS][VECTORS];
    const lanes last = lanes_of(cols - (V - 1) * LANES), all = lanes_of(LANES);
    EACH (r, R)
        EACH (v, V)
            sums[r][v] = v_begin(c + r * shape->c_row + v * LANES, v == V - 1 ? last : all);
    for (int32_t t = 0; t < shape->terms; t++) {
        vec terms[VECTORS];
        EACH (v, V)
            terms[v] =
                full ? v_load_all(b + v * LANES) : v_load(b + v * LANES, v == V - 1 ? last : all);
        EACH (r, R)
            EACH (v, V)
                sums[r][v] = v_add_products(sums[r][v], a[r * shape->a_row], terms[v]);
        a += shape->a_term;
        b += shape->b_term;
    }
    EACH (r, R)
        EACH (v, V)
            v_end(c + r * shape->c_row + v * LANES, sums[r][v], v == V - 1 ? last : all);
}

FIXED void column(const int V, const int full, int32_t *c, const int32_t *a, const int32_t *b,
                  const seam_q8_product *shape, int32_t cols) {
    int32_t row = 0;
    for (; row + ROWS <= shape->rows; row += ROWS)
        tile(ROWS, V, full, c + row * shape->c_row, a + row * shape->a_row, b, shape, cols);
    for (; row + 2 <= shape->rows; row += 2)
        tile(2, V, full, c + row * shape->c_row, a + row * shape->a_row, b, shape, cols);
    if (row < shape->rows)
        tile(1, V, full, c + row * shape->c_row, a + row * shape->a_row, b, shape, cols);
}

static void product(int32_t *c, const int32_t *a, const int32_t *b, const seam_q8_product *shape) {
    int32_t col = 0;
    for (; col + VECTORS * LANES <= shape->cols; col += VECTORS * LANES)
        column(VECTORS, 1, c + col, a, b + col, shape, VECTORS * LANES);
    const int32_t left = shape->cols - col;
    if (left > LANES)
        column(2, 0, c + col, a, b + col, shape, left);
    else if (left == LANES)
        column(1, 1, c + col, a, b + col, shape, left);
    else if (left > 0)
        column(1, 0, c + col, a, b + col, shape, left);
}
