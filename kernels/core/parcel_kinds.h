/* What the files of parcels share: one value to bits and back, and what each kind of payload does.
 */
#ifndef SEAM_PARCEL_KINDS_H
#define SEAM_PARCEL_KINDS_H

#include "bytes.h"
#include "round.h"
#include "seam.h"
#include "seam_math.h"

#define SEAM_PARCEL_STREAM 0x50415243u /* of the random bits that round */

/* Where a parcel is packed to; the payload is zero. count: product of shape. */
typedef struct {
    uint8_t *payload;
    const float *x;
    uint32_t count, channels, seed; /* channels: 1, or the last axis */
    float scale;
    int32_t zero;
    int codec, bits, stochastic;
} seam_packing;

static inline int seam_is_finite(float x) {
    return x - x == 0.0f;
}

/* The random number that rounds the value at `index`, where rounding is stochastic. */
static inline uint32_t seam_parcel_random(const seam_packing *p, uint32_t index) {
    return p->stochastic ? seam_random(p->seed, SEAM_PARCEL_STREAM, index) : 0x80000000u;
}

/* clamp(floor(fma(x, inv, zero) + u)), as the loops of arch/codec_loops.h. */
static inline int32_t seam_quantise_one(float x, float inv, int32_t zero, int bits, uint32_t r) {
    const float low = (float)-(1 << (bits - 1)), high = -low - 1.0f;
    float t = seam_fma(x, inv, (float)zero) + (float)(int32_t)(r >> 8) * 0x1p-24f;
    t = t < low ? low : t;
    t = t > high ? high : t;
    const int32_t whole = (int32_t)t;
    return whole - (t < (float)whole ? 1 : 0);
}

/* Value i of `bits` bits: low bits first in a byte, two's complement. */
static inline void seam_put_bits(uint8_t *to, uint32_t i, int32_t q, int bits) {
    const uint32_t each = 8u / (uint32_t)bits, at = (i % each) * (uint32_t)bits;
    to[i / each] = (uint8_t)(to[i / each] | ((uint32_t)q & ((1u << bits) - 1u)) << at);
}

static inline int32_t seam_get_bits(const uint8_t *from, uint32_t i, int bits) {
    const uint32_t each = 8u / (uint32_t)bits, at = (i % each) * (uint32_t)bits;
    const uint32_t q = (uint32_t)from[i / each] >> at & ((1u << bits) - 1u);
    const int32_t half = 1 << (bits - 1);
    return ((int32_t)q ^ half) - half;
}

/* Step and zero point for a range that has 0 in it. */
int seam_parcel_affine(float *scale, int32_t *zero, float low, float high, int bits);
/* Those that a packer can have written; anything else comes from a broken peer. */
int seam_parcel_affine_check(float scale, int32_t zero, int bits);

/* parcel_half.c: two bytes a value. */
void seam_half_pack(const seam_packing *p);
int seam_half_unpack(float *x, const seam_parcel *p);

/* parcel_bits.c: 8, 4 or 2 bits a value; scale and zero point for all or (channels) each place of
 * the last axis. */
size_t seam_bits_size(uint32_t count, uint32_t channels, int bits);
int seam_bits_pack(const seam_packing *p);
int seam_bits_check(const seam_parcel *p);
void seam_bits_unpack(float *x, const seam_parcel *p);

/* parcel_sparse.c: a tenth of the values. */
uint32_t seam_sparse_kept(uint32_t count);
size_t seam_sparse_size(uint32_t count, int with_places);
int seam_sparse_pack(const seam_packing *p, float *scale, int32_t *zero, const seam_parcel *at);
int seam_sparse_check(const seam_parcel *p);
void seam_sparse_unpack(float *x, const seam_parcel *p, const seam_parcel *at);

#endif
