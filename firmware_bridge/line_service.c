/* Clock and line of an image: SysTick counts milliseconds, PendSV moves what is on the line. */
#include "line_service.h"

#include "board.h"
#include "cortex.h"

void image_tick(void);
void image_pend(void);

static volatile uint64_t millis;
static volatile uint64_t due; /* when the channel has to be asked again */
static volatile int moved, by_program;
static uint8_t frame[CHANNEL_WIRE];

/* Reads until two readings agree: the clock's interrupt may come between the halves. */
static uint64_t steady(const volatile uint64_t *value) {
    uint64_t seen = *value, again = *value;
    while (seen != again) {
        seen = again;
        again = *value;
    }
    return seen;
}

uint64_t board_millis(void) {
    return steady(&millis);
}

void line_wanted(void) {
    INTERRUPT_CONTROL = PENDSV_SET;
}

void image_tick(void) {
    millis++;
    if (millis >= due)
        line_wanted();
}

/* Nothing here waits: a frame goes out by interrupt, and when it has gone this is called again. */
void line_move(void) {
    uint8_t bytes[64];
    size_t size;
    while ((size = board_read(bytes, sizeof bytes)) != 0u)
        channel_feed(bytes, size, board_millis());
    if (!board_writing() && (size = channel_output(frame, sizeof frame, board_millis())) != 0u)
        board_write(frame, size);
    const uint64_t now = board_millis();
    const uint64_t next = now + (board_writing() ? 1000u : channel_wait(now));
    __asm volatile("cpsid i" ::: "memory"); /* the clock must not see half of it */
    due = next;
    __asm volatile("cpsie i" ::: "memory");
}

void image_pend(void) {
    if (!by_program)
        line_move();
    moved = 1;
}

void line_by_program(int on) {
    by_program = on;
    line_wanted();
}

int line_begin(const seam_packet_config *packets) {
    const int status = channel_start(packets, 0);
    if (status != SEAM_OK)
        return status;
    SYSTEM_PRIORITIES = PRIORITY_TICK << 24 | PRIORITY_LINE << 16;
    SYSTICK_RELOAD = board_clock() / 1000u - 1u;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = SYSTICK_ON;
    board_line_start();
    line_wanted();
    return SEAM_OK;
}

void line_lock(void) {
    __asm volatile("msr basepri, %0" ::"r"(PRIORITY_LOCK) : "memory");
    cortex_barrier();
}

void line_unlock(void) {
    __asm volatile("msr basepri, %0" ::"r"(0) : "memory");
}

/* With interrupts off an interrupt still wakes the processor, so none is missed in between. */
void line_sleep(void) {
    __asm volatile("cpsid i" ::: "memory");
    if (!moved)
        __asm volatile("wfi" ::: "memory");
    moved = 0;
    __asm volatile("cpsie i" ::: "memory");
    cortex_barrier();
}
