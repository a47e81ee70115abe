/* One end of a byte line as an image's owner has it: what `seamline bench link` weighs. All that it
 * calls is linked, all that it holds is static. With SEALED also handshakes and sealed frames. */
#include "seam_link.h"

#ifdef SEALED
#include "seam_seal.h"
#define MORE (SEAM_SEAL_MORE - SEAM_FRAME_CHECK) /* bytes beside those of a clear frame */
#else
#define MORE 0u
#endif
#define BODY (SEAM_PACKET_MAX + SEAM_FRAME_CHECK + MORE)

int line_start(uint64_t boot_id, uint8_t *message, uint32_t space);
int line_take(uint8_t byte, uint64_t now_ms);
int64_t line_say(const uint8_t **wire, uint64_t now_ms);
int line_send(const uint8_t *message, uint32_t size);
uint32_t line_wait(uint64_t now_ms);

static seam_packet_end end;
static seam_frame_decoder decoder;
static uint8_t came[BODY], frame[SEAM_FRAME_WIRE(BODY)], said[BODY];

int line_start(uint64_t boot_id, uint8_t *message, uint32_t space) {
    const seam_packet_config config = {
        .boot_id = boot_id, .rx = message, .rx_space = space, .more = MORE};
    seam_frame_decoder_start(&decoder, came, sizeof came);
    return seam_packet_start(&end, &config, 0);
}

#ifdef SEALED

static seam_noise noise;
static seam_seal seal;

int line_handshake(const seam_noise_config *config);
int line_hear(const uint8_t *body, size_t size);
int64_t line_answer(void);

int line_handshake(const seam_noise_config *config) {
    return seam_noise_start(&noise, config);
}

int line_hear(const uint8_t *body, size_t size) {
    uint8_t keys[2][SEAM_KEY_SIZE];
    const int status = seam_noise_read(&noise, body, size);
    if (status == SEAM_OK && seam_noise_turn(&noise) < 0) {
        seam_noise_split(&noise, keys[0], keys[1]);
        seam_seal_start(&seal, keys[0], keys[1], 0);
        seam_crypto_wipe(keys, sizeof keys);
    }
    return status;
}

int64_t line_answer(void) {
    const int64_t size = seam_noise_write(&noise, said, sizeof said);
    return size < 0 ? size : seam_frame_encode(frame, sizeof frame, said, (size_t)size);
}

#endif

int line_take(uint8_t byte, uint64_t now_ms) {
    const uint8_t *packet = came;
    size_t size = seam_frame_decode(&decoder, byte);
#ifdef SEALED
    size = seam_seal_read(&seal, came, size, NULL, &packet);
#endif
    if (size != 0u)
        seam_packet_input(&end, packet, size, now_ms);
    const seam_packet_event_kind event = seam_packet_event(&end);
    if (event == SEAM_EVENT_MESSAGE)
        seam_packet_take(&end);
    return (int)event;
}

int64_t line_say(const uint8_t **wire, uint64_t now_ms) {
    *wire = frame;
    int64_t size = seam_packet_output(&end, said, sizeof said, now_ms);
#ifdef SEALED
    static uint8_t body[BODY];
    if (size <= 0 ||
        (size = seam_seal_write(&seal, body, sizeof body, said, (size_t)size, NULL)) < 0)
        return size;
    return seam_frame_encode_raw(frame, sizeof frame, body, (size_t)size);
#else
    return size <= 0 ? size : seam_frame_encode(frame, sizeof frame, said, (size_t)size);
#endif
}

int line_send(const uint8_t *message, uint32_t size) {
    return seam_packet_send(&end, message, size);
}

uint32_t line_wait(uint64_t now_ms) {
    return seam_packet_wait(&end, now_ms);
}
