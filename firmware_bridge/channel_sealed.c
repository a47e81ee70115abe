/* A device's line, sealed: it knows its host's key and proves its own. */
#include "channel.h"

#include "board.h"
#include "device.h"
#include "seam_device.h"

_Static_assert(CHANNEL_WIRE >= SEAM_SEALED_WIRE, "room for a sealed frame");

static seam_sealed_end end;

int channel_start(const seam_packet_config *packets, uint64_t now_ms) {
    const seam_handshake_config handshake = {.name = device.id,
                                             .secret = device.secret,
                                             .host = device.host,
                                             .host_key = device.host_key,
                                             .entropy = board_random};
    return seam_sealed_start(&end, &handshake, packets, now_ms);
}

void channel_feed(const uint8_t *bytes, size_t size, uint64_t now_ms) {
    seam_sealed_feed(&end, bytes, size, now_ms);
}

size_t channel_output(uint8_t *wire, size_t space, uint64_t now_ms) {
    const int64_t size = seam_sealed_output(&end, wire, space, now_ms);
    return size > 0 ? (size_t)size : 0u;
}

uint32_t channel_wait(uint64_t now_ms) {
    return seam_sealed_wait(&end, now_ms);
}

seam_packet_event_kind channel_event(void) {
    return seam_sealed_event(&end);
}

int channel_send(const uint8_t *message, uint32_t size) {
    return seam_sealed_send(&end, message, size);
}

const uint8_t *channel_message(uint32_t *size) {
    return seam_sealed_message(&end, size);
}

void channel_done(void) {
    seam_sealed_done(&end);
}
