/* What an STM32F405 keeps: five places, the last five sectors of its flash, 128 KB each. */
#include <string.h>

#include "board.h"
#include "stm32f405.h"

#define FIRST_SECTOR 7u
#define FIRST 0x08060000u
#define SPACE 0x20000u

_Static_assert(FIRST + BOARD_PLACES * SPACE == 0x08100000u, "up to the end, as board.ld has it");

#define ACCESS CORTEX(FLASH + 0x00u)
#define KEY CORTEX(FLASH + 0x04u)
#define STATE CORTEX(FLASH + 0x0Cu)
#define CONTROL CORTEX(FLASH + 0x10u)

enum { BUSY = 1 << 16, FAILED = 0xF2 };                         /* of STATE */
enum { WRITE = 1, ERASE = 2, WORDS = 2 << 8, START = 1 << 16 }; /* of CONTROL */
enum { CACHED = 1 << 10, EMPTY_CACHE = 1 << 12 };               /* of ACCESS */
#define LOCKED (1u << 31)

static int finish(void) {
    while ((STATE & BUSY) != 0u) {
    }
    return (STATE & FAILED) == 0u;
}

static void unlock(void) {
    (void)finish();
    if ((CONTROL & LOCKED) != 0u) {
        KEY = 0x45670123u;
        KEY = 0xCDEF89ABu;
    }
    STATE = FAILED; /* what failed before is not about this */
}

uint32_t board_kept_space(void) {
    return SPACE;
}

static int is_erased(const volatile uint32_t *words) {
    for (uint32_t i = 0; i < SPACE / 4u; i++)
        if (words[i] != UINT32_MAX)
            return 0;
    return 1;
}

/* The processor stands still for one or two seconds; bytes lost meanwhile are sent again. */
int board_kept_erase(uint32_t place) {
    if (place >= BOARD_PLACES)
        return 0;
    const volatile uint32_t *words = (const volatile uint32_t *)(FIRST + place * SPACE);
    if (is_erased(words))
        return 1;
    board_watchdog();
    unlock();
    CONTROL = WORDS | (FIRST_SECTOR + place) << 3 | ERASE;
    CONTROL |= START;
    (void)finish();
    CONTROL = LOCKED;
    ACCESS &= ~(uint32_t)CACHED; /* the cache has what was there before */
    ACCESS |= EMPTY_CACHE;
    ACCESS &= ~(uint32_t)EMPTY_CACHE;
    ACCESS |= CACHED;
    board_watchdog();
    return is_erased(words);
}

int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes, size_t size) {
    if (place >= BOARD_PLACES || offset > SPACE || size > SPACE - offset)
        return 0;
    volatile uint32_t *to = (volatile uint32_t *)(FIRST + place * SPACE + offset);
    int well = 1;
    unlock();
    CONTROL = WORDS | WRITE;
    for (size_t i = 0; i < size && well; i += 4u) {
        uint32_t word;
        memcpy(&word, bytes + i, sizeof word);
        *to++ = word;
        cortex_barrier();
        well = finish();
    }
    CONTROL = LOCKED;
    return well;
}

int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to, size_t size) {
    if (place >= BOARD_PLACES || offset > SPACE || size > SPACE - offset)
        return 0;
    memcpy(to, (const void *)(FIRST + place * SPACE + offset), size);
    return 1;
}
