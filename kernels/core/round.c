/* Counter-based random bits: the same (seed, stream, index) gives the same bits on any machine. */
#include "round.h"

uint32_t seam_random(uint32_t seed, uint32_t stream, uint32_t index) {
    return seam_mix(seam_random_key(seed, stream) + index * SEAM_RANDOM_STEP);
}

void seam_random_fill(uint32_t *out, uint32_t seed, uint32_t stream, uint32_t first, size_t count) {
    uint32_t key = seam_random_key(seed, stream);
    for (size_t i = 0; i < count; i++)
        out[i] = seam_mix(key + (first + (uint32_t)i) * SEAM_RANDOM_STEP);
}
