/* The hooks of firmware_bridge/kept.c on a flash of this machine that can lose its power: after a
 * number of writes and erases it takes the next one half, and none after that. */
#include "kept.h"

#include <string.h>

#include "board.h"

#define SPACE 512u

void power(int operations);
void wear(const uint8_t *bytes);
uint8_t *cells(void);
int save(int what, uint32_t number, const uint8_t *bytes, uint32_t size);
int find(int what, uint32_t most, const uint8_t *prefix, uint32_t prefix_size, uint8_t *to,
         uint32_t *number);

static uint8_t flash[BOARD_PLACES][SPACE];
enum { ENDLESS = -1, GONE = -2 };
static int left = ENDLESS, misused; /* operations */

/* 1: whole; 0: half, and it was the last. */
static int spend(void) {
    if (left < 0)
        return 1;
    left = left > 0 ? left - 1 : GONE;
    return left != GONE;
}

uint32_t board_kept_space(void) {
    return SPACE;
}

int board_kept_erase(uint32_t place) {
    if (left == GONE)
        return 0;
    const int whole = spend();
    memset(flash[place], 0xFF, whole ? SPACE : SPACE / 2u);
    return whole;
}

int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes, size_t size) {
    if (left == GONE)
        return 0;
    misused |= offset % 32u != 0u || size % 32u != 0u || offset + size > SPACE;
    for (size_t i = 0; i < size; i++)
        misused |= flash[place][offset + i] != 0xFFu;
    const int whole = spend();
    memcpy(flash[place] + offset, bytes, whole ? size : size / 2u);
    return whole;
}

int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to, size_t size) {
    misused |= offset + size > SPACE;
    memcpy(to, flash[place] + offset, size);
    return 1;
}

/* ---- for the test ---- */

void power(int operations) {
    left = operations;
}

void wear(const uint8_t *bytes) {
    memcpy(flash, bytes, sizeof flash);
    left = ENDLESS;
}

uint8_t *cells(void) {
    return flash[0];
}

int save(int what, uint32_t number, const uint8_t *bytes, uint32_t size) {
    uint8_t copy[SPACE];
    memcpy(copy, bytes, size < SPACE ? size : SPACE);
    const uint32_t half = size / 3u;
    const seam_part parts[] = {{copy, half}, {copy + half, size - half}, {copy, 0}};
    return misused ? -1 : kept_save((kept_what)what, number, parts, 3);
}

int find(int what, uint32_t most, const uint8_t *prefix, uint32_t prefix_size, uint8_t *to,
         uint32_t *number) {
    uint8_t copy[SPACE];
    memcpy(copy, prefix, prefix_size);
    const seam_part part = {copy, prefix_size};
    kept_thing thing;
    if (misused || !kept_find(&thing, (kept_what)what, most, &part, 1))
        return misused ? -1 : 0;
    *number = thing.number;
    return kept_read(&thing, 0, to, thing.size) ? (int)thing.size : -1;
}
