/* The line of a Stellaris LM3S6965: UART0, a PL011, by interrupt. */
#include "board.h"
#include "cortex.h"
#include "line_service.h"
#include "ring.h"

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

static ring came;
static const uint8_t *saying;
static volatile size_t unsaid;

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

/* A byte that finds the ring full stays where it is: the sender sees that there is no room. */
static void receive(void) {
    while ((FLAGS & RX_EMPTY) == 0u) {
        if (ring_full(&came)) {
            MASK &= ~(uint32_t)RX_TELLS;
            return;
        }
        CLEAR = RX_TELLS; /* before the byte is read: the next one may come at once */
        if (ring_put(&came, (uint8_t)DATA))
            line_wanted();
    }
}

void image_interrupt(void) {
    receive();
    CLEAR = TX_TELLS;
    while (unsaid != 0u && (FLAGS & TX_FULL) == 0u) {
        DATA = *saying++;
        unsaid--;
        if (unsaid == 0u)
            line_wanted();
    }
}

size_t board_read(uint8_t *to, size_t space) {
    const size_t size = ring_take(&came, to, space);
    if (size != 0u && (MASK & RX_TELLS) == 0u) {
        MASK |= RX_TELLS;
        cortex_pend(INTERRUPT); /* what waits in the UART may not tell again */
    }
    return size;
}

void board_write(const uint8_t *bytes, size_t size) {
    saying = bytes;
    unsaid = size;
    cortex_pend(INTERRUPT);
}

int board_writing(void) {
    return unsaid != 0u;
}
