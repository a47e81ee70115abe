/* The device's end of a sealed line: the handshake, sealed frames, and the packets inside them. */
#include <string.h>

#include "../bytes.h"
#include "seam_device.h"

#define HANDSHAKE 0x14u /* first bytes of bodies */
#define CLEAR_FIRST 0x11u
#define CLEAR_LAST 0x13u
#define VERSION 1u    /* high half of a body's first byte */
#define JOIN_MS 3000u /* for packets to meet under new keys; else the keys are taken for lost */
#define WORN_MS 500u  /* for new keys to come, once those in use are used up */
#define FRONT 13u     /* COBS begins so far in front of its body, and never catches up with it */
#define MORE 11u      /* bytes of a sealed frame beside those of a clear one */
#define DATA 2u       /* types of packets that have the tag of a connection, */
#define ACK 3u
#define TAG_AT 4u /* here */

int seam_sealed_start(seam_sealed_end *end, const seam_handshake_config *handshake,
                      const seam_packet_config *packets, uint64_t now_ms) {
    seam_packet_config inner = *packets;
    inner.more = MORE;
    memset(end, 0, sizeof *end);
    if (handshake->host == NULL)
        return SEAM_E_ARGUMENT;
    const int status = seam_handshake_start(&end->handshake, handshake, now_ms);
    if (status != SEAM_OK)
        return status;
    seam_frame_decoder_start(&end->decoder, end->body, sizeof end->body);
    end->decoder.raw = 1u;
    end->since_ms = now_ms;
    return seam_packet_start(&end->packets, &inner, now_ms);
}

/* ---- in ---- */

/* Keys that the handshake has brought: the host has shown that it has them, too. */
static void adopt(seam_sealed_end *end, uint64_t now_ms) {
    const uint32_t forged = end->seal.forged, replayed = end->seal.replayed;
    if (!seam_handshake_take(&end->handshake, &end->seal))
        return;
    end->counters.forged += forged;
    end->counters.replayed += replayed;
    end->counters.handshakes++;
    end->keyed = 1u;
    end->since_ms = now_ms;
    seam_packet_hurry(&end->packets, now_ms);
}

static void sealed_read(seam_sealed_end *end, uint32_t size, uint64_t now_ms) {
    uint8_t known[SEAM_SEAL_KNOWN], *text = end->body + SEAM_SEAL_HEADER;
    const int is_short = end->body[0] == SEAM_SEAL_SHORT;
    const uint8_t *packet = NULL;
    seam_put32(known, end->packets.connection);
    size_t found = end->keyed ? seam_seal_read(&end->seal, end->body, size, known, &packet) : 0u;
    if (is_short && found >= TAG_AT) { /* the seal's own tag leaves the room */
        memmove(text + TAG_AT + SEAM_SEAL_KNOWN, text + TAG_AT, found - TAG_AT);
        memcpy(text + TAG_AT, known, sizeof known);
        found += sizeof known;
    }
    if (found != 0u)
        seam_packet_input(&end->packets, packet, found, now_ms);
}

/* The packet's tag of the connection is left out as soon as the host is known to have the keys: it
 * may have lost the connection with them. */
static int64_t sealed_write(seam_sealed_end *end, uint8_t *body, size_t space, uint8_t *packet,
                            size_t size) {
    uint8_t known[SEAM_SEAL_KNOWN];
    const uint8_t type = packet[0] & 15u;
    if (!end->seal.heard || (type != DATA && type != ACK))
        return seam_seal_write(&end->seal, body, space, packet, size, NULL);
    memcpy(known, packet + TAG_AT, sizeof known);
    size -= sizeof known;
    memmove(packet + TAG_AT, packet + TAG_AT + sizeof known, size - TAG_AT);
    return seam_seal_write(&end->seal, body, space, packet, size, known);
}

static void body_read(seam_sealed_end *end, uint32_t size, uint64_t now_ms) {
    const uint8_t type = end->body[0];
    if (seam_seal_is(type)) {
        sealed_read(end, size, now_ms);
        return;
    }
    if (size < SEAM_FRAME_CHECK) {
        end->counters.damaged++;
        return;
    }
    const uint32_t inner = size - SEAM_FRAME_CHECK;
    if (seam_get32(end->body + inner) != seam_crc32(0u, end->body, inner)) {
        end->counters.damaged++;
    } else if (type >> 4 != VERSION) {
        end->counters.other_version++;
    } else if (type == HANDSHAKE) {
        seam_handshake_input(&end->handshake, end->body, inner, now_ms);
        adopt(end, now_ms);
    } else if (type >= CLEAR_FIRST && type <= CLEAR_LAST) {
        end->counters.clear_refused++;
        seam_handshake_refuse_clear(&end->handshake, now_ms);
    }
}

void seam_sealed_feed(seam_sealed_end *end, const uint8_t *bytes, size_t size, uint64_t now_ms) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t body = seam_frame_decode(&end->decoder, bytes[i]);
        if (body != 0u)
            body_read(end, body, now_ms);
    }
}

/* ---- out ---- */

/* Are all numbers under the keys used? */
static int is_worn(const seam_sealed_end *end) {
    return end->keyed && end->seal.next >= SEAM_SEAL_LAST;
}

/* Does the device need new keys? The host may have lost them, or have found others. */
static void look(seam_sealed_end *end, uint64_t now_ms) {
    const uint64_t age = now_ms - end->since_ms;
    const int lone = end->keyed && end->packets.peer_epoch == 0u && age >= JOIN_MS;
    const int worn = is_worn(end) && age >= WORN_MS;
    if (end->lost || lone || worn) {
        end->lost = 0u;
        end->since_ms = now_ms;
        seam_handshake_restart(&end->handshake, now_ms);
    }
}

int64_t seam_sealed_output(seam_sealed_end *end, uint8_t *wire, size_t space, uint64_t now_ms) {
    if (space < SEAM_SEALED_WIRE)
        return SEAM_E_SPACE;
    uint8_t *body = wire + FRONT, *packet = body + SEAM_SEAL_HEADER;
    look(end, now_ms);
    int64_t size = seam_handshake_output(&end->handshake, body, SEAM_BODY_MOST, now_ms);
    if (size != 0)
        return size < 0 ? size : seam_frame_encode(wire, space, body, (size_t)size);
    if (!end->keyed || is_worn(end))
        return 0;
    size = seam_packet_output(&end->packets, packet, SEAM_PACKET_MAX, now_ms);
    if (size <= 0)
        return size;
    size = sealed_write(end, body, space - FRONT, packet, (size_t)size);
    return size < 0 ? size : seam_frame_encode_raw(wire, space, body, (size_t)size);
}

uint32_t seam_sealed_wait(const seam_sealed_end *end, uint64_t now_ms) {
    const uint32_t hand = seam_handshake_wait(&end->handshake, now_ms);
    if (end->lost)
        return 0u;
    if (!end->keyed || is_worn(end))
        return hand;
    const uint32_t packets = seam_packet_wait(&end->packets, now_ms);
    return packets < hand ? packets : hand;
}

/* ---- messages ---- */

seam_packet_event_kind seam_sealed_event(seam_sealed_end *end) {
    const seam_packet_event_kind kind = seam_packet_event(&end->packets);
    if (kind == SEAM_EVENT_SILENT || kind == SEAM_EVENT_STUCK)
        end->lost = 1u;
    return kind;
}

int seam_sealed_send(seam_sealed_end *end, const uint8_t *message, uint32_t size) {
    return seam_packet_send(&end->packets, message, size);
}

const uint8_t *seam_sealed_message(const seam_sealed_end *end, uint32_t *size) {
    return seam_packet_message(&end->packets, size);
}

void seam_sealed_done(seam_sealed_end *end) {
    seam_packet_take(&end->packets);
}

seam_trouble seam_sealed_trouble(const seam_sealed_end *end) {
    if (end->handshake.trouble != SEAM_TROUBLE_NONE)
        return (seam_trouble)end->handshake.trouble;
    const int clear = end->counters.clear_refused != 0u && end->counters.handshakes == 0u;
    return clear ? SEAM_TROUBLE_CLEAR : SEAM_TROUBLE_NONE;
}
