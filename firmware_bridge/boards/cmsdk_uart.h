/* Arm's CMSDK UART by interrupt. Whoever includes this says UART (its address), UART_RX and UART_TX
 * (its interrupts). */
#include "board.h"
#include "cortex.h"

void image_interrupt(void);

#define DATA CORTEX(UART + 0x00u)
#define STATE CORTEX(UART + 0x04u)
#define CONTROL CORTEX(UART + 0x08u)
#define CLEAR CORTEX(UART + 0x0Cu)
#define DIVIDER CORTEX(UART + 0x10u)

enum { TX_FULL = 1, RX_FULL = 2 };                         /* of STATE */
enum { TX_ON = 1, RX_ON = 2, TX_TELLS = 4, RX_TELLS = 8 }; /* of CONTROL */
enum { TX_DONE = 1, RX_DONE = 2 };                         /* of CLEAR */

#define BAUD 115200u

static int uart_came(void) {
    return (STATE & RX_FULL) != 0u;
}

static uint8_t uart_take(void) {
    CLEAR = RX_DONE; /* before the byte is read: the next one may come at once */
    return (uint8_t)DATA;
}

static int uart_room(void) {
    return (STATE & TX_FULL) == 0u;
}

static void uart_say(uint8_t byte) {
    DATA = byte;
}

static void uart_hold(void) {
    CONTROL &= ~(uint32_t)RX_TELLS;
}

static void uart_release(void) {
    CONTROL |= RX_TELLS;
    cortex_pend(UART_RX); /* what waits in the UART will not tell again */
}

static void uart_pend(void) {
    cortex_pend(UART_TX);
}

#include "uart_line.h"

void board_line_start(void) {
    DIVIDER = board_clock() / BAUD;
    CONTROL = TX_ON | RX_ON | TX_TELLS | RX_TELLS;
    cortex_enable(UART_RX, PRIORITY_UART);
    cortex_enable(UART_TX, PRIORITY_UART);
}

void image_interrupt(void) {
    CLEAR = RX_DONE;
    receive();
    CLEAR = TX_DONE;
    transmit();
}
