/* What an nRF52840 keeps: five places of eight pages each at the end of its flash. */
#include <string.h>

#include "board.h"
#include "nrf52840.h"

#define FIRST 0x000D8000u
#define PAGE 4096u
#define SPACE (8u * PAGE)

_Static_assert(FIRST + BOARD_PLACES * SPACE == 0x00100000u, "up to the end, as board.ld has it");

#define READY CORTEX(NVMC + 0x400u)
#define MODE CORTEX(NVMC + 0x504u)
#define ERASE_PAGE CORTEX(NVMC + 0x508u)

enum { READING, WRITING, ERASING };

static void wait(void) {
    while (READY == 0u) {
    }
}

static void turn(uint32_t mode) {
    MODE = mode;
    cortex_barrier();
    wait();
}

uint32_t board_kept_space(void) {
    return SPACE;
}

static int is_erased(uint32_t page) {
    const volatile uint32_t *words = (const volatile uint32_t *)page;
    for (uint32_t i = 0; i < PAGE / 4u; i++)
        if (words[i] != UINT32_MAX)
            return 0;
    return 1;
}

/* The processor stands still for 85 ms a page; bytes lost meanwhile are sent again. A page that
 * nothing was written to is left as it is: each has 10,000 erases. */
int board_kept_erase(uint32_t place) {
    for (uint32_t page = FIRST + place * SPACE; page < FIRST + (place + 1u) * SPACE; page += PAGE) {
        if (is_erased(page))
            continue;
        board_watchdog();
        turn(ERASING);
        ERASE_PAGE = page;
        wait();
        turn(READING);
    }
    return 1;
}

int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes, size_t size) {
    volatile uint32_t *to = (volatile uint32_t *)(FIRST + place * SPACE + offset);
    if (offset > SPACE || size > SPACE - offset)
        return 0;
    turn(WRITING);
    for (size_t i = 0; i < size; i += 4u) {
        uint32_t word;
        memcpy(&word, bytes + i, sizeof word);
        *to++ = word;
        wait();
    }
    turn(READING);
    return 1;
}

int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to, size_t size) {
    if (offset > SPACE || size > SPACE - offset)
        return 0;
    memcpy(to, (const void *)(FIRST + place * SPACE + offset), size);
    return 1;
}
