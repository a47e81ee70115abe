/* Parcels of 8, 4 or 2 bits a value, one value at a time; with channels, the payload begins with a
 * float scale and then a zero point in a byte for each place of the last axis. */
#include "parcel_kinds.h"

size_t seam_bits_size(uint32_t count, uint32_t channels, int bits) {
    const uint32_t each = 8u / (uint32_t)bits;
    return (channels > 1 ? 5 * (size_t)channels : 0) + ((size_t)count + each - 1) / each;
}

static int channel_range(float *low, float *high, const seam_packing *p, uint32_t channel) {
    *low = *high = 0.0f;
    for (uint32_t i = channel; i < p->count; i += p->channels) {
        if (!seam_is_finite(p->x[i]))
            return SEAM_E_NOT_FINITE;
        *low = p->x[i] < *low ? p->x[i] : *low;
        *high = p->x[i] > *high ? p->x[i] : *high;
    }
    return SEAM_OK;
}

static void channel_put(const seam_packing *p, uint8_t *values, uint32_t channel, float scale,
                        int32_t zero) {
    const float inv = 1.0f / scale;
    for (uint32_t i = channel; i < p->count; i += p->channels)
        seam_put_bits(values, i,
                      seam_quantise_one(p->x[i], inv, zero, p->bits, seam_parcel_random(p, i)),
                      p->bits);
}

int seam_bits_pack(const seam_packing *p) {
    if (p->channels <= 1) {
        channel_put(p, p->payload, 0, p->scale, p->zero);
        return SEAM_OK;
    }
    uint8_t *zeros = p->payload + 4 * (size_t)p->channels, *values = zeros + p->channels;
    for (uint32_t channel = 0; channel < p->channels; channel++) {
        float low, high, scale;
        int32_t zero;
        int status = channel_range(&low, &high, p, channel);
        if (status == SEAM_OK)
            status = seam_parcel_affine(&scale, &zero, low, high, p->bits);
        if (status != SEAM_OK)
            return status;
        seam_put_float(p->payload + 4 * (size_t)channel, scale);
        zeros[channel] = (uint8_t)zero;
        channel_put(p, values, channel, scale, zero);
    }
    return SEAM_OK;
}

static const uint8_t *values_of(const seam_parcel *p) {
    return p->payload + (p->channels > 1 ? 5 * (size_t)p->channels : 0);
}

static int32_t zero_of(const seam_parcel *p, uint32_t channel) {
    return (int8_t)p->payload[4 * (size_t)p->channels + channel];
}

int seam_bits_check(const seam_parcel *p) {
    const uint32_t each = 8u / (uint32_t)p->bits, last = p->values % each;
    if (last != 0 && p->payload[p->payload_size - 1] >> (last * (uint32_t)p->bits) != 0)
        return SEAM_E_ARGUMENT;
    for (uint32_t channel = 0; p->channels > 1 && channel < p->channels; channel++) {
        const int status = seam_parcel_affine_check(
            seam_get_float(p->payload + 4 * (size_t)channel), zero_of(p, channel), p->bits);
        if (status != SEAM_OK)
            return status;
    }
    return SEAM_OK;
}

void seam_bits_unpack(float *x, const seam_parcel *p) {
    const uint8_t *values = values_of(p);
    for (uint32_t channel = 0; channel < p->channels; channel++) {
        const float scale =
            p->channels > 1 ? seam_get_float(p->payload + 4 * (size_t)channel) : p->scale;
        const int32_t zero = p->channels > 1 ? zero_of(p, channel) : p->zero;
        for (uint32_t i = channel; i < p->values; i += p->channels)
            x[i] = (float)(seam_get_bits(values, i, p->bits) - zero) * scale;
    }
}
