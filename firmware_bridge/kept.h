/* What outlives a loss of power: a few places of the board, each with one thing, whole or not at
 * all. */
#ifndef SEAM_KEPT_H
#define SEAM_KEPT_H

#include <stddef.h>
#include <stdint.h>

#include "seam_front.h"

typedef enum {
    KEPT_FRONT, /* the two newest stay while the next is written; its number is a round */
    KEPT_KEYS   /* the one before stays while a new one is written */
} kept_what;

typedef struct {
    uint32_t place, number, size; /* size: bytes of all parts */
} kept_thing;

/* Keeps the parts, one behind the other. Those with this number or a later one are forgotten. 0:
 * the board keeps nothing, has less space, or did not write what it was given. */
int kept_save(kept_what what, uint32_t number, const seam_part *parts, uint32_t count);
/* The one of the largest number up to `most` that begins with these parts; 0: there is none. */
int kept_find(kept_thing *found, kept_what what, uint32_t most, const seam_part *parts,
              uint32_t count);
/* Some of its bytes. */
int kept_read(const kept_thing *thing, uint32_t offset, void *to, uint32_t size);
void kept_forget(kept_what what);

#endif
