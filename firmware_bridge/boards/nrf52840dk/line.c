/* The line of an nRF52840-DK: its UART at 115200 baud, on the pins of the USB interface. */
#include "board.h"
#include "nrf52840.h"

void image_interrupt(void);

enum { PIN_TX = 6, PIN_RX = 8, INTERRUPT = 2 };
enum { RX_TELLS = 1 << 2, TX_TELLS = 1 << 7 }; /* of INTENSET and INTENCLR */

#define START_RX CORTEX(UART + 0x000u)
#define START_TX CORTEX(UART + 0x008u)
#define RX_READY CORTEX(UART + 0x108u)
#define TX_READY CORTEX(UART + 0x11Cu)
#define TELL CORTEX(UART + 0x304u)
#define TELL_NOT CORTEX(UART + 0x308u)
#define ENABLE CORTEX(UART + 0x500u)
#define SELECT_TX CORTEX(UART + 0x50Cu)
#define SELECT_RX CORTEX(UART + 0x514u)
#define RECEIVED CORTEX(UART + 0x518u)
#define TO_SEND CORTEX(UART + 0x51Cu)
#define BAUD CORTEX(UART + 0x524u)
#define BAUD_115200 0x01D7E000u
#define OUTPUT_HIGH 3u

static volatile int on_its_way; /* a byte */

static int uart_came(void) {
    return RX_READY != 0u;
}

static uint8_t uart_take(void) {
    RX_READY = 0; /* before the byte is read: the next one may come at once */
    return (uint8_t)RECEIVED;
}

static int uart_room(void) {
    return !on_its_way;
}

static void uart_say(uint8_t byte) {
    on_its_way = 1;
    TO_SEND = byte;
}

static void uart_hold(void) {
    TELL_NOT = RX_TELLS;
}

static void uart_release(void) {
    TELL = RX_TELLS;
    cortex_pend(INTERRUPT);
}

static void uart_pend(void) {
    cortex_pend(INTERRUPT);
}

#include "../uart_line.h"

void board_line_start(void) {
    CORTEX(GPIO + 0x508u) = 1u << PIN_TX; /* a line at rest is high */
    PIN_CONFIG(PIN_TX) = OUTPUT_HIGH;
    PIN_CONFIG(PIN_RX) = 0;
    SELECT_TX = PIN_TX;
    SELECT_RX = PIN_RX;
    BAUD = BAUD_115200;
    ENABLE = 4;
    TELL = RX_TELLS | TX_TELLS;
    cortex_enable(INTERRUPT, PRIORITY_UART);
    START_RX = 1;
    START_TX = 1;
}

/* Each byte that has gone makes room for the next. */
void image_interrupt(void) {
    receive();
    if (TX_READY != 0u) {
        TX_READY = 0;
        on_its_way = 0;
    }
    transmit();
}
