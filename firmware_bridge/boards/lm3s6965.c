/* Stellaris LM3S6965 evaluation board (Cortex-M3), as QEMU has it. */
#include "board.h"

void board_init(void) {
}

uint32_t board_clock(void) {
    return 12500000u; /* as it comes out of reset */
}
