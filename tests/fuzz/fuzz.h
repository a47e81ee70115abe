/* What fuzz targets share: memory with exact bounds, so that the sanitizer sees the first byte too
 * far, and which plans are worth running. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "seam_front.h"

#define WORK_MAX (1u << 21)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static inline void *exact(size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, 16, size ? size : 1) != 0)
        abort();
    return memory;
}

static inline uint8_t *copied(const uint8_t *data, size_t size) {
    uint8_t *bytes = exact(size);
    if (size > 0)
        memcpy(bytes, data, size);
    return bytes;
}

/* A small plan can ask for a great many multiply-adds; they would only slow the search down. */
static inline int is_short(const seam_plan *plan) {
    uint64_t work = 0;
    seam_layer l;
    for (uint32_t i = 0; i < plan->layers; i++) {
        seam_plan_layer(&l, plan, i);
        const seam_window *w = &l.window;
        const uint64_t taps = l.kind == SEAM_LAYER_DENSE
                                  ? (uint64_t)w->in_h * (uint64_t)w->in_w
                                  : (uint64_t)w->kernel_h * (uint64_t)w->kernel_w;
        work +=
            (uint64_t)w->out_h * (uint64_t)w->out_w * (uint64_t)w->out_c * taps * (uint64_t)w->in_c;
    }
    return work * plan->batch <= WORK_MAX;
}

#endif
