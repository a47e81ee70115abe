/* Arm's CMSDK UART by interrupt. Whoever includes this says UART (its address), UART_RX and UART_TX
 * (its interrupts). */
#include "board.h"
#include "cortex.h"
#include "line_service.h"
#include "ring.h"

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

static ring came;
static const uint8_t *saying;
static volatile size_t unsaid;

void board_line_start(void) {
    DIVIDER = board_clock() / BAUD;
    CONTROL = TX_ON | RX_ON | TX_TELLS | RX_TELLS;
    cortex_enable(UART_RX, PRIORITY_UART);
    cortex_enable(UART_TX, PRIORITY_UART);
}

/* A byte that finds the ring full stays where it is: the sender sees that there is no room. */
static void receive(void) {
    while ((STATE & RX_FULL) != 0u) {
        if (ring_full(&came)) {
            CONTROL &= ~(uint32_t)RX_TELLS;
            return;
        }
        CLEAR = RX_DONE; /* before the byte is read: the next one may come at once */
        if (ring_put(&came, (uint8_t)DATA))
            line_wanted();
    }
}

static void transmit(void) {
    CLEAR = TX_DONE;
    while (unsaid != 0u && (STATE & TX_FULL) == 0u) {
        DATA = *saying++;
        unsaid--;
        if (unsaid == 0u)
            line_wanted();
    }
}

void image_interrupt(void) {
    CLEAR = RX_DONE;
    receive();
    transmit();
}

size_t board_read(uint8_t *to, size_t space) {
    const size_t size = ring_take(&came, to, space);
    if (size != 0u && (CONTROL & RX_TELLS) == 0u) {
        CONTROL |= RX_TELLS;
        cortex_pend(UART_RX); /* what waits in the UART will not tell again */
    }
    return size;
}

void board_write(const uint8_t *bytes, size_t size) {
    saying = bytes;
    unsaid = size;
    cortex_pend(UART_TX);
}

int board_writing(void) {
    return unsaid != 0u;
}
