/* Things in places: a head of 32 bytes, then the parts. The head is written last and has a checksum
 * of the rest, so what a loss of power interrupts is nothing; a place is only written where nothing
 * is that is still needed. */
#include "kept.h"

#include <string.h>

#include "board.h"
#include "seam.h"

#define MAGIC 0x5450454Bu /* "KEPT" */
#define UNIT 32u          /* all writes begin and end at multiples: flash is written in units */

typedef struct {
    uint32_t magic, number, size, crc; /* of all parts */
    uint32_t check;                    /* crc of what is above */
    uint32_t unused[3];
} head;

_Static_assert(sizeof(head) == UNIT, "the head is one unit");

static const struct {
    uint32_t first, count;
} places[] = {[KEPT_FRONT] = {0, 3}, [KEPT_KEYS] = {3, 2}};

_Static_assert(BOARD_PLACES == 5u, "those of fronts and of keys");

__attribute__((weak)) uint32_t board_kept_space(void) {
    return 0;
}

__attribute__((weak)) int board_kept_erase(uint32_t place) {
    (void)place;
    return 0;
}

__attribute__((weak)) int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes,
                                           size_t size) {
    (void)place, (void)offset, (void)bytes, (void)size;
    return 0;
}

__attribute__((weak)) int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to,
                                          size_t size) {
    (void)place, (void)offset, (void)to, (void)size;
    return 0;
}

/* ---- reading ---- */

/* What is in a place; 0: nothing whole. */
static int open(head *h, uint32_t place) {
    uint8_t bytes[UNIT];
    const uint32_t space = board_kept_space();
    if (space < UNIT || !board_kept_read(place, 0, (uint8_t *)h, sizeof *h) || h->magic != MAGIC ||
        h->check != seam_crc32(0, h, offsetof(head, check)) || h->size > space - UNIT)
        return 0;
    uint32_t crc = 0;
    for (uint32_t at = 0; at < h->size; at += UNIT) {
        const uint32_t size = h->size - at < UNIT ? h->size - at : UNIT;
        if (!board_kept_read(place, UNIT + at, bytes, size))
            return 0;
        crc = seam_crc32(crc, bytes, size);
    }
    return crc == h->crc;
}

int kept_read(const kept_thing *thing, uint32_t offset, void *to, uint32_t size) {
    return offset <= thing->size && size <= thing->size - offset &&
           board_kept_read(thing->place, UNIT + offset, to, size);
}

static int begins_with(const kept_thing *thing, const seam_part *parts, uint32_t count) {
    uint8_t bytes[UNIT];
    uint32_t offset = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t at = 0; at < parts[i].size; at += UNIT) {
            const uint32_t size = parts[i].size - at < UNIT ? parts[i].size - at : UNIT;
            if (!kept_read(thing, offset, bytes, size) ||
                memcmp(bytes, (const uint8_t *)parts[i].at + at, size) != 0)
                return 0;
            offset += size;
        }
    return 1;
}

int kept_find(kept_thing *found, kept_what what, uint32_t most, const seam_part *parts,
              uint32_t count) {
    int any = 0;
    for (uint32_t i = 0; i < places[what].count; i++) {
        head h;
        const uint32_t place = places[what].first + i;
        if (!open(&h, place) || h.number > most || (any && h.number < found->number))
            continue;
        const kept_thing thing = {place, h.number, h.size};
        if (!begins_with(&thing, parts, count))
            continue;
        *found = thing;
        any = 1;
    }
    return any;
}

/* ---- writing ---- */

/* A place for a new thing of this number: one that has nothing, or the oldest. */
static uint32_t make_room(kept_what what, uint32_t number) {
    uint32_t chosen = places[what].first, oldest = UINT32_MAX;
    for (uint32_t i = 0; i < places[what].count; i++) {
        head h;
        const uint32_t place = places[what].first + i;
        uint32_t age = 0; /* nothing */
        if (open(&h, place)) {
            if (h.number >= number)
                (void)board_kept_erase(place);
            else
                age = 1u + h.number;
        }
        if (age < oldest) {
            oldest = age;
            chosen = place;
        }
    }
    return chosen;
}

static int write_parts(head *h, uint32_t place, const seam_part *parts, uint32_t count) {
    uint8_t unit[UNIT] = {0};
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *from = parts[i].at;
        h->crc = seam_crc32(h->crc, from, parts[i].size);
        for (uint32_t at = 0; at < parts[i].size;) {
            const uint32_t filled = h->size % UNIT, left = parts[i].size - at;
            const uint32_t size = left < UNIT - filled ? left : UNIT - filled;
            memcpy(unit + filled, from + at, size);
            at += size;
            h->size += size;
            if (h->size % UNIT == 0u && !board_kept_write(place, h->size, unit, UNIT))
                return 0;
        }
    }
    const uint32_t filled = h->size % UNIT;
    memset(unit + filled, 0, UNIT - filled);
    return filled == 0u || board_kept_write(place, UNIT + h->size - filled, unit, UNIT);
}

int kept_save(kept_what what, uint32_t number, const seam_part *parts, uint32_t count) {
    uint64_t size = UNIT;
    for (uint32_t i = 0; i < count; i++)
        size += parts[i].size;
    if (size > board_kept_space())
        return 0;
    head h = {.magic = MAGIC, .number = number};
    const uint32_t place = make_room(what, number);
    if (!board_kept_erase(place) || !write_parts(&h, place, parts, count))
        return 0;
    h.check = seam_crc32(0, &h, offsetof(head, check));
    return board_kept_write(place, 0, (const uint8_t *)&h, sizeof h) && open(&h, place);
}

void kept_forget(kept_what what) {
    for (uint32_t i = 0; i < places[what].count && board_kept_space() != 0u; i++)
        (void)board_kept_erase(places[what].first + i);
}
