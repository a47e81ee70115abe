/* The micro-kernels, written once. A variant defines LANES, vec and the v_ functions, TILE_1..3,
 * OUTER_1..3, DEPTHWISE_TILE, VARIANT and its parts, and includes this file. NARROW, if defined,
 * is a variant of half as many lanes that this machine has too (and the same TILE_1): masks are
 * slower than it. Loops over constants unroll, so that the sums stay in registers; every sum keeps
 * its order. */
#include "../round.h"
#include "../seam_math.h"
#include "arch.h"
#define FIXED static inline __attribute__((always_inline))

static inline int32_t lesser(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* P pixels x V vectors of channels. y and a have P entries. */
FIXED void tile_fixed(const int P, const int V, float *const *y, const float *const *a,
                      const seam_job *job) {
    const int32_t last = job->channels - (V - 1) * LANES; /* channels in the last vector */
    vec acc[SEAM_TILE_MAX][3];
    EACH (p, P) {
        const float *from = job->start != NULL ? job->start : y[p];
        EACH (v, V)
            acc[p][v] = v < V - 1 ? v_load(from + v * LANES) : v_load_n(from + v * LANES, last);
    }
    const ptrdiff_t w_term = job->w_term;
    for (int32_t r = 0; r < job->rows; r++)
        for (int32_t c = 0; c < job->cols; c++) {
            const float *w = job->w + r * job->w_row + c * job->w_col;
            const ptrdiff_t begin = r * job->a_row + c * job->a_col, end = begin + job->run;
            for (ptrdiff_t k = begin; k < end; k++) {
                vec weight[3];
                EACH (v, V)
                    weight[v] = v_load(w + v * LANES);
                w += w_term;
                EACH (p, P) {
                    const vec value = v_set(a[p][k]);
                    EACH (v, V)
                        acc[p][v] = v_fma(value, weight[v], acc[p][v]);
                }
            }
        }
    EACH (p, P) {
        EACH (v, V - 1)
            v_store(y[p] + v * LANES, acc[p][v]);
        v_store_n(y[p] + (V - 1) * LANES, acc[p][V - 1], last);
    }
}

/* Few pixels get a small tile of their own; in between, the last pixel is done several times over:
 * all of a tile is read before it is written, so that changes nothing. */
FIXED void tile_sized(const int P, const int V, float *const *y, const float *const *a,
                      int32_t pixels, const seam_job *job) {
    if (pixels == P) {
        tile_fixed(P, V, y, a, job);
        return;
    }
    if (pixels == 1) {
        tile_fixed(1, V, y, a, job);
        return;
    }
    float *ys[SEAM_TILE_MAX];
    const float *as[SEAM_TILE_MAX];
    for (int p = 0; p < P; p++) {
        ys[p] = y[lesser(p, pixels - 1)];
        as[p] = a[lesser(p, pixels - 1)];
    }
    if (pixels <= P / 2)
        tile_fixed(P / 2, V, ys, as, job);
    else
        tile_fixed(P, V, ys, as, job);
}

static void tile(float *const *y, const float *const *a, int32_t pixels, const seam_job *job) {
#ifdef NARROW
    if (job->channels <= LANES / 2) {
        NARROW.tile(y, a, pixels, job);
        return;
    }
#endif
    if (job->channels <= LANES)
        tile_sized(TILE_1, 1, y, a, pixels, job);
    else if (job->channels <= 2 * LANES)
        tile_sized(TILE_2, 2, y, a, pixels, job);
    else
        tile_sized(TILE_3, 3, y, a, pixels, job);
}

static void pack(float *packed, const float *w, ptrdiff_t step, ptrdiff_t w_step, int32_t used,
                 int32_t terms) {
    int32_t k = 0;
    for (; k + LANES <= terms; k += LANES) {
        vec rows[LANES];
        EACH (l, LANES)
            rows[l] = l < used ? v_load(w + l * w_step + k) : v_set(0.0f);
        v_transpose(rows);
        EACH (l, LANES)
            v_store(packed + (k + l) * step, rows[l]);
    }
    for (; k < terms; k++)
        for (int32_t l = 0; l < LANES; l++)
            packed[k * step + l] = l < used ? w[l * w_step + k] : 0.0f;
}

/* c[p][l] as vectors, however it lies. */
FIXED vec outer_load(const float *c, ptrdiff_t step, int32_t n) {
    if (step == 1)
        return v_load_n(c, n);
    float values[LANES] = {0};
    for (int32_t l = 0; l < n; l++)
        values[l] = c[l * step];
    return v_load(values);
}

FIXED void outer_store(float *c, ptrdiff_t step, int32_t n, vec value) {
    if (step == 1) {
        v_store_n(c, value, n);
        return;
    }
    float values[LANES];
    v_store(values, value);
    for (int32_t l = 0; l < n; l++)
        c[l * step] = values[l];
}

/* P scalars x V vectors; whole: the last vector is full. */
FIXED void outer_fixed(const int P, const int V, const int whole, float *c, const float *a,
                       const float *b, const seam_outer *shape, const seam_box *box) {
    const int32_t last = shape->channels - (V - 1) * LANES;
    vec acc[SEAM_TILE_MAX][3];
    EACH (p, P)
        EACH (v, V)
            acc[p][v] = outer_load(c + p * shape->c_p + v * LANES * shape->c_l, shape->c_l,
                                   v < V - 1 ? LANES : last);
    const ptrdiff_t a_step = box->a[2], b_step = box->b[2];
    for (int32_t n = 0; n < box->count[0]; n++)
        for (int32_t i = 0; i < box->count[1]; i++) {
            const float *an = a + n * box->a[0] + i * box->a[1];
            const float *bn = b + n * box->b[0] + i * box->b[1];
            for (int32_t j = 0; j < box->count[2]; j++, an += a_step, bn += b_step) {
                vec row[3];
                EACH (v, V)
                    row[v] = v < V - 1 || whole ? v_load(bn + v * LANES)
                                                : v_load_n(bn + v * LANES, last);
                EACH (p, P) {
                    const vec value = v_set(an[p]);
                    EACH (v, V)
                        acc[p][v] = v_fma(value, row[v], acc[p][v]);
                }
            }
        }
    EACH (p, P)
        EACH (v, V)
            outer_store(c + p * shape->c_p + v * LANES * shape->c_l, shape->c_l,
                        v < V - 1 ? LANES : last, acc[p][v]);
}

FIXED void outer_sized(const int P, const int V, float *c, const float *a, const float *b,
                       const seam_outer *shape, const seam_box *box) {
    if (shape->channels == V * LANES)
        outer_fixed(P, V, 1, c, a, b, shape, box);
    else
        outer_fixed(P, V, 0, c, a, b, shape, box);
}

FIXED void outer_vectors(const int most, const int V, float *c, const float *a, const float *b,
                         const seam_outer *shape, const seam_box *box) {
    for (int32_t left = shape->scalars; left > 0;) {
        const int32_t now = left >= most ? most : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (now == most)
            outer_sized(most, V, c, a, b, shape, box);
        else if (now == 4)
            outer_sized(4, V, c, a, b, shape, box);
        else if (now == 2)
            outer_sized(2, V, c, a, b, shape, box);
        else
            outer_sized(1, V, c, a, b, shape, box);
        left -= now;
        c += now * shape->c_p;
        a += now;
    }
}

static void outer(float *c, const float *a, const float *b, const seam_outer *shape,
                  const seam_box *box) {
#ifdef NARROW
    if (shape->channels <= LANES / 2) {
        NARROW.outer(c, a, b, shape, box);
        return;
    }
#endif
    if (shape->channels <= LANES)
        outer_vectors(OUTER_1, 1, c, a, b, shape, box);
    else if (shape->channels <= 2 * LANES)
        outer_vectors(OUTER_2, 2, c, a, b, shape, box);
    else
        outer_vectors(OUTER_3, 3, c, a, b, shape, box);
}

/* How the lanes of a depthwise operand lie: side by side, or each at its own offset. */
typedef struct {
    int32_t at[LANES];
    int32_t n; /* lanes in use */
    int packed;
} lanes_at;

static inline lanes_at lanes_place(int32_t step, int32_t share, int32_t n) {
    lanes_at where = {.n = n, .packed = step == 1 && share == 1};
    for (int32_t l = 0; l < LANES; l++)
        where.at[l] = l < n ? l * step / share : 0;
    return where;
}

FIXED vec lanes_load(const float *p, const lanes_at *where, const int whole) {
    if (whole)
        return v_load(p);
    if (where->packed)
        return v_load_n(p, where->n);
    float values[LANES];
    for (int32_t l = 0; l < LANES; l++)
        values[l] = p[where->at[l]];
    return v_load(values);
}

/* One vector of channels of P pixels; whole: all lanes of all operands in use and side by side. */
FIXED void depthwise_fixed(const int P, const int whole, float *const *y, const float *const *a,
                           const seam_job *job, const lanes_at *a_at, const lanes_at *w_at) {
    const int32_t n = whole ? LANES : job->channels;
    vec acc[SEAM_TILE_MAX];
    EACH (p, P)
        acc[p] = v_load_n(job->start != NULL ? job->start : y[p], n);
    for (int32_t r = 0; r < job->rows; r++)
        for (int32_t c = 0; c < job->cols; c++) {
            const float *w = job->w + r * job->w_row + c * job->w_col;
            const ptrdiff_t offset = r * job->a_row + c * job->a_col;
            for (int32_t j = 0; j < job->run; j++) {
                const vec weight = lanes_load(w + j, w_at, whole);
                EACH (p, P)
                    acc[p] = v_fma(lanes_load(a[p] + offset + j, a_at, whole), weight, acc[p]);
            }
        }
    EACH (p, P)
        v_store_n(y[p], acc[p], n);
}

FIXED void depthwise_sized(const int whole, float *const *y, const float *const *a, int32_t pixels,
                           const seam_job *job, const lanes_at *a_at, const lanes_at *w_at) {
    if (pixels == DEPTHWISE_TILE) {
        depthwise_fixed(DEPTHWISE_TILE, whole, y, a, job, a_at, w_at);
        return;
    }
    for (int32_t p = 0; p < pixels; p++)
        depthwise_fixed(1, whole, y + p, a + p, job, a_at, w_at);
}

static void depthwise(float *const *y, const float *const *a, int32_t pixels, const seam_job *job) {
    const lanes_at a_at = lanes_place(job->a_step, job->a_share, job->channels);
    const lanes_at w_at = lanes_place(job->w_step, 1, job->channels);
    if (a_at.packed && w_at.packed && job->channels == LANES)
        depthwise_sized(1, y, a, pixels, job, &a_at, &w_at);
    else
        depthwise_sized(0, y, a, pixels, job, &a_at, &w_at);
}

/* One vector of channels of a window of R x C taps; the weights stay in registers. */
FIXED void depthwise_window(const int R, const int C, const int whole, float *y, const float *a,
                            const float *start, const float *w, int32_t n, const seam_job *job,
                            const seam_box *box) {
    vec weight[SEAM_DEPTHWISE_TAPS][SEAM_DEPTHWISE_TAPS];
    EACH (r, R)
        EACH (c, C) {
            const float *tap = w + r * job->w_row + c * job->w_col;
            weight[r][c] = whole ? v_load(tap) : v_load_n(tap, n);
        }
    const vec first = start != NULL ? v_load_n(start, n) : v_set(0.0f);
    const ptrdiff_t a_row = job->a_row, a_col = job->a_col, a_step = box->a[2], y_step = box->b[2];
    for (int32_t b = 0; b < box->count[0]; b++)
        for (int32_t i = 0; i < box->count[1]; i++) {
            const float *from = a + b * box->a[0] + i * box->a[1];
            float *to = y + b * box->b[0] + i * box->b[1];
            for (int32_t j = 0; j < box->count[2]; j++, from += a_step, to += y_step) {
                vec acc = start != NULL ? first : whole ? v_load(to) : v_load_n(to, n);
                EACH (r, R)
                    EACH (c, C) {
                        const float *at = from + r * a_row + c * a_col;
                        acc = v_fma(whole ? v_load(at) : v_load_n(at, n), weight[r][c], acc);
                    }
                if (whole)
                    v_store(to, acc);
                else
                    v_store_n(to, acc, n);
            }
        }
}

FIXED void depthwise_channels(const int R, const int C, float *y, const float *a,
                              const seam_job *job, const seam_box *box) {
    for (int32_t c = 0; c < job->channels; c += LANES) {
        const int32_t n = lesser(LANES, job->channels - c);
        const float *start = job->start != NULL ? job->start + c : NULL;
        if (n == LANES)
            depthwise_window(R, C, 1, y + c, a + c, start, job->w + c, n, job, box);
        else
            depthwise_window(R, C, 0, y + c, a + c, start, job->w + c, n, job, box);
    }
}

static void depthwise_box(float *y, const float *a, const seam_job *job, const seam_box *box) {
#ifdef NARROW
    if (job->channels <= LANES / 2) {
        NARROW.depthwise_box(y, a, job, box);
        return;
    }
#endif
    switch (job->rows * 4 + job->cols) {
    case 5:
        depthwise_channels(1, 1, y, a, job, box);
        break;
    case 6:
        depthwise_channels(1, 2, y, a, job, box);
        break;
    case 7:
        depthwise_channels(1, 3, y, a, job, box);
        break;
    case 9:
        depthwise_channels(2, 1, y, a, job, box);
        break;
    case 10:
        depthwise_channels(2, 2, y, a, job, box);
        break;
    case 11:
        depthwise_channels(2, 3, y, a, job, box);
        break;
    case 13:
        depthwise_channels(3, 1, y, a, job, box);
        break;
    case 14:
        depthwise_channels(3, 2, y, a, job, box);
        break;
    case 15:
        depthwise_channels(3, 3, y, a, job, box);
        break;
    default: /* no tap is inside */
        depthwise_channels(0, 0, y, a, job, box);
        break;
    }
}

/* T taps x V vectors of channels, n in the last one. */
FIXED void taps_fixed(const int T, const int V, const int whole, float *dw, const float *x,
                      const float *dy, int32_t n, const seam_tap_sums *taps, const seam_box *box) {
    vec acc[SEAM_DEPTHWISE_TAPS][2];
    const ptrdiff_t x_tap = taps->x_tap, y_step = box->a[2], x_step = box->b[2];
    EACH (t, T)
        EACH (v, V)
            acc[t][v] = v_load_n(dw + t * taps->dw_tap + v * LANES, v < V - 1 ? LANES : n);
    for (int32_t b = 0; b < box->count[0]; b++)
        for (int32_t i = 0; i < box->count[1]; i++) {
            const float *yn = dy + b * box->a[0] + i * box->a[1];
            const float *xn = x + b * box->b[0] + i * box->b[1];
            for (int32_t j = 0; j < box->count[2]; j++, yn += y_step, xn += x_step)
                EACH (v, V) {
                    const int full = whole || v < V - 1;
                    const vec g = full ? v_load(yn + v * LANES) : v_load_n(yn + v * LANES, n);
                    EACH (t, T) {
                        const float *at = xn + t * x_tap + v * LANES;
                        acc[t][v] = v_fma(full ? v_load(at) : v_load_n(at, n), g, acc[t][v]);
                    }
                }
        }
    EACH (t, T)
        EACH (v, V)
            v_store_n(dw + t * taps->dw_tap + v * LANES, acc[t][v], v < V - 1 ? LANES : n);
}

FIXED void taps_vectors(const int T, float *dw, const float *x, const float *dy,
                        const seam_tap_sums *taps, const seam_box *box) {
    for (int32_t c = 0; c < taps->channels; c += 2 * LANES) {
        const int32_t n = lesser(2 * LANES, taps->channels - c);
        if (n == 2 * LANES)
            taps_fixed(T, 2, 1, dw + c, x + c, dy + c, LANES, taps, box);
        else if (n > LANES)
            taps_fixed(T, 2, 0, dw + c, x + c, dy + c, n - LANES, taps, box);
        else if (n == LANES)
            taps_fixed(T, 1, 1, dw + c, x + c, dy + c, n, taps, box);
        else
            taps_fixed(T, 1, 0, dw + c, x + c, dy + c, n, taps, box);
    }
}

static void depthwise_taps(float *dw, const float *x, const float *dy, const seam_tap_sums *taps,
                           const seam_box *box) {
#ifdef NARROW
    if (taps->channels <= LANES / 2) {
        NARROW.depthwise_taps(dw, x, dy, taps, box);
        return;
    }
#endif
    if (taps->taps == 1)
        taps_vectors(1, dw, x, dy, taps, box);
    else if (taps->taps == 2)
        taps_vectors(2, dw, x, dy, taps, box);
    else
        taps_vectors(3, dw, x, dy, taps, box);
}

FIXED void depthwise_outer_fixed(const int whole, float *dw, const float *x, const float *dy,
                                 const lanes_at *x_at, const lanes_at *y_at, const seam_box *box) {
    vec acc = v_load_n(dw, y_at->n);
    for (int32_t n = 0; n < box->count[0]; n++)
        for (int32_t i = 0; i < box->count[1]; i++) {
            const float *yn = dy + n * box->a[0] + i * box->a[1];
            const float *xn = x + n * box->b[0] + i * box->b[1];
            for (int32_t j = 0; j < box->count[2]; j++, yn += box->a[2], xn += box->b[2])
                acc = v_fma(lanes_load(xn, x_at, whole), lanes_load(yn, y_at, whole), acc);
        }
    v_store_n(dw, acc, y_at->n);
}

static void depthwise_outer(float *dw, const float *x, const float *dy, int32_t channels,
                            int32_t multiplier, const seam_box *box) {
    for (int32_t c = 0; c < channels; c += LANES) {
        const int32_t n = lesser(LANES, channels - c), phase = c % multiplier;
        lanes_at x_at = lanes_place(1, 1, n), y_at = x_at;
        if (multiplier > 1)
            x_at.packed = 0;
        for (int32_t l = 0; l < n; l++)
            x_at.at[l] = (phase + l) / multiplier;
        if (n == LANES && multiplier == 1)
            depthwise_outer_fixed(1, dw + c, x + c, dy + c, &x_at, &y_at, box);
        else
            depthwise_outer_fixed(0, dw + c, x + c / multiplier, dy + c, &x_at, &y_at, box);
    }
}

static void column_sum(float *db, const float *dy, size_t pixels, int32_t channels) {
    for (int32_t c = 0; c < channels; c += 2 * LANES) {
        const int32_t n = lesser(2 * LANES, channels - c);
        const int32_t first = lesser(n, LANES), second = n - first;
        vec low = v_load_n(db + c, first), high = v_load_n(db + c + first, second);
        const float *row = dy + c;
        for (size_t p = 0; p < pixels; p++, row += channels) {
            low = v_add(low, v_load_n(row, first));
            high = v_add(high, v_load_n(row + first, second));
        }
        v_store_n(db + c, low, first);
        v_store_n(db + c + first, high, second);
    }
}

static void sgd(float *restrict w, float *restrict v, const float *restrict dw, float rate,
                float momentum, float decay, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const float gradient = seam_fma(decay, w[i], dw[i]);
        v[i] = seam_fma(momentum, v[i], gradient);
        w[i] = seam_fma(-rate, v[i], w[i]);
    }
}

/* Nothing but multiply-adds, in registers: the most a core can do. */
static float peak(uint32_t rounds) {
    vec acc[SEAM_PEAK_VECTORS];
    EACH (p, SEAM_PEAK_VECTORS)
        acc[p] = v_set((float)p);
    const vec shrink = v_set(0.5f), one = v_set(1.0f);
    for (uint32_t r = 0; r < rounds; r++)
        EACH (p, SEAM_PEAK_VECTORS)
            acc[p] = v_fma(acc[p], shrink, one);
    vec sum = acc[0];
    EACH (p, SEAM_PEAK_VECTORS)
        sum = v_add(sum, acc[p]);
    float values[LANES];
    v_store(values, sum);
    return values[0];
}

#define TABLE(text, q8_kernels, train_kernels, codec_kernels) \
    {                                                         \
        .name = text,                                         \
        .lanes = LANES,                                       \
        .pixels = {TILE_1, TILE_2, TILE_3},                   \
        .scalars = {OUTER_1, OUTER_2, OUTER_3},               \
        .depthwise_pixels = DEPTHWISE_TILE,                   \
        .tile = tile,                                         \
        .depthwise = depthwise,                               \
        .depthwise_box = depthwise_box,                       \
        .depthwise_taps = depthwise_taps,                     \
        .pack = pack,                                         \
        .outer = outer,                                       \
        .depthwise_outer = depthwise_outer,                   \
        .column_sum = column_sum,                             \
        .sgd = sgd,                                           \
        .peak = peak,                                         \
        .q8 = &q8_kernels,                                    \
        .train = &train_kernels,                              \
        .codec = &codec_kernels,                              \
    }

#if defined(SEAM_FORWARD_F32) /* an exported front: nothing but what its layers call */
const seam_kernels VARIANT = {.name = VARIANT_NAME,
                              .lanes = LANES,
                              .pixels = {TILE_1, TILE_2, TILE_3},
                              .depthwise_pixels = DEPTHWISE_TILE,
                              .tile = tile,
                              .depthwise = depthwise,
                              .depthwise_box = depthwise_box,
                              .pack = pack};
#else
const seam_kernels VARIANT = TABLE(VARIANT_NAME, VARIANT_Q8, VARIANT_TRAIN, VARIANT_CODEC);
#endif
