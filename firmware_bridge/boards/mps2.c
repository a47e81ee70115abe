/* Arm MPS2 and MPS2+ (an385: Cortex-M3, an386: M4, an500: M7), as QEMU has them. */
#include "board.h"

#define COUNTER (*(volatile uint32_t *)0x40028018u) /* 25 MHz */

#if defined(DEVICE_BAUD)
#define UART 0x40004000u
#define UART_IRQ 0u
#define CLOCK_HZ 25000000u
#include "cmsdk.h"
#endif

void board_init(void) {
#if defined(DEVICE_BAUD)
    line_start(DEVICE_BAUD);
#endif
}

/* An instruction takes 64 ns of emulated time. */
uint32_t board_instructions(void) {
    return (uint32_t)((uint64_t)COUNTER * 40u / 64u);
}
