/* The line of an STM32F405: USART1 at 115200 baud by interrupt, sends on PA9, receives on PA10. */
#include "board.h"
#include "stm32f405.h"

void image_interrupt(void);

enum { PIN_TX = 9, PIN_RX = 10, INTERRUPT = 37 };

#define STATE USART_STATE(USART_1)
#define DATA USART_DATA(USART_1)
#define CONTROL USART_CONTROL(USART_1)
#define ALWAYS (USART_ON | USART_RX | USART_TX)

/* Reading the data behind the state is what ends an overrun, too. */
static int uart_came(void) {
    const uint32_t state = STATE;
    if ((state & (USART_CAME | USART_OVERRUN)) == USART_OVERRUN)
        (void)DATA;
    return (state & USART_CAME) != 0u;
}

static uint8_t uart_take(void) {
    return (uint8_t)DATA;
}

static int uart_room(void) {
    return (STATE & USART_EMPTY) != 0u;
}

static void uart_say(uint8_t byte) {
    DATA = byte;
}

/* At the interrupt controller: the UART asks for as long as a byte is there. */
static void uart_hold(void) {
    cortex_hold(INTERRUPT);
}

static void uart_release(void) {
    cortex_release(INTERRUPT);
}

static void uart_pend(void) {
    cortex_pend(INTERRUPT);
}

#include "../uart_line.h"

void board_line_start(void) {
    pin_for_usart(PIN_TX);
    pin_for_usart(PIN_RX);
    ON_BUS_2 |= 1u << 4;
    cortex_barrier();
    USART_DIVIDER(USART_1) = (BUS_2 + BAUD / 2u) / BAUD;
    CONTROL = ALWAYS | USART_RX_TELLS;
    cortex_enable(INTERRUPT, PRIORITY_UART);
}

/* Only here is CONTROL written once the line is up: who wants it to change asks for this. */
void image_interrupt(void) {
    receive();
    transmit();
    CONTROL = ALWAYS | USART_RX_TELLS | (unsaid != 0u ? USART_TX_TELLS : 0u);
}
