/* Which samples are in which batch: an endless walk through all, in a new order each epoch. */
#ifndef SEAM_BATCHES_H
#define SEAM_BATCHES_H

#include <stdint.h>

typedef struct {
    uint16_t *order; /* [samples], the caller's: of the epoch it is made for */
    uint32_t samples, seed;
    uint64_t epoch;
    int made;
} batches;

/* The sample at a position of the walk: position i of batch b is at b * batch + i. */
uint32_t batches_sample(batches *walk, uint32_t seed, uint64_t position);

#endif
