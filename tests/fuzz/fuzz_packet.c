/* libFuzzer target: one end of a line that a hostile peer talks to. The bytes are a play: calls of
 * the owner, time that passes, and packets that come in. */
#include "fuzz.h"
#include "seam_link.h"

#define ROOM 640u

typedef struct {
    const uint8_t *at, *stop;
} play;

static uint8_t next(play *p) {
    return p->at < p->stop ? *p->at++ : 0u;
}

/* A packet of the play in memory of its own; `connection` replaces its tag, or hardly any would be
 * of this connection. */
static void packet_in(seam_packet_end *end, play *p, int fits, uint64_t now) {
    const size_t low = next(p), wanted = low | (size_t)next(p) << 8;
    const size_t left = (size_t)(p->stop - p->at);
    const size_t size = wanted < left ? wanted : left;
    uint8_t *packet = copied(p->at, size);
    p->at += size;
    const uint64_t tag = packet != NULL && size >= 4u && packet[0] % 16u == 1u
                             ? end->epoch + (end->peer_epoch != 0u)
                             : end->connection;
    const size_t at = size >= 20u && packet[0] % 16u == 1u ? 12u : 4u, width = at == 12u ? 8u : 4u;
    for (size_t i = 0; fits && size >= at + width && i < width; i++)
        packet[at + i] = (uint8_t)(tag >> (8u * i));
    seam_packet_input(end, packet, size, now);
    free(packet);
}

static void talk(seam_packet_end *end, uint8_t *message, play *p) {
    uint64_t now = 0;
    uint8_t *out = exact(SEAM_PACKET_MAX);
    while (p->at < p->stop) {
        const uint8_t call = next(p);
        uint32_t size = 0;
        if (call % 8u <= 2u)
            packet_in(end, p, call % 8u <= 1u, now);
        else if (call % 8u == 3u)
            now += (uint64_t)next(p) * next(p);
        else if (call % 8u == 4u)
            seam_packet_take(end);
        else if (call % 8u == 5u)
            size = seam_packet_send(end, message, next(p) * 2u) == SEAM_OK;
        for (int i = 0; i < 40; i++) {
            const int64_t made = seam_packet_output(end, out, SEAM_PACKET_MAX, now);
            if (made < 0 || made > (int64_t)SEAM_PACKET_MAX)
                abort();
            if (made == 0)
                break;
        }
        while (seam_packet_event(end) != SEAM_EVENT_NONE) {
        }
        const uint8_t *whole = seam_packet_message(end, &size);
        if (whole != NULL && (whole != end->config.rx || size > ROOM))
            abort();
        (void)seam_packet_wait(end, now);
    }
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    play p = {data, data + size};
    const uint8_t first = next(&p);
    uint8_t *rx = exact(ROOM), *message = exact(512u);
    memset(message, 7, 512u);
    const seam_packet_config config = {.boot_id = UINT64_C(0x1234567800000000),
                                       .rx = rx,
                                       .rx_space = ROOM,
                                       .bytes_per_second = first % 2u ? 11520u : 0u,
                                       .mtu = (uint16_t)(64u * (1u + first % 16u)),
                                       .first_number = first % 3u ? 1u : 0xFFFDu,
                                       .window = (uint8_t)(1u + first % 32u)};
    seam_packet_end end;
    if (seam_packet_start(&end, &config, 0) != SEAM_OK)
        abort();
    talk(&end, message, &p);
    free(rx);
    free(message);
    return 0;
}
