/* A CMSDK UART and SysTick as a device's line and clock. The board defines UART, UART_IRQ and
 * CLOCK_HZ and includes this. */
#ifndef SEAM_BOARD_CMSDK_H
#define SEAM_BOARD_CMSDK_H

#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define DATA REGISTER(UART)
#define STATE REGISTER(UART + 4u) /* bit 0: nothing more can be sent; bit 1: a byte has come */
#define CONTROL REGISTER(UART + 8u)
#define INTERRUPTS REGISTER(UART + 12u) /* written: clears */
#define DIVIDER REGISTER(UART + 16u)
#define ENABLED 11u /* send, receive, an interrupt for each byte that came */
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define NVIC_ENABLE REGISTER(0xE000E100u + UART_IRQ / 32u * 4u)
#define NVIC_DISABLE REGISTER(0xE000E180u + UART_IRQ / 32u * 4u)
#define OUR_BIT (1u << UART_IRQ % 32u)
#define RING 4096u /* a power of 2 */

static volatile uint32_t ticks_low, ticks_high, put_at, got_at; /* put_at - got_at: bytes there */
static uint8_t ring[RING];

static void line_start(uint32_t baud) {
    DIVIDER = CLOCK_HZ / baud;
    CONTROL = ENABLED;
    NVIC_ENABLE = OUR_BIT;
    SYSTICK_RELOAD = CLOCK_HZ / 1000u - 1u;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = 7u; /* the processor's clock, with interrupts */
}

void board_tick(void) {
    if (++ticks_low == 0u)
        ticks_high++;
}

/* When the ring is full, the byte stays in the UART until there is room. */
void board_interrupt(void) {
    while ((STATE & 2u) != 0u) {
        if (put_at - got_at == RING) {
            NVIC_DISABLE = OUR_BIT;
            return;
        }
        INTERRUPTS = 2u; /* before the byte is read, or the next one is missed */
        ring[put_at % RING] = (uint8_t)DATA;
        put_at = put_at + 1u;
    }
}

size_t board_read(uint8_t *to, size_t size) {
    size_t count = 0;
    while (count < size && got_at != put_at) {
        to[count++] = ring[got_at % RING];
        got_at = got_at + 1u;
    }
    NVIC_ENABLE = OUR_BIT;
    return count;
}

void board_write(const uint8_t *from, size_t size) {
    for (size_t i = 0; i < size; i++) {
        while ((STATE & 1u) != 0u) {
        }
        DATA = from[i];
    }
}

uint64_t board_millis(void) {
    uint32_t high, low;
    do {
        high = ticks_high;
        low = ticks_low;
    } while (high != ticks_high);
    return (uint64_t)high << 32 | low;
}

void board_sleep(void) {
    __asm volatile("cpsid i" ::: "memory");
    if (got_at == put_at)
        __asm volatile("dsb\n wfi" ::: "memory"); /* a pending interrupt ends it, masked or not */
    __asm volatile("cpsie i\n isb" ::: "memory");
}

#endif
