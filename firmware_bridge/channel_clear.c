/* A device's line in clear text. */
#include "channel.h"

static seam_packet_end end;
static seam_frame_decoder decoder;
static uint8_t came[SEAM_PACKET_MAX + SEAM_FRAME_CHECK], said[SEAM_PACKET_MAX];

int channel_start(const seam_packet_config *packets, uint64_t now_ms) {
    seam_frame_decoder_start(&decoder, came, sizeof came);
    return seam_packet_start(&end, packets, now_ms);
}

void channel_feed(const uint8_t *bytes, size_t size, uint64_t now_ms) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t packet = seam_frame_decode(&decoder, bytes[i]);
        if (packet != 0u)
            seam_packet_input(&end, came, packet, now_ms);
    }
}

size_t channel_output(uint8_t *wire, size_t space, uint64_t now_ms) {
    const int64_t size = seam_packet_output(&end, said, sizeof said, now_ms);
    const int64_t bytes = size > 0 ? seam_frame_encode(wire, space, said, (size_t)size) : 0;
    return bytes > 0 ? (size_t)bytes : 0u;
}

uint32_t channel_wait(uint64_t now_ms) {
    return seam_packet_wait(&end, now_ms);
}

seam_packet_event_kind channel_event(void) {
    return seam_packet_event(&end);
}

int channel_send(const uint8_t *message, uint32_t size) {
    return seam_packet_send(&end, message, size);
}

const uint8_t *channel_message(uint32_t *size) {
    return seam_packet_message(&end, size);
}

void channel_done(void) {
    seam_packet_take(&end);
}
