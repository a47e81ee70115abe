/* The line of a Stellaris LM3S6965: UART0, a PL011, by interrupt. */
#include "board.h"
#include "cortex.h"

void image_interrupt(void);

#define UART 0x4000C000u
#define DATA CORTEX(UART + 0x00u)
#define FLAGS CORTEX(UART + 0x18u)
#define WHOLE CORTEX(UART + 0x24u) /* of the divider, and its 64ths */
#define PART CORTEX(UART + 0x28u)
#define FORMAT CORTEX(UART + 0x2Cu)
#define CONTROL CORTEX(UART + 0x30u)
#define MASK CORTEX(UART + 0x38u)
#define CLEAR CORTEX(UART + 0x44u)
#define CLOCKS CORTEX(0x400FE104u)

#define INTERRUPT 5u
#define BAUD 115200u

enum { RX_EMPTY = 16, TX_FULL = 32 };  /* of FLAGS */
enum { RX_TELLS = 16, TX_TELLS = 32 }; /* of MASK and CLEAR */
enum { EIGHT_BITS = 0x60, ON = 0x301 };

static int uart_came(void) {
    return (FLAGS & RX_EMPTY) == 0u;
}

static uint8_t uart_take(void) {
    CLEAR = RX_TELLS; /* before the byte is read: the next one may come at once */
    return (uint8_t)DATA;
}

static int uart_room(void) {
    return (FLAGS & TX_FULL) == 0u;
}

static void uart_say(uint8_t byte) {
    DATA = byte;
}

static void uart_hold(void) {
    MASK &= ~(uint32_t)RX_TELLS;
}

static void uart_release(void) {
    MASK |= RX_TELLS;
    cortex_pend(INTERRUPT); /* what waits in the UART may not tell again */
}

static void uart_pend(void) {
    cortex_pend(INTERRUPT);
}

#include "uart_line.h"

void board_line_start(void) {
    const uint32_t divider = (board_clock() * 4u + BAUD / 2u) / BAUD; /* 64ths of 16 bauds */
    CLOCKS |= 1u;
    cortex_barrier();
    WHOLE = divider / 64u;
    PART = divider % 64u;
    FORMAT = EIGHT_BITS;
    MASK = RX_TELLS | TX_TELLS;
    CONTROL = ON;
    cortex_enable(INTERRUPT, PRIORITY_UART);
}

void image_interrupt(void) {
    receive();
    CLEAR = TX_TELLS;
    transmit();
}
