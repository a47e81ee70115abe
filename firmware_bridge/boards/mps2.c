/* Arm MPS2 and MPS2+ (an385: Cortex-M3, an386: M4, an500: M7), as QEMU has them. */
#include "board.h"

#define COUNTER (*(volatile uint32_t *)0x40028018u) /* 25 MHz */

void board_init(void) {
}

/* An instruction takes 64 ns of emulated time. */
uint32_t board_instructions(void) {
    return (uint32_t)((uint64_t)COUNTER * 40u / 64u);
}

uint32_t board_clock(void) {
    return 25000000u;
}
