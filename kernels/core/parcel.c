/* Parcels: a tensor as bytes, exact or affine in 8 or 4 bits. SPEC.md has the layout. */
#include "arch/arch.h"
#include "bytes.h"
#include "round.h"

#include <string.h>

#define HEADER 16u         /* bytes before the shape */
#define STREAM 0x50415243u /* of the random bits that round */

static int is_finite(float x) {
    return x - x == 0.0f;
}

/* Product of the shape; 0 if it is empty or over the limit. */
static uint32_t value_count(uint32_t ndim, const uint32_t *shape) {
    uint64_t values = 1;
    for (uint32_t d = 0; d < ndim; d++) {
        values *= shape[d];
        if (values == 0 || values > SEAM_PARCEL_VALUES_MAX)
            return 0;
    }
    return (uint32_t)values;
}

static size_t payload_size(int codec, uint32_t values) {
    size_t n = values;
    return codec == SEAM_CODEC_F32 ? 4 * n : codec == SEAM_CODEC_INT8 ? n : (n + 1) / 2;
}

static int codec_known(int codec) {
    return codec == SEAM_CODEC_F32 || codec == SEAM_CODEC_INT8 || codec == SEAM_CODEC_INT4;
}

size_t seam_parcel_size(int codec, uint32_t ndim, const uint32_t *shape) {
    if (!codec_known(codec) || ndim < 1 || ndim > SEAM_PARCEL_DIMS_MAX)
        return 0;
    uint32_t values = value_count(ndim, shape);
    return values == 0 ? 0 : HEADER + 4 * (size_t)ndim + payload_size(codec, values);
}

/* Largest integer <= x, for |x| < 2^23. */
static float floor_small(float x) {
    float whole = (float)(int32_t)x;
    return whole > x ? whole - 1.0f : whole;
}

/* Step and zero point for the range. */
static int affine(float *scale, int32_t *zero, float low, float high, int bits) {
    float levels = (float)((1 << bits) - 1);
    *scale = (high - low) / levels;
    if (!is_finite(*scale * (float)(1 << bits)))
        return SEAM_E_NOT_FINITE; /* the way back would overflow */
    if (*scale < 0x1p-126f)       /* zero or subnormal */
        *scale = 1.0f;
    int32_t first = -(1 << (bits - 1));
    float at = (float)first - floor_small(low / *scale + 0.5f);
    *zero = at<(float)first ? first : at>(float)(-first - 1) ? -first - 1 : (int32_t)at;
    return SEAM_OK;
}

static void put_f32(uint8_t *out, const float *x, uint32_t count) {
#if SEAM_LITTLE_ENDIAN
    memcpy(out, x, 4 * (size_t)count);
#else
    for (uint32_t i = 0; i < count; i++)
        seam_put_float(out + 4 * (size_t)i, x[i]);
#endif
}

int64_t seam_parcel_pack(uint8_t *out, size_t space, const float *x, int codec, int rounding,
                         uint32_t seed, uint32_t ndim, const uint32_t *shape) {
    size_t size = seam_parcel_size(codec, ndim, shape);
    if (!codec_known(codec))
        return SEAM_E_KIND;
    if (rounding != SEAM_ROUND_NEAREST && rounding != SEAM_ROUND_STOCHASTIC)
        return SEAM_E_ARGUMENT;
    if (size == 0)
        return SEAM_E_LIMIT;
    if (space < size)
        return SEAM_E_SPACE;
    uint32_t count = value_count(ndim, shape);
    float low, high, scale = 1.0f;
    int32_t zero = 0, bits = codec == SEAM_CODEC_INT8 ? 8 : 4;
    const seam_codec_kernels *kernels = seam_kernels_now()->codec;
    if (!kernels->range(&low, &high, x, count) ||
        (codec != SEAM_CODEC_F32 && affine(&scale, &zero, low, high, bits) != SEAM_OK))
        return SEAM_E_NOT_FINITE;
    out[0] = (uint8_t)codec;
    out[1] = (uint8_t)rounding;
    out[2] = (uint8_t)ndim;
    out[3] = 0;
    seam_put32(out + 4, seed);
    seam_put_float(out + 8, scale);
    seam_put32(out + 12, (uint32_t)zero);
    for (uint32_t d = 0; d < ndim; d++)
        seam_put32(out + HEADER + 4 * d, shape[d]);
    uint8_t *payload = out + HEADER + 4 * ndim;
    seam_quantiser how = {.inv = 1.0f / scale,
                          .zero = (float)zero,
                          .low = (float)-(1 << (bits - 1)),
                          .high = (float)((1 << (bits - 1)) - 1),
                          .key = seam_random_key(seed, STREAM),
                          .stochastic = rounding == SEAM_ROUND_STOCHASTIC};
    if (codec == SEAM_CODEC_F32)
        put_f32(payload, x, count);
    else if (codec == SEAM_CODEC_INT8)
        kernels->quantise((int8_t *)payload, x, &how, count);
    else
        kernels->quantise_pairs(payload, x, &how, count);
    return (int64_t)size;
}

/* The scale and zero point a packer can have written; anything else comes from a broken peer. */
static int affine_check(const seam_parcel *p) {
    int32_t half = p->codec == SEAM_CODEC_INT8 ? 128 : 8;
    if (p->codec == SEAM_CODEC_F32)
        return p->scale == 1.0f && p->zero == 0 ? SEAM_OK : SEAM_E_ARGUMENT;
    if (!is_finite(p->scale * (float)(2 * half)))
        return SEAM_E_NOT_FINITE;
    if (p->scale < 0x1p-126f || p->zero < -half || p->zero >= half)
        return SEAM_E_ARGUMENT;
    return SEAM_OK;
}

int64_t seam_parcel_put(uint8_t *out, size_t space, const int8_t *q, float scale, int32_t zero,
                        uint32_t ndim, const uint32_t *shape) {
    const size_t size = seam_parcel_size(SEAM_CODEC_INT8, ndim, shape);
    if (size == 0)
        return SEAM_E_LIMIT;
    if (space < size)
        return SEAM_E_SPACE;
    out[0] = SEAM_CODEC_INT8;
    out[1] = SEAM_ROUND_NEAREST;
    out[2] = (uint8_t)ndim;
    out[3] = 0;
    seam_put32(out + 4, 0);
    seam_put_float(out + 8, scale);
    seam_put32(out + 12, (uint32_t)zero);
    const size_t head = HEADER + 4 * (size_t)ndim;
    for (uint32_t d = 0; d < ndim; d++)
        seam_put32(out + HEADER + 4 * d, shape[d]);
    memcpy(out + head, q, size - head);
    return (int64_t)size;
}

int seam_parcel_parse(seam_parcel *parcel, const uint8_t *bytes, size_t size) {
    if (size < HEADER)
        return SEAM_E_SHORT;
    *parcel = (seam_parcel){.codec = bytes[0],
                            .rounding = bytes[1],
                            .ndim = bytes[2],
                            .seed = seam_get32(bytes + 4),
                            .scale = seam_get_float(bytes + 8),
                            .zero = (int32_t)seam_get32(bytes + 12)};
    if (!codec_known(parcel->codec))
        return SEAM_E_KIND;
    if (parcel->rounding > SEAM_ROUND_STOCHASTIC || bytes[3] != 0)
        return SEAM_E_ARGUMENT;
    if (parcel->ndim < 1 || parcel->ndim > SEAM_PARCEL_DIMS_MAX)
        return SEAM_E_LIMIT;
    size_t header = HEADER + 4 * (size_t)parcel->ndim;
    if (size < header)
        return SEAM_E_SHORT;
    for (uint32_t d = 0; d < parcel->ndim; d++)
        parcel->shape[d] = seam_get32(bytes + HEADER + 4 * d);
    parcel->values = value_count(parcel->ndim, parcel->shape);
    if (parcel->values == 0)
        return SEAM_E_LIMIT;
    parcel->payload = bytes + header;
    parcel->payload_size = payload_size(parcel->codec, parcel->values);
    parcel->size = header + parcel->payload_size;
    if (size < parcel->size)
        return SEAM_E_SHORT;
    if (parcel->codec == SEAM_CODEC_INT4 && parcel->values % 2 == 1 &&
        parcel->payload[parcel->payload_size - 1] >> 4 != 0)
        return SEAM_E_ARGUMENT;
    return affine_check(parcel);
}

int seam_parcel_unpack(float *x, size_t space_values, const seam_parcel *p) {
    if (space_values < p->values)
        return SEAM_E_SPACE;
    const seam_codec_kernels *kernels = seam_kernels_now()->codec;
    if (p->codec == SEAM_CODEC_F32)
        return kernels->copy(x, p->payload, p->values) ? SEAM_OK : SEAM_E_NOT_FINITE;
    if (p->codec == SEAM_CODEC_INT8)
        kernels->dequantise(x, (const int8_t *)p->payload, p->scale, p->zero, p->values);
    else
        kernels->dequantise_pairs(x, p->payload, p->scale, p->zero, p->values);
    return SEAM_OK;
}
