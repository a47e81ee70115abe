/* What an image says beside text: numbers, and where it stopped. */
#ifndef SEAM_TELL_H
#define SEAM_TELL_H

#include <stdint.h>

void tell_number(uint32_t value);
/* Eight digits. */
void tell_hex(uint32_t value);
/* A line, for board_fault. */
void tell_fault(uint32_t pc, uint32_t lr);

#endif
