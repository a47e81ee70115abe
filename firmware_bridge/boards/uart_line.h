/* A UART as a device's line, by interrupt, whatever its registers are. Whoever includes this has
 * defined what the UART does:
 *
 *   uart_came()  a byte is there         uart_take()     the byte
 *   uart_room()  one more can be said    uart_say(byte)  says it
 *   uart_hold()  no more interrupts for bytes that came; they stay where they are
 *   uart_release()  these again, one of them at once if something has come
 *   uart_pend()  lets the handler run
 *
 * and its handler calls receive and transmit. */
#ifndef SEAM_UART_LINE_H
#define SEAM_UART_LINE_H

#include "board.h"
#include "line_service.h"
#include "ring.h"

static ring came;
static const uint8_t *saying;
static volatile size_t unsaid;
static volatile int held;

/* A byte that finds the ring full stays in the UART: either the sender sees that there is no room,
 * or what is lost is sent again. */
static void receive(void) {
    while (uart_came()) {
        if (ring_full(&came)) {
            held = 1;
            uart_hold();
            return;
        }
        if (ring_put(&came, uart_take()))
            line_wanted();
    }
}

static void transmit(void) {
    while (unsaid != 0u && uart_room()) {
        uart_say(*saying++);
        unsaid--;
        if (unsaid == 0u)
            line_wanted();
    }
}

size_t board_read(uint8_t *to, size_t space) {
    const size_t size = ring_take(&came, to, space);
    if (size != 0u && held) {
        held = 0;
        uart_release();
    }
    return size;
}

void board_write(const uint8_t *bytes, size_t size) {
    saying = bytes;
    unsaid = size;
    uart_pend();
}

int board_writing(void) {
    return unsaid != 0u;
}

#endif
