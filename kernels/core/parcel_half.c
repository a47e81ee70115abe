/* Parcels of half floats (IEEE 754 binary16), by integers alone: the same bits on any machine. */
#include "parcel_kinds.h"

#define LARGEST 0x477FE000u /* bits of 65504 */

/* The nearest half, ties to even; stochastic: one of both neighbours. Larger ones become 65504. */
static uint32_t to_half(float x, uint32_t r, int stochastic) {
    const uint32_t bits = seam_to_bits(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size >= LARGEST)
        return sign | 0x7BFFu;
    const uint32_t exponent = size >> 23;
    uint32_t drop = 13, whole = size - (112u << 23);
    if (exponent < 113) { /* counts 2^-24 */
        drop = 126 - exponent;
        whole = exponent == 0 || drop > 31 ? 0 : (size & 0x7FFFFFu) | 0x800000u;
        drop = drop > 31 ? 31 : drop;
    }
    if (stochastic)
        return sign | (whole + (r >> (32 - drop))) >> drop;
    return sign | (whole + ((1u << (drop - 1)) - 1u) + (whole >> drop & 1u)) >> drop;
}

void seam_half_pack(const seam_packing *p) {
    for (uint32_t i = 0; i < p->count; i++)
        seam_put16(p->payload + 2 * (size_t)i,
                   to_half(p->x[i], seam_parcel_random(p, i), p->stochastic));
}

static float from_half(uint32_t half) {
    const uint32_t sign = half >> 15 << 31, exponent = half >> 10 & 31u, rest = half & 0x3FFu;
    if (exponent > 0)
        return seam_from_bits(sign | (exponent + 112u) << 23 | rest << 13);
    const float size = (float)(int32_t)rest * 0x1p-24f;
    return sign ? -size : size;
}

int seam_half_unpack(float *x, const seam_parcel *p) {
    for (uint32_t i = 0; i < p->values; i++) {
        const uint32_t half = seam_get16(p->payload + 2 * (size_t)i);
        if ((half & 0x7C00u) == 0x7C00u)
            return SEAM_E_NOT_FINITE;
        x[i] = from_half(half);
    }
    return SEAM_OK;
}
