/* The bytes that a UART's interrupt has taken and the line has not: one writer, one reader. */
#ifndef SEAM_RING_H
#define SEAM_RING_H

#include <stddef.h>
#include <stdint.h>

#define RING_BYTES 1024u /* a power of two: what comes while the line's protocol is busy */

typedef struct {
    volatile uint32_t written, read;
    uint8_t bytes[RING_BYTES];
} ring;

static inline int ring_full(const ring *r) {
    return r->written - r->read >= RING_BYTES;
}

/* 1: it is time to look at what has come. A frame ends with a zero; a long one must not fill it. */
static inline int ring_put(ring *r, uint8_t byte) {
    r->bytes[r->written % RING_BYTES] = byte;
    r->written++;
    return byte == 0u || r->written - r->read >= RING_BYTES / 2u;
}

static inline size_t ring_take(ring *r, uint8_t *to, size_t space) {
    size_t size = 0;
    while (size < space && r->read != r->written) {
        to[size++] = r->bytes[r->read % RING_BYTES];
        r->read++;
    }
    return size;
}

#endif
