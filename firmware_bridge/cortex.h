/* The registers that every Cortex-M has for its interrupts. */
#ifndef SEAM_CORTEX_H
#define SEAM_CORTEX_H

#include <stdint.h>

#define CORTEX(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL CORTEX(0xE000E010u)
#define SYSTICK_RELOAD CORTEX(0xE000E014u)
#define SYSTICK_VALUE CORTEX(0xE000E018u)
#define SYSTICK_ON 7u /* processor clock, interrupt, enabled */
#define INTERRUPT_CONTROL CORTEX(0xE000ED04u)
#define PENDSV_SET (1u << 28)
#define SYSTEM_PRIORITIES CORTEX(0xE000ED20u) /* bits 16..23: PendSV, 24..31: SysTick */

/* Less is more urgent; only three bits are sure to count. The line's protocol is the least. */
#define PRIORITY_UART 0x40u
#define PRIORITY_TICK 0x80u
#define PRIORITY_LINE 0xE0u
#define PRIORITY_LOCK 0xC0u

static inline void cortex_barrier(void) {
    __asm volatile("dsb\n isb" ::: "memory");
}

/* Interrupt `number` of the board. */
static inline void cortex_enable(uint32_t number, uint32_t priority) {
    ((volatile uint8_t *)0xE000E400u)[number] = (uint8_t)priority;
    CORTEX(0xE000E100u + 4u * (number / 32u)) = 1u << number % 32u;
}

/* Nothing of it is handled until cortex_release, and nothing is forgotten. */
static inline void cortex_hold(uint32_t number) {
    CORTEX(0xE000E180u + 4u * (number / 32u)) = 1u << number % 32u;
    cortex_barrier();
}

static inline void cortex_release(uint32_t number) {
    CORTEX(0xE000E100u + 4u * (number / 32u)) = 1u << number % 32u;
}

/* Lets its handler run as if it had happened. */
static inline void cortex_pend(uint32_t number) {
    CORTEX(0xE000E200u + 4u * (number / 32u)) = 1u << number % 32u;
}

#endif
