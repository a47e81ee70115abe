/* The order of samples (SPEC.md): a stable sort by random numbers, in place, made anew each epoch.
 */
#include "batches.h"

#include "seam.h"

#define EPOCH_STREAM 0x45504F43u

/* Does sample a come after b? Equal numbers keep the order of the samples. */
static int is_after(uint32_t seed, uint32_t stream, uint16_t a, uint16_t b) {
    const uint32_t x = seam_random(seed, stream, a), y = seam_random(seed, stream, b);
    return x != y ? x > y : a > b;
}

/* Lets the sample at `at` sink to where nothing below it comes after it. */
static void sink(uint16_t *heap, uint32_t at, uint32_t size, uint32_t seed, uint32_t stream) {
    for (;;) {
        uint32_t child = 2u * at + 1u;
        if (child >= size)
            return;
        if (child + 1u < size && is_after(seed, stream, heap[child + 1u], heap[child]))
            child++;
        if (!is_after(seed, stream, heap[child], heap[at]))
            return;
        const uint16_t held = heap[at];
        heap[at] = heap[child];
        heap[child] = held;
        at = child;
    }
}

static void make(batches *walk) {
    const uint32_t stream = EPOCH_STREAM + (uint32_t)walk->epoch, n = walk->samples;
    for (uint32_t i = 0; i < n; i++)
        walk->order[i] = (uint16_t)i;
    for (uint32_t i = n / 2u; i-- > 0u;)
        sink(walk->order, i, n, walk->seed, stream);
    for (uint32_t last = n - 1u; last > 0u; last--) {
        const uint16_t largest = walk->order[0];
        walk->order[0] = walk->order[last];
        walk->order[last] = largest;
        sink(walk->order, 0, last, walk->seed, stream);
    }
}

uint32_t batches_sample(batches *walk, uint32_t seed, uint64_t position) {
    const uint64_t epoch = position / walk->samples;
    if (!walk->made || seed != walk->seed || epoch != walk->epoch) {
        walk->seed = seed;
        walk->epoch = epoch;
        walk->made = 1;
        make(walk);
    }
    return walk->order[position % walk->samples];
}
