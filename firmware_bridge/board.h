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

/* ---- What a device asks of it besides (device.c) ---- */

/* Ticks a second of the processor's clock: SysTick counts them. */
uint32_t board_clock(void);

/* The line's UART: interrupts on, received bytes go into a ring; where it is full, the next byte
 * stays in the UART. When a frame has come or all bytes have gone out, it calls line_wanted. */
void board_line_start(void);
/* Takes bytes from the ring: how many, at most `space`. */
size_t board_read(uint8_t *to, size_t space);
/* Begins to send bytes, which stay in place until board_writing gives 0. */
void board_write(const uint8_t *bytes, size_t size);
int board_writing(void);

/* Milliseconds since the start. */
uint64_t board_millis(void);

/* Random bytes that nobody can guess; 0: there are none now, ask again. Who can guess them can
 * read the line. */
int board_random(void *context, uint8_t *out, size_t size);

/* One sample: values in the order h, w, c, and its label. 0: there is none with this number. */
int board_sample(float *values, int32_t *label, int training, uint32_t number);

/* ---- What it may keep through a loss of power; without these it keeps nothing ---- */

#define BOARD_PLACES 5u

/* Bytes of each place: a multiple of 32; 0: there are none. */
uint32_t board_kept_space(void);
/* 0: it could not. A write begins and ends at multiples of 32, and each is written once after an
 * erase. */
int board_kept_erase(uint32_t place);
int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes, size_t size);
int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to, size_t size);

/* ---- What an image that pairs asks (`seamline firmware build --pair`) ---- */

/* Asks a person whether the host shows the same code, and does not wait: called again and again
 * with the same one. 1: yes; 0: no; -1: no word yet, and what was said to a code before counts
 * for nothing. Without it nobody can be asked: then an image needs a secret. */
int board_confirm(const char *code);
/* At the start: 1: the board shall forget its keys, as when somebody holds a button. Never unless
 * a board has its own. */
int board_forget(void);

/* Called at least once a second while the program lives, but for the time a layer computes. Does
 * nothing unless a board has its own. */
void board_watchdog(void);

#endif
