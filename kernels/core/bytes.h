/* Little-endian numbers, byte by byte: no alignment, no host byte order. */
#ifndef SEAM_BYTES_H
#define SEAM_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SEAM_LITTLE_ENDIAN 1 /* floats lie in memory as in a parcel */
#else
#define SEAM_LITTLE_ENDIAN 0
#endif

static inline void seam_put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void seam_put32(uint8_t *p, uint32_t v) {
    seam_put16(p, v);
    seam_put16(p + 2, v >> 16);
}

static inline uint16_t seam_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | (uint32_t)p[1] << 8);
}

static inline uint32_t seam_get32(const uint8_t *p) {
    return seam_get16(p) | (uint32_t)seam_get16(p + 2) << 16;
}

static inline void seam_put_float(uint8_t *p, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    seam_put32(p, bits);
}

static inline float seam_get_float(const uint8_t *p) {
    uint32_t bits = seam_get32(p);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

#endif
