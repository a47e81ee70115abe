/* The one include of the seamline core: status table, limits, versions, every prototype above the
 * byte line. */
#ifndef SEAM_H
#define SEAM_H

#include <stddef.h>
#include <stdint.h>

#define SEAM_WIRE_VERSION 1u       /* messages, plans, parcels */
#define SEAM_ARITHMETIC_VERSION 1u /* changes when any result bit may change */

/* Limits. Every length that comes from outside is compared with one of these before it is used. */
#define SEAM_MESSAGE_HEADER 24u
#define SEAM_MESSAGE_MAX (16u << 20) /* bytes, header included */
#define SEAM_DEVICE_ID_MAX 63u       /* bytes of UTF-8 */
#define SEAM_TEXT_MAX 512u           /* bytes of UTF-8 in an ERROR */
#define SEAM_PARCEL_DIMS_MAX 4u
#define SEAM_PARCEL_VALUES_MAX (4u << 20)
#define SEAM_PLAN_LAYERS_MAX 256u
#define SEAM_PLAN_TENSORS_MAX 257u
#define SEAM_DIM_MAX 65535
#define SEAM_BATCH_MAX 4096u

#if defined(__GNUC__)
#define SEAM_MUST_USE __attribute__((warn_unused_result))
#else
#define SEAM_MUST_USE
#endif

/* Status: 0 or negative. X(name, value, text): the text says what is wrong in one line. */
#define SEAM_STATUS_TABLE(X)                                                    \
    X(SEAM_OK, 0, "ok")                                                         \
    X(SEAM_E_ARGUMENT, -1, "an argument is out of range")                       \
    X(SEAM_E_SPACE, -2, "the buffer given is too small")                        \
    X(SEAM_E_SHORT, -3, "the bytes end before the header says they do")         \
    X(SEAM_E_MAGIC, -4, "these bytes do not start with a seamline header")      \
    X(SEAM_E_VERSION, -5, "the peer speaks another wire version")               \
    X(SEAM_E_CHECK, -6, "the checksum does not match")                          \
    X(SEAM_E_LIMIT, -7, "a length is over its limit")                           \
    X(SEAM_E_KIND, -8, "an unknown kind of message, layer or codec")            \
    X(SEAM_E_SHAPE, -9, "the shapes do not fit together")                       \
    X(SEAM_E_NOT_FINITE, -10, "a value is NaN or infinite")                     \
    X(SEAM_E_STATE, -11, "the message does not fit the state of the session")   \
    X(SEAM_E_SESSION, -12, "the message belongs to another session")            \
    X(SEAM_E_MEMORY, -13, "the device has too little memory for this plan")     \
    X(SEAM_E_DATA, -14, "the device has no usable data")                        \
    X(SEAM_E_ARITHMETIC, -15, "the two ends compute with different arithmetic") \
    X(SEAM_E_BUSY, -16, "the peer is already served by another session")        \
    X(SEAM_E_UNKNOWN_DEVICE, -17, "the edge host does not know this device")

typedef enum {
#define SEAM_STATUS_ENUM(name, value, text) name = (value),
    SEAM_STATUS_TABLE(SEAM_STATUS_ENUM)
#undef SEAM_STATUS_ENUM
} seam_status;

/* One line of English for a status; never NULL. */
const char *seam_status_text(int status);

/* CRC-32 as in zlib. Start with crc = 0; feed the result back in to go on. */
uint32_t seam_crc32(uint32_t crc, const void *data, size_t size);

/* ---- f32 kernels. NHWC; weights OHWI, depthwise 1HWC. Every output sums its terms in ascending
 * order with one fused multiply-add per term; taps outside the input are left out. Gradients
 * (dx, dw, db) are ADDED TO what the caller has there. Arrays never overlap unless said. ---- */

/* Window of a convolution or pooling, and the shapes on both sides. Checked by seam_window_check.
 */
typedef struct {
    int32_t batch, in_h, in_w, in_c, out_h, out_w, out_c;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t pad_top, pad_bottom, pad_left, pad_right;
} seam_window;

SEAM_MUST_USE int seam_window_check(const seam_window *p);

/* w: [out_c][kernel_h][kernel_w][in_c]; b: [out_c] or NULL. scratch: seam_f32_conv2d_scratch(p)
 * bytes, 16-aligned; seam_f32_conv2d_first_scratch(p) are enough where no dx is wanted. */
size_t seam_f32_conv2d_scratch(const seam_window *p);
size_t seam_f32_conv2d_first_scratch(const seam_window *p);
void seam_f32_conv2d(float *y, const float *x, const float *w, const float *b, const seam_window *p,
                     void *scratch);
/* dx may be NULL (first layer); db may be NULL. */
void seam_f32_conv2d_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                              const float *w, const seam_window *p, void *scratch);

/* Depthwise with multiplier m = out_c / in_c: output channel ic*m + j reads input channel ic.
 * w: [kernel_h][kernel_w][out_c]. */
size_t seam_f32_depthwise_scratch(const seam_window *p);
void seam_f32_depthwise(float *y, const float *x, const float *w, const float *b,
                        const seam_window *p, void *scratch);
void seam_f32_depthwise_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                                 const float *w, const seam_window *p, void *scratch);

/* y[n][o] = b[o] + sum_k w[o][k] * x[n][k]. */
size_t seam_f32_dense_scratch(int32_t n, int32_t in, int32_t out);
void seam_f32_dense(float *y, const float *x, const float *w, const float *b, int32_t n, int32_t in,
                    int32_t out, void *scratch);
void seam_f32_dense_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                             const float *w, int32_t n, int32_t in, int32_t out, void *scratch);

/* Pools: out_c = in_c. Max: the first of equal maxima takes the gradient. Average divides by the
 * number of taps inside the input. A window with no tap inside gives 0. Gradients are added in the
 * order of the outputs. */
void seam_f32_max_pool2d(float *y, const float *x, const seam_window *p);
void seam_f32_max_pool2d_backward(float *dx, const float *dy, const float *x, const seam_window *p);
void seam_f32_average_pool2d(float *y, const float *x, const seam_window *p);
void seam_f32_average_pool2d_backward(float *dx, const float *dy, const seam_window *p);

/* y = min(max(x, 0), ceiling); ceiling = +inf is ReLU, 6 is ReLU6. y may be x. NaN stays NaN. */
void seam_f32_relu(float *y, const float *x, float ceiling, size_t count);
/* dx += dy where 0 < y < ceiling. With dx == dy it masks in place instead of adding. */
void seam_f32_relu_backward(float *dx, const float *dy, const float *y, float ceiling,
                            size_t count);

/* y = a + b. y may be a or b. */
void seam_f32_add(float *y, const float *a, const float *b, size_t count);
/* dx += dy. */
void seam_f32_accumulate(float *dx, const float *dy, size_t count);

/* Group normalisation (Wu and He, arXiv:1803.08494): statistics over pixels and channels / groups
 * channels. A channel sums over its pixels, a group then over its channels; products and sums are
 * rounded one by one. dx may be NULL.
 * x, y: [n][pixels][channels]; gamma, beta: [channels]; saved: [n][groups][2] mean and 1/std. */
void seam_f32_group_norm(float *y, float *saved, const float *x, const float *gamma,
                         const float *beta, int32_t n, int32_t pixels, int32_t channels,
                         int32_t groups, float epsilon);
void seam_f32_group_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                                  const float *x, const float *saved, const float *gamma, int32_t n,
                                  int32_t pixels, int32_t channels, int32_t groups);

/* Per-sample loss[n] and dlogits = (softmax - onehot) * scale, overwritten. labels in [0, classes).
 */
void seam_f32_softmax_cross_entropy(float *loss, float *dlogits, const float *logits,
                                    const int32_t *labels, int32_t n, int32_t classes, float scale);

/* g = dw + decay*w; v = momentum*v + g; w -= rate*v, each one fused multiply-add. */
void seam_f32_sgd(float *w, float *v, const float *dw, float rate, float momentum, float decay,
                  size_t count);

/* ---- q8 kernels: int8 values with a zero point, int8 weights without one, int32 sums; the bytes
 * of TFLite Micro's reference kernels (SPEC.md has the arithmetic). Layouts as in f32; padding
 * counts as x_zero. No sum may leave int32: seam_q8_sums_check. Outputs never overlap inputs. ----
 */

/* y = clamp(rescale(sum, multiplier, shift) + y_zero, y_min, y_max); multiplier is a mantissa of 31
 * bits, a positive shift is left (-31 to 30). */
typedef struct {
    const int32_t *multiplier, *shift; /* [scales] */
    int32_t scales;                    /* 1, or the channels of y */
    int32_t x_zero, y_zero, y_min, y_max;
} seam_q8_scaling;

/* SEAM_E_ARGUMENT: a figure of `how` is out of range for `channels` of y. SEAM_E_LIMIT: bias and
 * `terms` products might leave int32. bias: [channels] or NULL. */
SEAM_MUST_USE int seam_q8_scaling_check(const seam_q8_scaling *how, int32_t channels);
SEAM_MUST_USE int seam_q8_sums_check(const int32_t *bias, int32_t channels, int64_t terms);

/* w: [out_c][kernel_h][kernel_w][in_c / groups]; group g reads the g-th share of the input channels
 * and gives the g-th share of the output channels. packed: w as seam_q8_conv2d_pack laid it out for
 * the variant in use, seam_q8_conv2d_packed_size bytes (0: nothing to pack), or NULL. scratch:
 * seam_q8_conv2d_scratch bytes (0 for a dense layer of one sample). Both 16-aligned. */
size_t seam_q8_conv2d_packed_size(const seam_window *p, int32_t groups);
void seam_q8_conv2d_pack(void *packed, const int8_t *w, const seam_window *p, int32_t groups);
size_t seam_q8_conv2d_scratch(const seam_window *p, int32_t groups);
void seam_q8_conv2d(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                    const seam_q8_scaling *how, const seam_window *p, int32_t groups,
                    const void *packed, void *scratch);

/* w: [kernel_h][kernel_w][out_c]; out_c is a multiple of in_c. */
void seam_q8_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                       const seam_q8_scaling *how, const seam_window *p);

/* The window of a dense layer, n samples: a 1x1 convolution of a 1x1 image. */
seam_window seam_dense_window(int32_t n, int32_t in, int32_t out);

/* Pools keep scale and zero point; every window needs a tap inside the input (seam_q8_pool_check).
 * The average divides by the taps inside and rounds halves away from zero. */
SEAM_MUST_USE int seam_q8_pool_check(const seam_window *p);
void seam_q8_max_pool2d(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                        int32_t y_max);
void seam_q8_average_pool2d(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                            int32_t y_max);

/* Residual sum: both inputs, SEAM_Q8_SUM_SHIFT bits up, rescaled, summed, rescaled. y may be a or
 * b.
 */
#define SEAM_Q8_SUM_SHIFT 20
typedef struct {
    int32_t a_multiplier, a_shift, b_multiplier, b_shift, y_multiplier, y_shift;
    int32_t a_zero, b_zero, y_zero, y_min, y_max;
} seam_q8_sum;

SEAM_MUST_USE int seam_q8_sum_check(const seam_q8_sum *how);
void seam_q8_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how, size_t count);

/* x inside a border of `zero`: p's pads give the border, its kernel is 1x1 with stride 1. */
void seam_q8_pad(int8_t *y, const int8_t *x, const seam_window *p, int8_t zero);

#define SEAM_Q8_CLASSES_MAX 4095
/* Softmax of rows of at most SEAM_Q8_CLASSES_MAX: scale 1/256, zero point -128 out. multiplier and
 * shift (0 to 31): of the input's scale times 2^26. */
void seam_q8_softmax(int8_t *y, const int8_t *x, size_t rows, int32_t classes, int32_t multiplier,
                     int32_t shift);

/* q = clamp(round(x / scale) + zero, -128, 127); infinity saturates, NaN is SEAM_E_NOT_FINITE. */
typedef enum { SEAM_HALF_AWAY = 0, SEAM_HALF_EVEN = 1 } seam_half;
SEAM_MUST_USE int seam_q8_quantise(int8_t *q, const float *x, float scale, int32_t zero,
                                   seam_half half, size_t count);
/* x = (q - zero) * scale. */
void seam_q8_dequantise(float *x, const int8_t *q, float scale, int32_t zero, size_t count);
/* From one scale and zero point to another. y may be x. */
void seam_q8_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how, size_t count);

/* ---- q8 training. A gradient is int8 with one exponent for the tensor: g * 2^exponent is the
 * gradient with respect to the quantised value. Sums are exact int32. Coefficients are float32 that
 * are taken apart by their bits, never computed with. SPEC.md has the arithmetic. ---- */

#define SEAM_Q8_MOST 127               /* of a gradient, a weight, a velocity */
#define SEAM_Q8_RATIO_ONE 32768u       /* a ratio of 1 */
#define SEAM_Q8_WEIGHT_TERMS_MAX 66311 /* outputs (batch * h * w) in the sum of one weight */
#define SEAM_Q8_INPUT_TERMS_MAX 133144 /* products in the sum of one input */

/* Where the random bits of a rounding come from; element i of the tensor takes index i. */
typedef struct {
    uint32_t seed, stream;
    int mode; /* seam_rounding */
} seam_q8_noise;

/* dy = 0 where not y_min < y < y_max: there the clamp held y. */
void seam_q8_mask(int8_t *dy, const int8_t *y, int32_t y_min, int32_t y_max, size_t count);

/* Each channel's multiplier over the largest of the layer, times SEAM_Q8_RATIO_ONE. Is every one
 * SEAM_Q8_RATIO_ONE? Then nothing has to be weighed. */
int seam_q8_ratios_even(const uint16_t *ratios, int32_t channels);
/* out = dy * ratio, rounded. out may be dy. first: index of dy[0] in the tensor. */
void seam_q8_weigh(int8_t *out, const int8_t *dy, const uint16_t *ratios, int32_t channels,
                   size_t pixels, uint32_t first, const seam_q8_noise *noise);

/* For each input the sum of w * dy over the outputs that read it; dy is weighed. Rows `first` to
 * `first + rows` of the batch * in_h rows of inputs: sums [rows][in_w][in_c], overwritten. Scratch:
 * seam_q8_conv2d_input_scratch bytes, 16-aligned. */
size_t seam_q8_conv2d_input_scratch(const seam_window *p, int32_t groups);
void seam_q8_conv2d_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                               const seam_window *p, int32_t groups, int32_t first, int32_t rows,
                               void *scratch);
void seam_q8_depthwise_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                                  const seam_window *p, int32_t first, int32_t rows);

/* For each weight the sum of dy * (x - x_zero), for output channels `first` to `first + channels`;
 * a conv2d's lie in one group. sums [channels][kernel_h][kernel_w][in_c / groups], depthwise
 * [kernel_h][kernel_w][channels], overwritten. Scratch: seam_q8_conv2d_weight_scratch bytes for so
 * many channels, 16-aligned. */
size_t seam_q8_conv2d_weight_scratch(const seam_window *p, int32_t groups, int32_t channels);
void seam_q8_conv2d_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t x_zero,
                                const seam_window *p, int32_t groups, int32_t first,
                                int32_t channels, void *scratch);
void seam_q8_depthwise_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x, int32_t x_zero,
                                   const seam_window *p, int32_t first, int32_t channels);
/* sums[channel] of dy over all pixels. */
void seam_q8_bias_sums(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels);

/* The first of equal maxima takes the gradient; of n taps inside each takes round(2^15 / n), so the
 * sums of an average have an exponent 15 lower than dy. Rows as above. seam_q8_pool_sums_check:
 * SEAM_E_LIMIT where the sums of an average might leave int32. */
void seam_q8_max_pool2d_sums(int32_t *sums, const int8_t *dy, const int8_t *x, const seam_window *p,
                             int32_t first, int32_t rows);
SEAM_MUST_USE int seam_q8_pool_sums_check(const seam_window *p);
void seam_q8_average_pool2d_sums(int32_t *sums, const int8_t *dy, const seam_window *p,
                                 int32_t first, int32_t rows);
/* One input of a residual sum: sums = dy times the ratio (input scale over y's), as 15 bits;
 * returns what their exponent is above dy's. */
int32_t seam_q8_add_sums(int32_t *sums, const int8_t *dy, float ratio, size_t count);
/* The sum of two gradients of one tensor: returns the exponent of the sums. */
int32_t seam_q8_join_sums(int32_t *sums, const int8_t *a, int32_t a_exponent, const int8_t *b,
                          int32_t b_exponent, size_t count);

/* Sums become a gradient: the largest magnitude of all pieces gives the bits to drop, which raise
 * the exponent. multiplier: first sums = multiply(sums, multiplier), of the layer's largest
 * multiplier, whose shift raises the exponent as well; 0: not. first: index of sums[0] in the
 * tensor. */
uint32_t seam_q8_largest(const int32_t *sums, size_t count);
int32_t seam_q8_settle_bits(uint32_t peak, int32_t multiplier);
void seam_q8_settle(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits,
                    uint32_t first, size_t count, const seam_q8_noise *noise);

/* The layer's weights and how far their memory goes: weight k of output channel o is at
 * o * channel_step + k * term_step. */
typedef struct {
    int32_t channels, terms;
    int32_t channel_step, term_step;
} seam_q8_order;
seam_q8_order seam_q8_order_of(const seam_window *p, int32_t groups, int depthwise);

/* steps: float32 [channels], a sum's gradient in steps of its weight. dw_exponent: of dy. */
typedef struct {
    const float *steps;
    int32_t dw_exponent;
    float rate, momentum, decay;
} seam_q8_rates;

/* The bound of the sums of some channels from `first` on, to be taken over all pieces (start with
 * zero); dw lies by `order` with only these channels. */
typedef struct {
    uint32_t mantissa, peak;
    int32_t exponent;
} seam_q8_bound;
void seam_q8_bound_take(seam_q8_bound *bound, const int32_t *dw, const seam_q8_order *order,
                        int32_t first, const float *steps);
/* The exponent of the velocities after this step; 0 in *moves: nothing moves. v may be NULL. */
int32_t seam_q8_velocity_exponent(int *moves, const seam_q8_bound *bound, const int8_t *w,
                                  const int8_t *v, int32_t v_exponent, size_t count,
                                  const seam_q8_rates *rates);
/* v = momentum * v + dw + decay * w; w -= rate * v, in steps of a weight, for channels as above;
 * w, v (or NULL) by `whole`, the order of all channels; dw by `order`. */
void seam_q8_update(int8_t *w, int8_t *v, const int32_t *dw, const seam_q8_order *whole,
                    const seam_q8_order *order, int32_t first, const seam_q8_bound *bound,
                    int32_t v_exponent, int32_t new_exponent, const seam_q8_rates *rates,
                    const seam_q8_noise *noise);
/* As seam_q8_update, with velocities in float32: no bound is needed in front of it. */
void seam_q8_update_float(int8_t *w, float *v, const int32_t *dw, const seam_q8_order *whole,
                          const seam_q8_order *order, int32_t first, const seam_q8_rates *rates,
                          const seam_q8_noise *noise);
/* The same for biases, whatever the velocities of the weights are: b within `most`, v in 2^-8 of
 * b's unit; per_input: 1 / x scale^2. */
void seam_q8_update_bias(int32_t *b, int32_t *v, const int32_t *db, int32_t channels,
                         float per_input, int32_t most, const seam_q8_rates *rates,
                         const seam_q8_noise *noise);

/* Name of the kernel variant in use: "generic", "avx2", ... */
const char *seam_kernels_variant(void);
/* Choose a variant by name (NULL: the best this machine has), before kernels run; "generic" until
 * then. SEAM_E_ARGUMENT if it is not here. */
SEAM_MUST_USE int seam_kernels_choose(const char *name);
/* Name of a variant this was compiled for, slowest first; NULL behind the last one. Whether it runs
 * here, seam_kernels_choose says. */
const char *seam_kernels_name(int index);

/* Does nothing but multiply-adds and returns how many it did: timed, the most one core can do.
 * result: their sum, so that no compiler leaves them out. */
uint64_t seam_kernels_peak(float *result, uint32_t rounds);
/* The same with products of int8 in int32 sums. */
uint64_t seam_q8_peak(int32_t *result, uint32_t rounds);

/* ---- Counter-based random bits: the same (seed, stream, index) gives the same 32 bits anywhere.
 * ---- */
uint32_t seam_random(uint32_t seed, uint32_t stream, uint32_t index);
void seam_random_fill(uint32_t *out, uint32_t seed, uint32_t stream, uint32_t first, size_t count);

/* ---- Parcels: an encoded tensor. SPEC.md has the bytes. ---- */
typedef enum {
    SEAM_CODEC_F32 = 0,
    SEAM_CODEC_INT8 = 1,
    SEAM_CODEC_INT4 = 2,
    SEAM_CODEC_F16 = 3,
    SEAM_CODEC_INT2 = 4,
    SEAM_CODEC_INT8_CHANNEL = 5, /* a scale and a zero point for each place of the last axis */
    SEAM_CODEC_INT4_CHANNEL = 6,
    SEAM_CODEC_INT2_CHANNEL = 7,
    SEAM_CODEC_TOP10 = 8,     /* the largest tenth in int8 */
    SEAM_CODEC_RANDTOP10 = 9, /* a tenth in int8: most of the largest, some others */
    SEAM_CODEC_KEPT = 10      /* on the places of another one of those two */
} seam_codec;
#define SEAM_CODECS 11u
typedef enum {
    SEAM_ROUND_NEAREST = 0,
    SEAM_ROUND_STOCHASTIC = 1,
    SEAM_ROUND_TRUNCATE = 2 /* of int8 training only: toward zero */
} seam_rounding;

typedef struct {
    uint8_t codec, rounding, ndim;
    uint32_t shape[SEAM_PARCEL_DIMS_MAX];
    uint32_t values; /* product of shape */
    uint32_t seed;
    float scale;
    int32_t zero;
    int bits;          /* of a value; 32, 16: floats */
    uint32_t channels; /* with a scale each; else 1 */
    const uint8_t *payload;
    size_t payload_size;
    size_t size; /* of the whole parcel */
} seam_parcel;

/* Bytes a parcel takes; 0 if the codec or shape is not allowed. */
size_t seam_parcel_size(int codec, uint32_t ndim, const uint32_t *shape);
/* Bytes written (> 0) or a status (SPACE, LIMIT, KIND, NOT_FINITE). */
SEAM_MUST_USE int64_t seam_parcel_pack(uint8_t *out, size_t space, const float *x, int codec,
                                       int rounding, uint32_t seed, uint32_t ndim,
                                       const uint32_t *shape);
/* The same for values that are int8 already and stand for (q - zero) * scale. */
SEAM_MUST_USE int64_t seam_parcel_put(uint8_t *out, size_t space, const int8_t *q, float scale,
                                      int32_t zero, uint32_t ndim, const uint32_t *shape);
/* Reads and checks the header; never reads past size. */
SEAM_MUST_USE int seam_parcel_parse(seam_parcel *parcel, const uint8_t *bytes, size_t size);
/* KIND for one of SEAM_CODEC_KEPT, which needs the parcel whose places it has. */
SEAM_MUST_USE int seam_parcel_unpack(float *x, size_t space_values, const seam_parcel *parcel);
/* The same for the gradient of values that went as TOP10 or RANDTOP10: in SEAM_CODEC_KEPT on their
 * places, without saying them again. at: that parcel; SHAPE if it is of another shape. */
SEAM_MUST_USE int64_t seam_parcel_pack_kept(uint8_t *out, size_t space, const float *x,
                                            const seam_parcel *at, int rounding, uint32_t seed);
SEAM_MUST_USE int seam_parcel_unpack_kept(float *x, size_t space_values, const seam_parcel *parcel,
                                          const seam_parcel *at);

#endif
