/* STM32F405: clocks, random numbers, watchdog, and a console on USART2 (PA2, 115200 baud). */
#include "board.h"

#include "stm32f405.h"
#include "tell.h"

#define CLOCKS CORTEX(RCC + 0x00u)
#define PLL CORTEX(RCC + 0x04u)
#define CHOICE CORTEX(RCC + 0x08u)
#define FLASH_ACCESS CORTEX(FLASH + 0x00u)

/* Megahertz of the board's crystal, whatever it is; 0: it has none, and the chip's own oscillator
 * must do. That is off by up to 1 % in a room, and too much for a UART in the cold or the heat. */
#if !defined(BOARD_CRYSTAL)
#define BOARD_CRYSTAL 0u
#endif

enum { CRYSTAL_ON = 1 << 16, CRYSTAL_READY = 1 << 17 }; /* of CLOCKS */
enum { PLL_ON = 1 << 24, PLL_READY = 1 << 25 };

static void wait_for(const volatile uint32_t *where, uint32_t what) {
    while ((*where & what) != what) {
    }
}

/* 1 MHz, times 336, by 2 for the processor and by 7 for the random numbers (48 MHz). */
static void start_clocks(void) {
    const uint32_t megahertz = BOARD_CRYSTAL != 0u ? BOARD_CRYSTAL : 16u;
    const uint32_t source = BOARD_CRYSTAL != 0u ? 1u << 22 : 0u;
    if (BOARD_CRYSTAL != 0u) {
        CLOCKS |= CRYSTAL_ON;
        wait_for(&CLOCKS, CRYSTAL_READY);
    }
    PLL = (PLL & 0xF0000000u) | 7u << 24 | source | 336u << 6 | megahertz;
    CLOCKS |= PLL_ON;
    wait_for(&CLOCKS, PLL_READY);
    FLASH_ACCESS = 7u << 8 | 5u; /* caches, reading ahead, five wait states: before it is fast */
    wait_for(&FLASH_ACCESS, 5u);
    CHOICE = 4u << 13 | 5u << 10; /* bus 2 by two, bus 1 by four */
    CHOICE |= 2u;
    wait_for(&CHOICE, 2u << 2);
}

uint32_t board_clock(void) {
    return PROCESSOR;
}

/* ---- for people ---- */

static void start_console(void) {
    pin_for_usart(2);
    ON_BUS_1 |= 1u << 17;
    cortex_barrier();
    USART_DIVIDER(USART_2) = (BUS_1 + BAUD / 2u) / BAUD;
    USART_CONTROL(USART_2) = USART_ON | USART_TX;
}

/* Waits for each byte: a fault must be able to say so, whatever is broken. */
void board_print(const char *text) {
    for (; *text != '\0'; text++) {
        wait_for(&USART_STATE(USART_2), USART_EMPTY);
        USART_DATA(USART_2) = (uint8_t)*text;
    }
}

void board_fault(uint32_t pc, uint32_t lr) {
    tell_fault(pc, lr);
    board_exit(255);
}

/* Nobody feeds the watchdog any more: half a minute later all begins anew. */
void board_exit(int code) {
    board_print(code == 0 ? "the job is over\n" : "stopped\n");
    __asm volatile("cpsid i" ::: "memory");
    for (;;) {
    }
}

/* ---- watchdog: 32 s, 22 s if its oscillator is fast ---- */

enum { FEED = 0xAAAA, UNLOCK = 0x5555, START = 0xCCCC };
#define WATCHDOG_KEY CORTEX(WATCHDOG + 0x00u)
#define DEBUGGER_STOPS CORTEX(0xE0042008u)

static void start_watchdog(void) {
    DEBUGGER_STOPS |= 1u << 12; /* it waits while a debugger halts the processor */
    WATCHDOG_KEY = START;
    WATCHDOG_KEY = UNLOCK;
    CORTEX(WATCHDOG + 0x04u) = 6u; /* by 256 */
    CORTEX(WATCHDOG + 0x08u) = 0xFFFu;
    while (CORTEX(WATCHDOG + 0x0Cu) != 0u) {
    }
    WATCHDOG_KEY = FEED;
}

void board_watchdog(void) {
    WATCHDOG_KEY = FEED;
}

/* ---- random numbers ---- */

#define RNG_CONTROL CORTEX(RNG + 0x00u)
#define RNG_STATE CORTEX(RNG + 0x04u)
#define RNG_DATA CORTEX(RNG + 0x08u)

enum { RNG_ON = 1 << 2 };
enum { RNG_READY = 1, RNG_TROUBLE = 0x66 }; /* of STATE: clock or seed is wrong, or was */

static void start_random(void) {
    ON_AHB_2 |= 1u << 6;
    cortex_barrier();
    RNG_CONTROL = RNG_ON;
}

/* The next 32 bits; 0: not now. Two that are the same are a defect, so the first only compares. */
static int next_word(uint32_t *word) {
    static uint32_t last;
    static int any;
    if ((RNG_STATE & RNG_TROUBLE) != 0u) {
        RNG_STATE = 0;
        RNG_CONTROL = 0;
        RNG_CONTROL = RNG_ON;
        any = 0;
        return 0;
    }
    if ((RNG_STATE & RNG_READY) == 0u)
        return 0;
    const uint32_t before = last;
    const int compared = any;
    last = RNG_DATA;
    any = 1;
    *word = last;
    return compared && last != before;
}

/* A word takes 40 ticks of 48 MHz: many more tries than that, and then the caller asks again. */
int board_random(void *context, uint8_t *out, size_t size) {
    uint32_t word = 0;
    (void)context;
    for (size_t i = 0; i < size; i++) {
        for (int tries = 0; i % 4u == 0u && !next_word(&word); tries++)
            if (tries == 1000)
                return 0;
        out[i] = (uint8_t)(word >> 8u * (i % 4u));
    }
    return 1;
}

void board_init(void) {
    start_clocks();
    start_console();
    start_watchdog();
    start_random();
}
