/* Arm MPS3 with the Corstone-300 (an547: Cortex-M55), as QEMU has it. */
#include "board.h"

#define COUNTER (*(volatile uint32_t *)0x59302018u) /* 20 MHz */

#if defined(DEVICE_BAUD)
#define UART 0x59303000u
#define UART_IRQ 33u
#define CLOCK_HZ 32000000u
#include "cmsdk.h"
#endif

void board_init(void) {
#if defined(DEVICE_BAUD)
    line_start(DEVICE_BAUD);
#endif
}

/* An instruction takes 64 ns of emulated time. */
uint32_t board_instructions(void) {
    return (uint32_t)((uint64_t)COUNTER * 50u / 64u);
}
