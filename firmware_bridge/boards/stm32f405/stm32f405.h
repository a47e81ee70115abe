/* Registers of the STM32F405 that the board's files use (ST's reference manual RM0090). */
#ifndef SEAM_STM32F405_H
#define SEAM_STM32F405_H

#include "cortex.h"

#define PROCESSOR 168000000u /* ticks a second, and what hangs on it: */
#define BUS_1 (PROCESSOR / 4u)
#define BUS_2 (PROCESSOR / 2u)

#define WATCHDOG 0x40003000u
#define USART_2 0x40004400u /* on bus 1 */
#define USART_1 0x40011000u /* on bus 2 */
#define PORT_A 0x40020000u
#define RCC 0x40023800u
#define FLASH 0x40023C00u
#define RNG 0x50060800u

/* Clocks of what is on a bus. */
#define ON_AHB_1 CORTEX(RCC + 0x30u)
#define ON_AHB_2 CORTEX(RCC + 0x34u)
#define ON_BUS_1 CORTEX(RCC + 0x40u)
#define ON_BUS_2 CORTEX(RCC + 0x44u)

#define USART_STATE(usart) CORTEX((usart) + 0x00u)
#define USART_DATA(usart) CORTEX((usart) + 0x04u)
#define USART_DIVIDER(usart) CORTEX((usart) + 0x08u)
#define USART_CONTROL(usart) CORTEX((usart) + 0x0Cu)

enum { USART_OVERRUN = 1 << 3, USART_CAME = 1 << 5, USART_EMPTY = 1 << 7 }; /* of STATE */
enum {
    USART_RX = 1 << 2,
    USART_TX = 1 << 3,
    USART_RX_TELLS = 1 << 5, /* of a byte, and of an overrun */
    USART_TX_TELLS = 1 << 7,
    USART_ON = 1 << 13
}; /* of CONTROL */

#define BAUD 115200u

/* A pin of port A for its USART: alternate function 7; a line that hangs in the air is at rest. */
static inline void pin_for_usart(uint32_t pin) {
    volatile uint32_t *const function = &CORTEX(PORT_A + 0x20u + 4u * (pin / 8u));
    const uint32_t at = 4u * (pin % 8u);
    ON_AHB_1 |= 1u;
    cortex_barrier();
    *function = (*function & ~(15u << at)) | 7u << at;
    CORTEX(PORT_A + 0x0Cu) = (CORTEX(PORT_A + 0x0Cu) & ~(3u << 2u * pin)) | 1u << 2u * pin;
    CORTEX(PORT_A + 0x00u) = (CORTEX(PORT_A + 0x00u) & ~(3u << 2u * pin)) | 2u << 2u * pin;
}

#endif
