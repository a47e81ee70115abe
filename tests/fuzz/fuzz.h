/* Memory with exact bounds for the fuzz targets: the sanitizer sees the first byte too far. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

#endif
