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

/* ---- a device's: without them an image cannot be one ---- */

/* Bytes that have come over the line since, by interrupt: how many of `size`. */
size_t board_read(uint8_t *to, size_t size);
/* All of them, waiting where the line is slow; reception goes on. */
void board_write(const uint8_t *from, size_t size);
/* Since the start. */
uint64_t board_millis(void);
/* Until something has come over the line, or a millisecond. */
void board_sleep(void);
/* From a generator that nobody can foretell; 0: it has none yet. Keys depend on it. */
int board_random(uint8_t *to, size_t size);
/* The program still runs: for a watchdog. */
void board_alive(void);

/* Interrupts, where a board has any; else they are faults. */
void board_tick(void);
void board_interrupt(void);

/* ---- what an emulator or a probe does ---- */

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
