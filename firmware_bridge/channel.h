/* A device's line, in clear text (channel_clear.c), sealed (channel_sealed.c), or sealed when it
 * has been paired (channel_paired.c): one of these is in an image. Bytes and the time go in, frames
 * and events come out. */
#ifndef SEAM_CHANNEL_H
#define SEAM_CHANNEL_H

#include "seam_link.h"

/* Room for any frame. */
#define CHANNEL_WIRE (SEAM_FRAME_WIRE(SEAM_PACKET_MAX) + 40u)

/* Once in a while, by the program: what has to be done before the line carries messages and takes
 * long, a pairing; does nothing but in channel_paired.c. linked: messages flow. */
void channel_tend(int linked);
SEAM_MUST_USE int channel_start(const seam_packet_config *packets, uint64_t now_ms);
void channel_feed(const uint8_t *bytes, size_t size, uint64_t now_ms);
/* The next frame to send now: its size, or 0. space: CHANNEL_WIRE. */
size_t channel_output(uint8_t *wire, size_t space, uint64_t now_ms);
/* Milliseconds until output has to be asked again if nothing else happens. */
uint32_t channel_wait(uint64_t now_ms);
/* As those of seam_packet_. */
seam_packet_event_kind channel_event(void);
SEAM_MUST_USE int channel_send(const uint8_t *message, uint32_t size);
const uint8_t *channel_message(uint32_t *size);
void channel_done(void);

#endif
