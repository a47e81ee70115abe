/* The line goes on while the program computes: its protocol runs in the least urgent interrupt,
 * which only the program itself waits for. */
#ifndef SEAM_LINE_SERVICE_H
#define SEAM_LINE_SERVICE_H

#include "channel.h"

/* Starts clock, UART and channel. A negative status of the channel. */
SEAM_MUST_USE int line_begin(const seam_packet_config *packets);
/* There is something to be done: a frame has come, all bytes have gone out, or the owner has given
 * the channel something to say. From anywhere. */
void line_wanted(void);
/* Between the two the channel is the caller's. */
void line_lock(void);
void line_unlock(void);
/* 1: from now on the line is moved by the program's line_move alone, which may then take as long as
 * people and flash do; 0: by the interrupt again. */
void line_by_program(int on);
/* Everything that can be done now: bytes to the channel, a frame to the line. */
void line_move(void);
/* Until an interrupt has come; at once if the channel has been at work since the last call. */
void line_sleep(void);

#endif
