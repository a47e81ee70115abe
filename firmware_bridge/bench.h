/* What images that are measured share: instructions, the stack by painting, numbers in print. */
#ifndef SEAM_BENCH_H
#define SEAM_BENCH_H

#include "board.h"

/* Paints what lies below the caller's stack; the second gives how many bytes of it were used. */
void bench_paint(void);
uint32_t bench_painted(void);

/* "name value" as a line. */
void bench_say(const char *name, uint32_t value);

#endif
