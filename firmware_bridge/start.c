/* From reset to main on a Cortex-M: the vector table, memory, the FPU, and a fault that says where.
 */
#include <stdint.h>
#include <string.h>

#include "board.h"

#define CPACR (*(volatile uint32_t *)0xE000ED88u) /* who may use the coprocessors */
#define FPU_ON (0xFu << 20)

extern uint32_t image_stack_top[], image_data[], image_data_end[], image_data_source[], image_bss[],
    image_bss_end[];

int main(void);
void image_reset(void);
void image_fault(void);
void image_fault_at(const uint32_t *frame);
/* What an image may have of its own: else each is a fault. */
void image_tick(void);      /* SysTick */
void image_pend(void);      /* PendSV */
void image_interrupt(void); /* every interrupt of the board */

void image_reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= FPU_ON; /* before the first instruction that needs it */
    __asm volatile("dsb\n isb" ::: "memory");
#endif
    memcpy(image_data, image_data_source, (size_t)((char *)image_data_end - (char *)image_data));
    memset(image_bss, 0, (size_t)((char *)image_bss_end - (char *)image_bss));
    board_init();
    board_exit(main());
}

/* The processor stacked r0-r3, r12, lr, pc and psr. */
void image_fault_at(const uint32_t *frame) {
    board_fault(frame[6], frame[5]);
}

__attribute__((naked)) void image_fault(void) {
    __asm volatile("tst lr, #4\n ite eq\n mrseq r0, msp\n mrsne r0, psp\n b image_fault_at");
}

void image_tick(void) __attribute__((weak, alias("image_fault")));
void image_pend(void) __attribute__((weak, alias("image_fault")));
void image_interrupt(void) __attribute__((weak, alias("image_fault")));

typedef void handler(void);

#if !defined(IMAGE_INTERRUPTS)
#define IMAGE_INTERRUPTS 48
#endif

typedef struct {
    uint32_t *stack;
    handler *handlers[15], *interrupts[IMAGE_INTERRUPTS];
} vector_table;

__attribute__((section(".vectors"), used)) static const vector_table vectors = {
    image_stack_top,
    {image_reset, image_fault, image_fault, image_fault, image_fault, image_fault, image_fault,
     image_fault, image_fault, image_fault, image_fault, image_fault, image_fault, image_pend,
     image_tick},
    {[0 ... IMAGE_INTERRUPTS - 1] = image_interrupt},
};
