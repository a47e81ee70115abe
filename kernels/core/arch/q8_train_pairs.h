/* Pairs of bytes in vectors, written once: rows of taps are shorter than the vectors of bytes that
 * compilers make of such a loop. A variant defines vec, LANES and the v_ functions, and includes
 * q8_train_loops.h for rows shorter than LANES. */

static inline void pair_lanes(int32_t *to, const int8_t *a, const int8_t *b, vec zero) {
    const vec first = v_and(v_sub(v_bytes(a), zero), v_all(0xFFFF));
    v_store_all(to, b == NULL ? first : v_xor(first, v_left(v_sub(v_bytes(b), zero), 16)));
}

static void pair_vectors(int32_t *to, const int8_t *a, const int8_t *b, int32_t zero,
                         int32_t count) {
    const vec all = v_all(zero);
    int32_t i = 0;
    if (count < LANES) {
        pairs(to, a, b, zero, count);
        return;
    }
    for (; i + LANES <= count; i += LANES)
        pair_lanes(to + i, a + i, b != NULL ? b + i : NULL, all);
    if (i < count) { /* the last ones again, as a whole vector */
        i = count - LANES;
        pair_lanes(to + i, a + i, b != NULL ? b + i : NULL, all);
    }
}
