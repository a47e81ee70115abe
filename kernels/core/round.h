/* The integer hash behind every random number, for those who draw many from one stream. */
#ifndef SEAM_ROUND_H
#define SEAM_ROUND_H

#include "seam.h"

static inline uint32_t seam_mix(uint32_t h) {
    h ^= h >> 16;
    h *= 0x7FEB352Du;
    h ^= h >> 15;
    h *= 0x846CA68Bu;
    return h ^ (h >> 16);
}

/* seam_random(seed, stream, i) is seam_mix(seam_random_key(seed, stream) + i * SEAM_RANDOM_STEP).
 */
#define SEAM_RANDOM_STEP 0x9E3779B9u

static inline uint32_t seam_random_key(uint32_t seed, uint32_t stream) {
    return seam_mix(seam_mix(seed + SEAM_RANDOM_STEP) ^ stream);
}

#endif
