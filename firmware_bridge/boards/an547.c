/* Arm MPS3 with the Corstone-300 (an547: Cortex-M55), as QEMU has it. */
#include "board.h"

#define COUNTER (*(volatile uint32_t *)0x59302018u) /* 20 MHz */

void board_init(void) {
}

/* An instruction takes 64 ns of emulated time. */
uint32_t board_instructions(void) {
    return (uint32_t)((uint64_t)COUNTER * 50u / 64u);
}

uint32_t board_clock(void) {
    return 32000000u;
}
