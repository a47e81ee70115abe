/* A Netduino Plus 2 (STM32F405) as QEMU has it: without clocks to start, and without the chip's
 * random numbers. For the chip itself there is stm32f405/. */
#include "board.h"

#include "../stm32f405/stm32f405.h"

void board_init(void) {
}

uint32_t board_clock(void) {
    return PROCESSOR;
}
