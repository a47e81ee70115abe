/* The line of an nRF52840-DK: its UART at 115200 baud, on the pins of the USB interface. */
#include "board.h"
#include "line_service.h"
#include "nrf52840.h"
#include "ring.h"

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

static ring came;
static const uint8_t *saying;
static volatile size_t unsaid;
static volatile int saying_now; /* a byte is on its way */
static volatile int full;

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

/* Six more bytes fit into the UART; what is lost beyond them is sent again. */
static void receive(void) {
    while (RX_READY != 0u) {
        if (ring_full(&came)) {
            full = 1;
            TELL_NOT = RX_TELLS;
            return;
        }
        RX_READY = 0; /* before the byte is read: the next one may come at once */
        if (ring_put(&came, (uint8_t)RECEIVED))
            line_wanted();
    }
}

static void say_next(void) {
    saying_now = unsaid != 0u;
    if (!saying_now) {
        line_wanted();
        return;
    }
    const uint8_t byte = *saying++;
    unsaid--;
    cortex_barrier(); /* from the next line on its interrupt may be here for the next byte */
    TO_SEND = byte;
}

void image_interrupt(void) {
    receive();
    if (TX_READY != 0u) {
        TX_READY = 0;
        say_next();
    }
}

size_t board_read(uint8_t *to, size_t space) {
    const size_t size = ring_take(&came, to, space);
    if (size != 0u && full) {
        full = 0;
        TELL = RX_TELLS;
        cortex_pend(INTERRUPT);
    }
    return size;
}

/* Nothing is on its way before. The first byte starts it, each that has gone asks for the next. */
void board_write(const uint8_t *bytes, size_t size) {
    saying = bytes;
    unsaid = size;
    if (size != 0u)
        say_next();
}

int board_writing(void) {
    return saying_now;
}
