/* What images that are measured share: the stack by painting, numbers in print. */
#include "bench.h"

#include "tell.h"

#define PAINT 0x5EA71E55u
#define PAINTED 12288u /* bytes below us; the linker script leaves at least 16 KB to the stack */
#define OURS 96u       /* of them, what painting itself may use */

static uintptr_t top;

static uintptr_t stack_now(void) {
    uintptr_t sp;
    __asm volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

__attribute__((noinline)) void bench_paint(void) {
    top = stack_now();
    volatile uint32_t *at = (volatile uint32_t *)(top - PAINTED);
    for (; (uintptr_t)at < top - OURS; at++)
        *at = PAINT;
}

uint32_t bench_painted(void) {
    const volatile uint32_t *at = (const volatile uint32_t *)(top - PAINTED);
    while ((uintptr_t)at < top - OURS && *at == PAINT)
        at++;
    return (uint32_t)(top - (uintptr_t)at);
}

void bench_say(const char *name, uint32_t value) {
    board_print(name);
    board_print(" ");
    tell_number(value);
    board_print("\n");
}
