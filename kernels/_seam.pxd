# C prototypes of the seamline core, once for all Cython faces (cimport _seam).
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "seam.h" nogil:
    const unsigned int SEAM_WIRE_VERSION
    const unsigned int SEAM_ARITHMETIC_VERSION

    const char *seam_status_text(int status)

    ctypedef struct seam_window:
        int32_t batch, in_h, in_w, in_c, out_h, out_w, out_c
        int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w
        int32_t pad_top, pad_bottom, pad_left, pad_right

    int seam_window_check(const seam_window *p)

    size_t seam_f32_conv2d_scratch(const seam_window *p)
    void seam_f32_conv2d(float *y, const float *x, const float *w, const float *b,
                         const seam_window *p, void *scratch)
    void seam_f32_conv2d_backward(float *dx, float *dw, float *db, const float *dy,
                                  const float *x, const float *w, const seam_window *p,
                                  void *scratch)

    size_t seam_f32_depthwise_scratch(const seam_window *p)
    void seam_f32_depthwise(float *y, const float *x, const float *w, const float *b,
                            const seam_window *p, void *scratch)
    void seam_f32_depthwise_backward(float *dx, float *dw, float *db, const float *dy,
                                     const float *x, const float *w, const seam_window *p,
                                     void *scratch)

    size_t seam_f32_dense_scratch(int32_t n, int32_t in_, int32_t out)
    void seam_f32_dense(float *y, const float *x, const float *w, const float *b, int32_t n,
                        int32_t in_, int32_t out, void *scratch)
    void seam_f32_dense_backward(float *dx, float *dw, float *db, const float *dy,
                                 const float *x, const float *w, int32_t n, int32_t in_,
                                 int32_t out, void *scratch)

    void seam_f32_max_pool2d(float *y, const float *x, const seam_window *p)
    void seam_f32_max_pool2d_backward(float *dx, const float *dy, const float *x,
                                      const seam_window *p)
    void seam_f32_average_pool2d(float *y, const float *x, const seam_window *p)
    void seam_f32_average_pool2d_backward(float *dx, const float *dy, const seam_window *p)

    void seam_f32_relu(float *y, const float *x, float ceiling, size_t count)
    void seam_f32_relu_backward(float *dx, const float *dy, const float *y, float ceiling,
                                size_t count)
    void seam_f32_add(float *y, const float *a, const float *b, size_t count)
    void seam_f32_accumulate(float *dx, const float *dy, size_t count)

    void seam_f32_group_norm(float *y, float *saved, const float *x, const float *gamma,
                             const float *beta, int32_t n, int32_t pixels, int32_t channels,
                             int32_t groups, float epsilon)
    void seam_f32_group_norm_backward(float *dx, float *dgamma, float *dbeta, const float *dy,
                                      const float *x, const float *saved, const float *gamma,
                                      int32_t n, int32_t pixels, int32_t channels,
                                      int32_t groups)

    void seam_f32_softmax_cross_entropy(float *loss, float *dlogits, const float *logits,
                                        const int32_t *labels, int32_t n, int32_t classes,
                                        float scale)
    void seam_f32_sgd(float *w, float *v, const float *dw, float rate, float momentum,
                      float decay, size_t count)

    enum:
        SEAM_E_SHAPE, SEAM_Q8_CLASSES_MAX

    ctypedef struct seam_q8_scaling:
        const int32_t *multiplier
        const int32_t *shift
        int32_t scales, x_zero, y_zero, y_min, y_max

    int seam_q8_scaling_check(const seam_q8_scaling *how, int32_t channels)
    int seam_q8_sums_check(const int32_t *bias, int32_t channels, int64_t terms)
    size_t seam_q8_conv2d_packed_size(const seam_window *p, int32_t groups)
    void seam_q8_conv2d_pack(void *packed, const int8_t *w, const seam_window *p,
                             int32_t groups)
    size_t seam_q8_conv2d_scratch(const seam_window *p, int32_t groups)
    void seam_q8_conv2d(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                        const seam_q8_scaling *how, const seam_window *p, int32_t groups,
                        const void *packed, void *scratch)
    void seam_q8_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int32_t *bias,
                           const seam_q8_scaling *how, const seam_window *p)
    seam_window seam_dense_window(int32_t n, int32_t in_, int32_t out)

    int seam_q8_pool_check(const seam_window *p)
    void seam_q8_max_pool2d(int8_t *y, const int8_t *x, const seam_window *p, int32_t y_min,
                            int32_t y_max)
    void seam_q8_average_pool2d(int8_t *y, const int8_t *x, const seam_window *p,
                                int32_t y_min, int32_t y_max)
    void seam_q8_pad(int8_t *y, const int8_t *x, const seam_window *p, int8_t zero)

    ctypedef struct seam_q8_sum:
        int32_t a_multiplier, a_shift, b_multiplier, b_shift, y_multiplier, y_shift
        int32_t a_zero, b_zero, y_zero, y_min, y_max

    void seam_q8_add(int8_t *y, const int8_t *a, const int8_t *b, const seam_q8_sum *how,
                     size_t count)
    void seam_q8_softmax(int8_t *y, const int8_t *x, size_t rows, int32_t classes,
                         int32_t multiplier, int32_t shift)

    ctypedef enum seam_half:
        SEAM_HALF_AWAY, SEAM_HALF_EVEN

    int seam_q8_quantise(int8_t *q, const float *x, float scale, int32_t zero, seam_half half,
                         size_t count)
    void seam_q8_dequantise(float *x, const int8_t *q, float scale, int32_t zero, size_t count)
    void seam_q8_requantise(int8_t *y, const int8_t *x, const seam_q8_scaling *how,
                            size_t count)

    unsigned int SEAM_Q8_RATIO_ONE
    int32_t SEAM_Q8_WEIGHT_TERMS_MAX, SEAM_Q8_INPUT_TERMS_MAX

    ctypedef struct seam_q8_noise:
        uint32_t seed, stream
        int mode

    ctypedef struct seam_q8_order:
        int32_t channels, terms, channel_step, term_step

    ctypedef struct seam_q8_rates:
        const float *steps
        int32_t dw_exponent
        float rate, momentum, decay

    ctypedef struct seam_q8_bound:
        uint32_t mantissa, peak
        int32_t exponent

    void seam_q8_mask(int8_t *dy, const int8_t *y, int32_t y_min, int32_t y_max, size_t count)
    int seam_q8_ratios_even(const uint16_t *ratios, int32_t channels)
    void seam_q8_weigh(int8_t *out, const int8_t *dy, const uint16_t *ratios, int32_t channels,
                       size_t pixels, uint32_t first, const seam_q8_noise *noise)
    size_t seam_q8_conv2d_input_scratch(const seam_window *p, int32_t groups)
    void seam_q8_conv2d_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                                   const seam_window *p, int32_t groups, int32_t first,
                                   int32_t rows, void *scratch)
    void seam_q8_depthwise_input_sums(int32_t *sums, const int8_t *dy, const int8_t *w,
                                      const seam_window *p, int32_t first, int32_t rows)
    size_t seam_q8_conv2d_weight_scratch(const seam_window *p, int32_t groups, int32_t channels)
    void seam_q8_conv2d_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x,
                                    int32_t x_zero, const seam_window *p, int32_t groups,
                                    int32_t first, int32_t channels, void *scratch)
    void seam_q8_depthwise_weight_sums(int32_t *sums, const int8_t *dy, const int8_t *x,
                                       int32_t x_zero, const seam_window *p, int32_t first,
                                       int32_t channels)
    void seam_q8_bias_sums(int32_t *sums, const int8_t *dy, int32_t channels, size_t pixels)
    void seam_q8_max_pool2d_sums(int32_t *sums, const int8_t *dy, const int8_t *x,
                                 const seam_window *p, int32_t first, int32_t rows)
    int seam_q8_pool_sums_check(const seam_window *p)
    void seam_q8_average_pool2d_sums(int32_t *sums, const int8_t *dy, const seam_window *p,
                                     int32_t first, int32_t rows)
    int32_t seam_q8_add_sums(int32_t *sums, const int8_t *dy, float ratio, size_t count)
    int32_t seam_q8_join_sums(int32_t *sums, const int8_t *a, int32_t a_exponent, const int8_t *b,
                              int32_t b_exponent, size_t count)
    uint32_t seam_q8_largest(const int32_t *sums, size_t count)
    int32_t seam_q8_settle_bits(uint32_t peak, int32_t multiplier)
    void seam_q8_settle(int8_t *g, const int32_t *sums, int32_t multiplier, int32_t bits,
                        uint32_t first, size_t count, const seam_q8_noise *noise)
    seam_q8_order seam_q8_order_of(const seam_window *p, int32_t groups, int depthwise)
    void seam_q8_bound_take(seam_q8_bound *bound, const int32_t *dw, const seam_q8_order *order,
                            int32_t first, const float *steps)
    int32_t seam_q8_velocity_exponent(int *moves, const seam_q8_bound *bound, const int8_t *w,
                                      const int8_t *v, int32_t v_exponent, size_t count,
                                      const seam_q8_rates *rates)
    void seam_q8_update(int8_t *w, int8_t *v, const int32_t *dw, const seam_q8_order *whole,
                        const seam_q8_order *order, int32_t first, const seam_q8_bound *bound,
                        int32_t v_exponent, int32_t new_exponent, const seam_q8_rates *rates,
                        const seam_q8_noise *noise)
    void seam_q8_update_float(int8_t *w, float *v, const int32_t *dw, const seam_q8_order *whole,
                              const seam_q8_order *order, int32_t first,
                              const seam_q8_rates *rates, const seam_q8_noise *noise)
    void seam_q8_update_bias(int32_t *b, int32_t *v, const int32_t *db, int32_t channels,
                             float per_input, int32_t most, const seam_q8_rates *rates,
                             const seam_q8_noise *noise)

    const char *seam_kernels_variant()
    int seam_kernels_choose(const char *name)
    const char *seam_kernels_name(int index)
    uint64_t seam_kernels_peak(float *result, uint32_t rounds)
    uint64_t seam_q8_peak(int32_t *result, uint32_t rounds)

    uint32_t seam_random(uint32_t seed, uint32_t stream, uint32_t index)
    void seam_random_fill(uint32_t *out, uint32_t seed, uint32_t stream, uint32_t first,
                          size_t count)

    ctypedef struct seam_parcel:
        uint8_t codec, rounding, ndim
        uint32_t shape[4]
        uint32_t values
        uint32_t seed
        float scale
        int32_t zero
        const uint8_t *payload
        size_t payload_size
        size_t size

    size_t seam_parcel_size(int codec, uint32_t ndim, const uint32_t *shape)
    int64_t seam_parcel_pack(uint8_t *out, size_t space, const float *x, int codec,
                             int rounding, uint32_t seed, uint32_t ndim,
                             const uint32_t *shape)
    int seam_parcel_parse(seam_parcel *parcel, const uint8_t *bytes_, size_t size)
    int seam_parcel_unpack(float *x, size_t space_values, const seam_parcel *parcel)
    int64_t seam_parcel_pack_kept(uint8_t *out, size_t space, const float *x,
                                  const seam_parcel *at, int rounding, uint32_t seed)
    int seam_parcel_unpack_kept(float *x, size_t space_values, const seam_parcel *parcel,
                                const seam_parcel *at)
