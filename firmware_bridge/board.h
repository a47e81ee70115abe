/* What an image asks of its board. */
#ifndef SEAM_BOARD_H
#define SEAM_BOARD_H

#include <stddef.h>
#include <stdint.h>

void board_init(void);

/* Ends the image; 0 is success. */
__attribute__((noreturn)) void board_exit(int code);

/* Says where the processor stopped, and ends the image. */
__attribute__((noreturn)) void board_fault(uint32_t pc, uint32_t lr);

void board_print(const char *text);

/* A file on the machine that runs the emulator or holds the probe, to be read once from its start;
 * -1: it cannot be opened. */
intptr_t board_file_open(const char *path);
/* How many bytes were read; fewer than `size` at its end. */
size_t board_file_read(intptr_t file, void *to, size_t size);

/* Words that were given to the image when it was started; -1: they do not fit. */
int board_arguments(char *to, size_t space);

/* Instructions since some moment: under `-icount shift=6`, exact to about five. */
uint32_t board_instructions(void);

#endif
