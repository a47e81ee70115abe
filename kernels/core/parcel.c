/* Parcels: a tensor as bytes, exact or in fewer bits. SPEC.md has the layout. */
#include "arch/arch.h"
#include "parcel_kinds.h"

#include <string.h>

#define HEADER 16u /* bytes before the shape */

typedef struct {
    uint8_t bits, by_channel, sparse; /* sparse: 1 with places, 2 on those of another */
} kind;

static const kind KINDS[SEAM_CODECS] = {
    [SEAM_CODEC_F32] = {32, 0, 0},         [SEAM_CODEC_INT8] = {8, 0, 0},
    [SEAM_CODEC_INT4] = {4, 0, 0},         [SEAM_CODEC_F16] = {16, 0, 0},
    [SEAM_CODEC_INT2] = {2, 0, 0},         [SEAM_CODEC_INT8_CHANNEL] = {8, 1, 0},
    [SEAM_CODEC_INT4_CHANNEL] = {4, 1, 0}, [SEAM_CODEC_INT2_CHANNEL] = {2, 1, 0},
    [SEAM_CODEC_TOP10] = {8, 0, 1},        [SEAM_CODEC_RANDTOP10] = {8, 0, 1},
    [SEAM_CODEC_KEPT] = {8, 0, 2},
};

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

static int codec_known(int codec) {
    return codec >= 0 && codec < (int)SEAM_CODECS;
}

static uint32_t channels_of(int codec, uint32_t ndim, const uint32_t *shape) {
    return KINDS[codec].by_channel ? shape[ndim - 1] : 1;
}

static size_t payload_size(int codec, uint32_t values, uint32_t channels) {
    const kind *k = &KINDS[codec];
    if (k->sparse)
        return seam_sparse_size(values, k->sparse == 1);
    return k->bits > 8 ? k->bits / 8u * (size_t)values : seam_bits_size(values, channels, k->bits);
}

size_t seam_parcel_size(int codec, uint32_t ndim, const uint32_t *shape) {
    if (!codec_known(codec) || ndim < 1 || ndim > SEAM_PARCEL_DIMS_MAX)
        return 0;
    uint32_t values = value_count(ndim, shape);
    if (values == 0)
        return 0;
    return HEADER + 4 * (size_t)ndim + payload_size(codec, values, channels_of(codec, ndim, shape));
}

/* Largest integer <= x, for |x| < 2^23. */
static float floor_small(float x) {
    float whole = (float)(int32_t)x;
    return whole > x ? whole - 1.0f : whole;
}

int seam_parcel_affine(float *scale, int32_t *zero, float low, float high, int bits) {
    float levels = (float)((1 << bits) - 1);
    *scale = (high - low) / levels;
    if (!seam_is_finite(*scale * (float)(1 << bits)))
        return SEAM_E_NOT_FINITE; /* the way back would overflow */
    if (*scale < 0x1p-126f)       /* zero or subnormal */
        *scale = 1.0f;
    int32_t first = -(1 << (bits - 1));
    float at = (float)first - floor_small(low / *scale + 0.5f);
    *zero = at<(float)first ? first : at>(float)(-first - 1) ? -first - 1 : (int32_t)at;
    return SEAM_OK;
}

int seam_parcel_affine_check(float scale, int32_t zero, int bits) {
    const int32_t half = 1 << (bits - 1);
    if (!seam_is_finite(scale * (float)(2 * half)))
        return SEAM_E_NOT_FINITE;
    if (scale < 0x1p-126f || zero < -half || zero >= half)
        return SEAM_E_ARGUMENT;
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

static void put_header(uint8_t *out, int codec, int rounding, uint32_t seed, float scale,
                       int32_t zero, uint32_t ndim, const uint32_t *shape) {
    out[0] = (uint8_t)codec;
    out[1] = (uint8_t)rounding;
    out[2] = (uint8_t)ndim;
    out[3] = 0;
    seam_put32(out + 4, seed);
    seam_put_float(out + 8, scale);
    seam_put32(out + 12, (uint32_t)zero);
    for (uint32_t d = 0; d < ndim; d++)
        seam_put32(out + HEADER + 4 * d, shape[d]);
}

/* Of the codecs that have loops of their own for each machine. */
static void pack_fast(const seam_packing *p) {
    const seam_codec_kernels *kernels = seam_kernels_now()->codec;
    const seam_quantiser how = {.inv = 1.0f / p->scale,
                                .zero = (float)p->zero,
                                .low = (float)-(1 << (p->bits - 1)),
                                .high = (float)((1 << (p->bits - 1)) - 1),
                                .key = seam_random_key(p->seed, SEAM_PARCEL_STREAM),
                                .stochastic = p->stochastic};
    if (p->codec == SEAM_CODEC_INT8)
        kernels->quantise((int8_t *)p->payload, p->x, &how, p->count);
    else
        kernels->quantise_pairs(p->payload, p->x, &how, p->count);
}

/* Scale, zero point and payload; at: whose places, or NULL. */
static int put_payload(seam_packing *p, size_t size, const seam_parcel *at) {
    const kind *k = &KINDS[p->codec];
    float low, high;
    if (!seam_kernels_now()->codec->range(&low, &high, p->x, p->count))
        return SEAM_E_NOT_FINITE;
    if (p->codec == SEAM_CODEC_F32) {
        put_f32(p->payload, p->x, p->count);
        return SEAM_OK;
    }
    if (!k->sparse && k->bits <= 8 && p->channels == 1 &&
        seam_parcel_affine(&p->scale, &p->zero, low, high, p->bits) != SEAM_OK)
        return SEAM_E_NOT_FINITE;
    if (p->codec == SEAM_CODEC_INT8 || p->codec == SEAM_CODEC_INT4) {
        pack_fast(p);
        return SEAM_OK;
    }
    memset(p->payload, 0, size);
    if (k->sparse)
        return seam_sparse_pack(p, &p->scale, &p->zero, at);
    if (k->bits <= 8)
        return seam_bits_pack(p);
    seam_half_pack(p);
    return SEAM_OK;
}

static int64_t pack(uint8_t *out, size_t space, const float *x, int codec, int rounding,
                    uint32_t seed, uint32_t ndim, const uint32_t *shape, const seam_parcel *at) {
    if (rounding != SEAM_ROUND_NEAREST && rounding != SEAM_ROUND_STOCHASTIC)
        return SEAM_E_ARGUMENT;
    const size_t size = seam_parcel_size(codec, ndim, shape), head = HEADER + 4 * (size_t)ndim;
    if (size == 0)
        return SEAM_E_LIMIT;
    if (space < size)
        return SEAM_E_SPACE;
    seam_packing p = {.payload = out + head,
                      .x = x,
                      .count = value_count(ndim, shape),
                      .channels = channels_of(codec, ndim, shape),
                      .seed = seed,
                      .scale = 1.0f,
                      .codec = codec,
                      .bits = KINDS[codec].bits,
                      .stochastic = rounding == SEAM_ROUND_STOCHASTIC};
    const int status = put_payload(&p, size - head, at);
    if (status != SEAM_OK)
        return status;
    put_header(out, codec, rounding, seed, p.scale, p.zero, ndim, shape);
    return (int64_t)size;
}

int64_t seam_parcel_pack(uint8_t *out, size_t space, const float *x, int codec, int rounding,
                         uint32_t seed, uint32_t ndim, const uint32_t *shape) {
    if (!codec_known(codec) || codec == SEAM_CODEC_KEPT)
        return SEAM_E_KIND;
    return pack(out, space, x, codec, rounding, seed, ndim, shape, NULL);
}

int64_t seam_parcel_pack_kept(uint8_t *out, size_t space, const float *x, const seam_parcel *at,
                              int rounding, uint32_t seed) {
    if (KINDS[at->codec].sparse != 1)
        return SEAM_E_KIND;
    return pack(out, space, x, SEAM_CODEC_KEPT, rounding, seed, at->ndim, at->shape, at);
}

int64_t seam_parcel_put(uint8_t *out, size_t space, const int8_t *q, float scale, int32_t zero,
                        uint32_t ndim, const uint32_t *shape) {
    const size_t size = seam_parcel_size(SEAM_CODEC_INT8, ndim, shape);
    if (size == 0)
        return SEAM_E_LIMIT;
    if (space < size)
        return SEAM_E_SPACE;
    const size_t head = HEADER + 4 * (size_t)ndim;
    put_header(out, SEAM_CODEC_INT8, SEAM_ROUND_NEAREST, 0, scale, zero, ndim, shape);
    memcpy(out + head, q, size - head);
    return (int64_t)size;
}

/* What the codec's own packer can have written, as far as it shows without the values. */
static int check(const seam_parcel *p) {
    const kind *k = &KINDS[p->codec];
    int status = SEAM_OK;
    if (k->bits > 8 || p->channels > 1)
        status = p->scale == 1.0f && p->zero == 0 ? SEAM_OK : SEAM_E_ARGUMENT;
    else
        status = seam_parcel_affine_check(p->scale, p->zero, p->bits);
    if (status != SEAM_OK || k->bits > 8)
        return status;
    return k->sparse ? seam_sparse_check(p) : seam_bits_check(p);
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
    parcel->bits = KINDS[parcel->codec].bits;
    parcel->channels = channels_of(parcel->codec, parcel->ndim, parcel->shape);
    parcel->payload = bytes + header;
    parcel->payload_size = payload_size(parcel->codec, parcel->values, parcel->channels);
    parcel->size = header + parcel->payload_size;
    if (size < parcel->size)
        return SEAM_E_SHORT;
    return check(parcel);
}

int seam_parcel_unpack(float *x, size_t space_values, const seam_parcel *p) {
    if (space_values < p->values)
        return SEAM_E_SPACE;
    const seam_codec_kernels *kernels = seam_kernels_now()->codec;
    switch (p->codec) {
    case SEAM_CODEC_F32:
        return kernels->copy(x, p->payload, p->values) ? SEAM_OK : SEAM_E_NOT_FINITE;
    case SEAM_CODEC_INT8:
        kernels->dequantise(x, (const int8_t *)p->payload, p->scale, p->zero, p->values);
        return SEAM_OK;
    case SEAM_CODEC_INT4:
        kernels->dequantise_pairs(x, p->payload, p->scale, p->zero, p->values);
        return SEAM_OK;
    case SEAM_CODEC_F16:
        return seam_half_unpack(x, p);
    case SEAM_CODEC_TOP10:
    case SEAM_CODEC_RANDTOP10:
        seam_sparse_unpack(x, p, p);
        return SEAM_OK;
    case SEAM_CODEC_KEPT:
        return SEAM_E_KIND;
    default:
        seam_bits_unpack(x, p);
        return SEAM_OK;
    }
}

int seam_parcel_unpack_kept(float *x, size_t space_values, const seam_parcel *p,
                            const seam_parcel *at) {
    if (p->codec != SEAM_CODEC_KEPT || KINDS[at->codec].sparse != 1)
        return SEAM_E_KIND;
    if (p->ndim != at->ndim || memcmp(p->shape, at->shape, 4 * (size_t)p->ndim) != 0)
        return SEAM_E_SHAPE;
    if (space_values < p->values)
        return SEAM_E_SPACE;
    seam_sparse_unpack(x, p, at);
    return SEAM_OK;
}
