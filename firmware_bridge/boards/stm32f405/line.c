/* The line of an STM32F405: USART1 at 115200 baud by interrupt, sends on PA9, receives on PA10. */
#include "board.h"
#include "line_service.h"
#include "ring.h"
#include "stm32f405.h"

void image_interrupt(void);

enum { PIN_TX = 9, PIN_RX = 10, INTERRUPT = 37 };

#define STATE USART_STATE(USART_1)
#define DATA USART_DATA(USART_1)
#define CONTROL USART_CONTROL(USART_1)
#define ALWAYS (USART_ON | USART_RX | USART_TX)

static ring came;
static const uint8_t *saying;
static volatile size_t unsaid;
static volatile int full;

void board_line_start(void) {
    pin_for_usart(PIN_TX);
    pin_for_usart(PIN_RX);
    ON_BUS_2 |= 1u << 4;
    cortex_barrier();
    USART_DIVIDER(USART_1) = (BUS_2 + BAUD / 2u) / BAUD;
    CONTROL = ALWAYS | USART_RX_TELLS;
    cortex_enable(INTERRUPT, PRIORITY_UART);
}

/* A byte that finds the ring full stays in the UART, which has room for one more; what is lost
 * beyond is sent again. Reading the data behind the state is what ends an overrun, too. */
static void receive(void) {
    uint32_t state;
    while (((state = STATE) & (USART_CAME | USART_OVERRUN)) != 0u) {
        if (ring_full(&came)) {
            full = 1;
            cortex_hold(INTERRUPT); /* it asks for as long as a byte is there */
            return;
        }
        const uint8_t byte = (uint8_t)DATA;
        if ((state & USART_CAME) != 0u && ring_put(&came, byte))
            line_wanted();
    }
}

static void transmit(void) {
    while (unsaid != 0u && (STATE & USART_EMPTY) != 0u) {
        DATA = *saying++;
        unsaid--;
        if (unsaid == 0u)
            line_wanted();
    }
}

/* Only here is CONTROL written once the line is up: who wants it to change asks for this. */
void image_interrupt(void) {
    receive();
    transmit();
    CONTROL = ALWAYS | USART_RX_TELLS | (unsaid != 0u ? USART_TX_TELLS : 0u);
}

size_t board_read(uint8_t *to, size_t space) {
    const size_t size = ring_take(&came, to, space);
    if (size != 0u && full) {
        full = 0;
        cortex_release(INTERRUPT);
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
