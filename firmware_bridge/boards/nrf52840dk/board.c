/* nRF52840-DK: clocks, random numbers, buttons, watchdog, and what happens after a fault. */
#include "board.h"

#include "nrf52840.h"
#include "tell.h"

/* Buttons pull their pin down. */
enum { BUTTON_YES = 11, BUTTON_NO = 12, BUTTON_FORGET = 25 };
#define INPUT_PULLED_UP 0x0Cu

#define WATCHDOG_TICKS (32768u * 120u - 1u) /* a layer may take long */
#define WATCHDOG_FED 0x6E524635u
#define FAULTED 0x544C5546u

/* Stays through a reset. */
__attribute__((section(".noinit"))) static volatile struct {
    uint32_t mark, pc, lr;
} fault;

static void tell_of_fault(void) {
    if (fault.mark != FAULTED)
        return;
    fault.mark = 0;
    board_print("before the reset: ");
    tell_fault(fault.pc, fault.lr);
}

void board_init(void) {
    CORTEX(CLOCK + 0x100u) = 0; /* the crystal: a UART needs it */
    CORTEX(CLOCK + 0x000u) = 1;
    while (CORTEX(CLOCK + 0x100u) == 0u) {
    }
    PIN_CONFIG(BUTTON_YES) = INPUT_PULLED_UP;
    PIN_CONFIG(BUTTON_NO) = INPUT_PULLED_UP;
    PIN_CONFIG(BUTTON_FORGET) = INPUT_PULLED_UP;
    CORTEX(RNG + 0x504u) = 1; /* bias correction */
    CORTEX(RNG + 0x000u) = 1;
    CORTEX(WDT + 0x504u) = WATCHDOG_TICKS;
    CORTEX(WDT + 0x508u) = 1;
    CORTEX(WDT + 0x50Cu) = 1; /* also while it sleeps, not while a debugger halts it */
    CORTEX(WDT + 0x000u) = 1;
    tell_of_fault();
}

uint32_t board_clock(void) {
    return 64000000u;
}

int board_random(void *context, uint8_t *out, size_t size) {
    (void)context;
    for (size_t i = 0; i < size; i++) {
        while (CORTEX(RNG + 0x100u) == 0u) {
        }
        CORTEX(RNG + 0x100u) = 0;
        out[i] = (uint8_t)CORTEX(RNG + 0x508u);
    }
    return 1;
}

void board_watchdog(void) {
    CORTEX(WDT + 0x600u) = WATCHDOG_FED;
}

static int pressed(unsigned pin) {
    return (PINS_IN >> pin & 1u) == 0u;
}

/* Button 1 is yes, button 2 is no. */
int board_confirm(const char *code) {
    (void)code; /* it is printed */
    return pressed(BUTTON_YES) ? 1 : pressed(BUTTON_NO) ? 0 : -1;
}

/* Button 4, held while the board starts. */
int board_forget(void) {
    return pressed(BUTTON_FORGET);
}

__attribute__((noreturn)) static void reset(void) {
    cortex_barrier();
    RESET_CONTROL = RESET_NOW;
    for (;;) {
    }
}

void board_fault(uint32_t pc, uint32_t lr) {
    fault.pc = pc;
    fault.lr = lr;
    fault.mark = FAULTED;
    reset();
}

/* The job is over, or cannot be, perhaps before the clock ticks: some seconds later from the start
 * again, for the next one. */
void board_exit(int code) {
    board_print(code == 0 ? "the job is over\n" : "stopped\n");
    board_watchdog();
    for (volatile uint32_t left = 32000000u; left != 0u; left--) {
    }
    reset();
}
