/* Packets: whole messages over a line that loses, damages and repeats; selective repeat by offset.
 */
#include <string.h>

#include "seam_link.h"

enum { TYPE_OPEN = 1, TYPE_DATA = 2, TYPE_ACK = 3 };
enum { FLAG_LAST = 1, FLAG_ACK_NOW = 2 };
enum { BACKOFF_HEARD = 3, BACKOFF_MOST = 8 }; /* doublings of the time-out */
enum { SLOT_FREE = 0, SLOT_FLIGHT = 1, SLOT_AGAIN = 2 };

#define TYPE_BYTE(type) ((uint8_t)((SEAM_PACKET_VERSION << 4) | (type)))
#define MAP_UNITS (SEAM_PACKET_SPAN / SEAM_PACKET_UNIT)
#define NEVER UINT64_MAX
/* The line's errors are measured over so many bytes, losses in 16ths so that they can be halved. */
enum { MEASURE_BYTES = 65536, LOSS = 16, FLIGHT_SMALL = 24 };
#define FRAME_COST (SEAM_PACKET_DATA_HEADER + SEAM_FRAME_CHECK + 2u)

/* ---- Bytes ---- */

static void put(uint8_t *at, uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; i++) {
        at[i] = (uint8_t)(value >> (8u * i));
    }
}

static uint64_t get(const uint8_t *at, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)at[i] << (8u * i);
    }
    return value;
}

/* Packet and message numbers wrap: a - b as a signed distance. */
static int16_t distance(uint16_t a, uint16_t b) {
    return (int16_t)(uint16_t)(a - b);
}

/* ---- Connection ---- */

/* The epoch we would use for the next connection: none is ever used twice, so that a packet of an
 * old connection fits no new one. */
static uint64_t epoch_offered(const seam_packet_end *end) {
    if (end->peer_epoch == 0u) {
        return end->epoch;
    }
    return (end->epoch & ~UINT64_C(0xFFFF)) | ((end->epoch + 1u) & 0xFFFFu);
}

/* Both ends compute the same tag of two epochs; every packet of the connection carries it. */
static uint32_t connection_tag(uint64_t a, uint64_t b) {
    uint8_t bytes[16];
    put(bytes, a < b ? a : b, 8u);
    put(bytes + 8, a < b ? b : a, 8u);
    return seam_crc32(0u, bytes, sizeof bytes);
}

/* The payload that carries most over a line that spoils a frame every `bytes / lost` bytes: with h
 * bytes of cost a frame and q losses a byte, p / (p + h) * exp(-q (p + h)) is largest at
 * p (p + h) = h / q. */
static void mtu_choose(seam_packet_end *end) {
    uint32_t size = end->peer_mtu;
    const uint32_t cost = FRAME_COST + end->config.more;
    const uint64_t most = (uint64_t)cost * end->line_bytes * LOSS;
    uint32_t middle = size - SEAM_PACKET_UNIT / 2u; /* between this size and the next smaller */
    while (size > SEAM_PACKET_UNIT && (uint64_t)middle * (middle + cost) * end->line_lost > most) {
        size -= SEAM_PACKET_UNIT;
        middle -= SEAM_PACKET_UNIT;
    }
    end->counters.mtu = size;
}

/* One piece has arrived or is lost. What is old counts less and less. */
static void mtu_learn(seam_packet_end *end, uint32_t size, int lost) {
    end->line_bytes += size + FRAME_COST + end->config.more;
    end->line_lost += lost ? LOSS : 0u;
    if (end->line_bytes >= MEASURE_BYTES) {
        end->line_bytes /= 2u;
        end->line_lost /= 2u;
    }
    mtu_choose(end);
}

static void sender_reset(seam_packet_end *end) {
    end->tx = NULL;
    end->tx_size = end->tx_next = end->tx_acked = end->tx_limit = 0u;
    end->tx_message = 0u;
    end->tx_number = end->config.first_number;
    end->tx_busy = end->tx_fresh = end->backoff = end->stalled = 0u;
    end->srtt_us = end->rttvar_us = 0u;
    end->rto_ms = SEAM_PACKET_RTO_START;
    end->probe_ms = NEVER;
    memset(end->slots, 0, sizeof end->slots);
}

static void receiver_reset(seam_packet_end *end, uint16_t peer_first) {
    end->rx_base = end->rx_bitmap = 0u;
    end->rx_message = 0u;
    end->rx_largest = end->ack_seen = (uint16_t)(peer_first - 1u);
    end->rx_last_known = end->ack_count = end->ack_now = 0u;
    end->ack_ms = NEVER;
    memset(end->rx_map, 0, sizeof end->rx_map);
    end->rx_old = end->rx_ready; /* a whole message outlives its connection until it is taken */
    if (!end->rx_ready) {
        end->rx_have = end->rx_size = 0u;
    }
}

static void connection_lose(seam_packet_end *end, seam_packet_event_kind reason, uint64_t now_ms) {
    end->epoch = epoch_offered(end);
    end->peer_epoch = end->reply_to = 0u;
    end->confirmed = 0u;
    if (end->joined_due) {
        end->joined_due = 0u; /* never told: then there is no loss to tell either */
    } else {
        end->lost_due = (uint8_t)reason;
    }
    end->counters.losses++;
    end->open_ms = now_ms;
    end->open_wait_ms = SEAM_PACKET_OPEN_FIRST;
    sender_reset(end);
    receiver_reset(end, 1u);
}

static void connection_open(seam_packet_end *end, const uint8_t *packet, uint64_t now_ms) {
    const uint64_t ours = epoch_offered(end);
    if (end->peer_epoch != 0u) {
        connection_lose(end, SEAM_EVENT_RESTARTED, now_ms);
    }
    end->epoch = ours;
    end->peer_epoch = get(packet + 4, 8u);
    end->connection = connection_tag(end->epoch, end->peer_epoch);
    end->joined_due = 1u;
    end->counters.joins++;
    end->heard_ms = end->said_ms = now_ms;
    end->confirmed = 0u;
    end->open_ms = now_ms + SEAM_PACKET_OPEN_FIRST;
    end->open_wait_ms = SEAM_PACKET_OPEN_FIRST;
    sender_reset(end);
    receiver_reset(end, (uint16_t)get(packet + 2, 2u));
    end->ack_now = 1u; /* the first packet with the new tag: now the peer knows too */
    const uint16_t mtu = (uint16_t)get(packet + 20, 2u);
    end->peer_mtu = mtu < end->config.mtu ? mtu : end->config.mtu;
    end->peer_space = (uint32_t)get(packet + 24, 4u);
    end->tx_limit = end->peer_space;
    mtu_choose(end);
}

/* OPEN names its sender's epoch and the epoch it takes for ours (0: knows none). One that names the
 * epoch we offer is the peer's answer to us, so it is alive now; no old packet can be. */
static void open_input(seam_packet_end *end, const uint8_t *packet, uint64_t now_ms) {
    const uint64_t theirs = get(packet + 4, 8u), ours = get(packet + 12, 8u);
    if (theirs >> 16 == end->epoch >> 16) { /* our own voice: a loop in the cable */
        end->counters.strays++;
        return;
    }
    if (theirs == end->peer_epoch) {
        if (ours == 0u) { /* it has not heard that we took its offer */
            end->reply_to = theirs;
        }
    } else if (ours == epoch_offered(end)) {
        connection_open(end, packet, now_ms);
        end->reply_to = theirs;
    } else if (ours == 0u) {
        end->reply_to = theirs;
    } else {
        end->counters.strays++; /* an answer to somebody who is no longer here */
    }
}

static int64_t open_output(seam_packet_end *end, uint8_t *out) {
    const int answers_peer = end->reply_to != 0u && end->reply_to == end->peer_epoch;
    memset(out, 0, SEAM_PACKET_OPEN_SIZE);
    out[0] = TYPE_BYTE(TYPE_OPEN);
    put(out + 2, end->config.first_number, 2u);
    put(out + 4, answers_peer ? end->epoch : epoch_offered(end), 8u);
    put(out + 12, end->reply_to, 8u);
    put(out + 20, end->config.mtu, 2u);
    out[22] = end->config.window;
    put(out + 24, end->config.rx_space, 4u);
    end->reply_to = 0u;
    return SEAM_PACKET_OPEN_SIZE;
}

/* ---- Receiver ---- */

static int map_has(const seam_packet_end *end, uint32_t unit) {
    const uint32_t at = unit % MAP_UNITS;
    return (end->rx_map[at / 32u] >> (at % 32u)) & 1u;
}

static void map_set(seam_packet_end *end, uint32_t unit, int value) {
    const uint32_t at = unit % MAP_UNITS, bit = UINT32_C(1) << (at % 32u);
    end->rx_map[at / 32u] = value ? end->rx_map[at / 32u] | bit : end->rx_map[at / 32u] & ~bit;
}

/* Remember a packet number for the acknowledgement; 0 if it was there before. */
static int number_note(seam_packet_end *end, uint16_t number) {
    const int16_t ahead = distance(number, end->rx_largest);
    if (ahead > 0) {
        end->rx_bitmap = ahead > 32    ? 0u
                         : ahead == 32 ? UINT32_C(1) << 31
                                       : end->rx_bitmap << ahead | UINT32_C(1) << (ahead - 1);
        end->rx_largest = number;
        return 1;
    }
    if (ahead == 0 || ahead < -32) {
        return ahead != 0; /* too old to tell: harmless, an offset is written twice at worst */
    }
    const uint32_t bit = UINT32_C(1) << (-ahead - 1);
    const int fresh = (end->rx_bitmap & bit) == 0u;
    end->rx_bitmap |= bit;
    return fresh;
}

/* Where the first gap is: moves rx_base over the units that are there. */
static void base_advance(seam_packet_end *end) {
    uint32_t unit = end->rx_base / SEAM_PACKET_UNIT;
    if (end->rx_base % SEAM_PACKET_UNIT != 0u) {
        return; /* the odd end of the message is behind us */
    }
    while (map_has(end, unit)) {
        map_set(end, unit, 0);
        unit++;
    }
    end->rx_base = unit * SEAM_PACKET_UNIT;
    if (end->rx_last_known && end->rx_base > end->rx_size) {
        end->rx_base = end->rx_size;
    }
}

/* Does this piece of the message in progress fit what is known of it, and the room there is? */
static int piece_fits(const seam_packet_end *end, uint32_t offset, uint32_t size, int last) {
    if (end->rx_ready || offset % SEAM_PACKET_UNIT != 0u || offset > end->config.rx_space ||
        size > end->config.rx_space - offset) {
        return 0;
    }
    if (!last && (size == 0u || size % SEAM_PACKET_UNIT != 0u)) {
        return 0;
    }
    const uint32_t stop = offset + size;
    if (stop > end->rx_base && stop - end->rx_base > SEAM_PACKET_SPAN) {
        return 0;
    }
    if (last) {
        return end->rx_last_known ? stop == end->rx_size : stop >= end->rx_have;
    }
    return !end->rx_last_known || stop <= end->rx_size;
}

static void piece_store(seam_packet_end *end, uint32_t offset, const uint8_t *bytes, uint32_t size,
                        int last) {
    const uint32_t stop = offset + size;
    memcpy(end->config.rx + offset, bytes, size);
    for (uint32_t at = offset; at < stop; at += SEAM_PACKET_UNIT) {
        if (at >= end->rx_base) {
            map_set(end, at / SEAM_PACKET_UNIT, 1);
        }
    }
    end->rx_have = stop > end->rx_have ? stop : end->rx_have;
    if (last) {
        end->rx_last_known = 1u;
        end->rx_size = stop;
    }
    base_advance(end);
    if (end->rx_last_known && end->rx_base >= end->rx_size) {
        end->rx_ready = 1u;
        end->counters.payload_received += end->rx_size;
        end->rx_reported = 0u;
        end->rx_message++;
        end->rx_base = end->rx_have = 0u; /* rx_size is the message's until it is taken */
        end->rx_last_known = 0u;
        memset(end->rx_map, 0, sizeof end->rx_map);
        end->ack_now = 1u;
    }
}

static void data_input(seam_packet_end *end, const uint8_t *packet, size_t size, uint64_t now_ms) {
    const int last = packet[1] & FLAG_LAST;
    const uint16_t number = (uint16_t)get(packet + 2, 2u);
    const uint32_t offset = (uint32_t)get(packet + 10, 4u);
    const uint32_t payload = (uint32_t)(size - SEAM_PACKET_DATA_HEADER);
    const int16_t ahead = distance((uint16_t)get(packet + 8, 2u), end->rx_message);
    const int gap = distance(number, end->rx_largest) > 1;
    /* A number is noted only when its bytes are held: noting it tells the sender to forget them. */
    if (ahead > 0 || (ahead == 0 && !piece_fits(end, offset, payload, last))) {
        end->counters.malformed += end->rx_ready ? 0u : 1u;
        end->ack_now = 1u;
        return;
    }
    if (!number_note(end, number) || ahead < 0) {
        end->counters.duplicates++;
        end->ack_now = 1u;
        return;
    }
    piece_store(end, offset, packet + SEAM_PACKET_DATA_HEADER, payload, last);
    end->ack_count++;
    if (end->ack_ms == NEVER) {
        end->ack_ms = now_ms + SEAM_PACKET_ACK_DELAY;
    }
    if (gap || end->ack_count >= 2u || (packet[1] & FLAG_ACK_NOW)) {
        end->ack_now = 1u;
    }
}

/* ---- Sender ---- */

static uint64_t rto_us(const seam_packet_end *end) {
    const uint64_t ms = (uint64_t)end->rto_ms << end->backoff;
    return 1000u * (ms < SEAM_PACKET_RTO_CEILING ? ms : SEAM_PACKET_RTO_CEILING);
}

/* The peer is heard: the line is bad, not busy or cut, and a long time-out mends nothing. */
static void backoff_shorten(seam_packet_end *end, uint64_t now_ms) {
    if (end->backoff <= BACKOFF_HEARD) {
        return;
    }
    end->backoff = BACKOFF_HEARD;
    const uint64_t soon = now_ms * 1000u + rto_us(end);
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        if (end->slots[i].deadline_us > soon) {
            end->slots[i].deadline_us = soon;
        }
    }
}

/* Jacobson's smoothed round trip and variation (RFC 6298), in microseconds. */
static void rtt_sample(seam_packet_end *end, uint64_t us) {
    const uint32_t r = us < 60000000u ? (uint32_t)us : 60000000u;
    if (end->srtt_us == 0u && end->rttvar_us == 0u) {
        end->srtt_us = r;
        end->rttvar_us = r / 2u;
    } else {
        const uint32_t error = r > end->srtt_us ? r - end->srtt_us : end->srtt_us - r;
        end->rttvar_us = end->rttvar_us - end->rttvar_us / 4u + error / 4u;
        end->srtt_us = end->srtt_us - end->srtt_us / 8u + r / 8u;
    }
    const uint32_t ms = (end->srtt_us + 4u * end->rttvar_us) / 1000u + 1u;
    end->rto_ms = ms < SEAM_PACKET_RTO_FLOOR     ? SEAM_PACKET_RTO_FLOOR
                  : ms > SEAM_PACKET_RTO_CEILING ? SEAM_PACKET_RTO_CEILING
                                                 : ms;
    end->counters.rtt_us = end->srtt_us != 0u ? end->srtt_us : 1u;
}

static unsigned slots_in(const seam_packet_end *end, uint8_t state) {
    unsigned count = 0;
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        count += end->slots[i].state == state;
    }
    return count;
}

/* Everything the acknowledgement says of the packets in flight. The line keeps their order, so a
 * packet older than the newest received one that is not in the bitmap is lost for sure. */
static void slots_acked(seam_packet_end *end, uint16_t largest, uint32_t bitmap, uint64_t now_ms) {
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        seam_packet_slot *slot = &end->slots[i];
        if (slot->state == SLOT_FREE) {
            continue;
        }
        const int16_t behind = distance(largest, slot->number);
        const int there =
            behind == 0 || (behind > 0 && behind <= 32 && (bitmap >> (behind - 1) & 1u));
        if (there || (slot->size != 0u && slot->offset + slot->size <= end->tx_acked)) {
            if (behind == 0) {
                const uint64_t now_us = now_ms * 1000u;
                rtt_sample(end, now_us > slot->left_us ? now_us - slot->left_us : 0u);
            }
            mtu_learn(end, slot->size, 0);
            slot->state = SLOT_FREE;
            end->backoff = 0u;
            end->progress_ms = now_ms;
        } else if (slot->state == SLOT_FLIGHT && behind > 0) {
            mtu_learn(end, slot->size, 1);
            slot->state = SLOT_AGAIN;
        }
    }
}

static void ack_input(seam_packet_end *end, const uint8_t *packet, uint64_t now_ms) {
    const uint16_t number = (uint16_t)get(packet + 2, 2u);
    if (!number_note(end, number) || distance(number, end->ack_seen) <= 0) {
        end->counters.duplicates++; /* an old one knows less than we do */
        return;
    }
    end->ack_seen = number;
    if (packet[1] & FLAG_ACK_NOW) {
        end->ack_now = 1u;
    }
    const uint16_t ahead = (uint16_t)((uint16_t)get(packet + 8, 2u) - end->tx_message);
    const uint32_t offset = (uint32_t)get(packet + 10, 4u);
    const uint32_t limit = (uint32_t)get(packet + 14, 4u);
    if (ahead == 1u && end->tx_busy && end->tx_next == end->tx_size) {
        slots_acked(end, (uint16_t)get(packet + 18, 2u), (uint32_t)get(packet + 20, 4u), now_ms);
        memset(end->slots, 0, sizeof end->slots);
        end->counters.payload_sent += end->tx_size;
        end->tx = NULL;
        end->tx_message++;
        end->tx_busy = end->backoff = end->stalled = 0u;
        end->tx_size = end->tx_next = end->tx_acked = 0u;
        end->sent_due = 1u;
    } else if (ahead == 0u && offset <= end->tx_next) {
        end->tx_acked = offset > end->tx_acked ? offset : end->tx_acked;
        slots_acked(end, (uint16_t)get(packet + 18, 2u), (uint32_t)get(packet + 20, 4u), now_ms);
        if (end->tx_next < end->tx_size && slots_in(end, SLOT_FREE) == SEAM_PACKET_SLOTS) {
            end->progress_ms = now_ms; /* it has no room: that may last */
        }
    } else {
        end->counters.malformed++;
        return;
    }
    end->tx_limit = limit < end->peer_space ? limit : end->peer_space;
    end->probe_ms = NEVER;
}

/* Size of the next new piece, or -1: window, credit or the receiver's span allow none now. */
static int64_t piece_next(const seam_packet_end *end) {
    if (!end->tx_busy || (end->tx_next == end->tx_size && end->tx_size != 0u)) {
        return -1;
    }
    if (end->tx_size == 0u) { /* an empty message is one empty piece */
        return slots_in(end, SLOT_FREE) == SEAM_PACKET_SLOTS && end->tx_limit > 0u ? 0 : -1;
    }
    const uint32_t limit = end->tx_limit < end->tx_size ? end->tx_limit : end->tx_size;
    if (limit <= end->tx_next) {
        return -1;
    }
    uint32_t size = limit - end->tx_next;
    size = size < end->counters.mtu ? size : end->counters.mtu;
    if (end->tx_next + size < end->tx_size) {
        size -= size % SEAM_PACKET_UNIT;
    }
    const int too_far = end->tx_next + size - end->tx_acked > SEAM_PACKET_SPAN;
    return size == 0u || too_far ? -1 : (int64_t)size;
}

/* Does the peer's credit reach over this lost piece? Without the question two ends would exchange
 * it and its refusal as fast as the line goes. */
static int slot_allowed(const seam_packet_end *end, const seam_packet_slot *slot) {
    return slot->state == SLOT_AGAIN && end->tx_limit != 0u &&
           slot->offset + slot->size <= end->tx_limit;
}

/* The window is meant in full packets: on a bad line, where they are small, there are more. Not
 * too many, so that a few lost acknowledgements leave all of them in the next one's bitmap. */
static unsigned window_now(const seam_packet_end *end) {
    const unsigned count = end->config.window * end->peer_mtu / end->counters.mtu;
    const unsigned most = end->config.window > FLIGHT_SMALL ? end->config.window : FLIGHT_SMALL;
    return count < most ? count : most;
}

/* A lost piece goes in parts if the line has become much worse since, as far as slots are free. */
static void slot_split(seam_packet_end *end, seam_packet_slot *slot, seam_packet_slot *empty) {
    if (empty == NULL || slot->size < 2u * end->counters.mtu) {
        return;
    }
    empty->state = SLOT_AGAIN;
    empty->number = slot->number; /* should it turn out to have arrived, both parts have */
    empty->offset = slot->offset + end->counters.mtu;
    empty->size = (uint16_t)(slot->size - end->counters.mtu);
    slot->size = (uint16_t)end->counters.mtu;
}

/* The slot to send next: a lost piece, the lowest first; else a free one with a new piece. */
static seam_packet_slot *slot_next(seam_packet_end *end) {
    if (!end->tx_busy || slots_in(end, SLOT_FLIGHT) >= window_now(end)) {
        return NULL;
    }
    seam_packet_slot *found = NULL, *empty = NULL;
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        seam_packet_slot *slot = &end->slots[i];
        if (slot_allowed(end, slot) && (found == NULL || slot->offset < found->offset)) {
            found = slot;
        } else if (slot->state == SLOT_FREE) {
            empty = slot;
        }
    }
    if (found != NULL) {
        slot_split(end, found, empty);
        return found;
    }
    const int64_t size = piece_next(end);
    if (size < 0 || empty == NULL) {
        return NULL;
    }
    empty->offset = end->tx_next;
    empty->size = (uint16_t)size;
    end->tx_next += (uint32_t)size;
    return empty;
}

static int64_t data_output(seam_packet_end *end, uint8_t *out, seam_packet_slot *slot,
                           uint64_t now_ms) {
    const int again = slot->state == SLOT_AGAIN;
    const int last = slot->offset + slot->size == end->tx_size;
    const int edge = end->tx_next == end->tx_limit || end->config.window == 1u;
    const size_t size = SEAM_PACKET_DATA_HEADER + (size_t)slot->size;
    slot->number = end->tx_number++;
    slot->state = SLOT_FLIGHT;
    out[0] = TYPE_BYTE(TYPE_DATA);
    out[1] = (uint8_t)((last ? FLAG_LAST : 0) | (again || last || edge ? FLAG_ACK_NOW : 0));
    put(out + 2, slot->number, 2u);
    put(out + 4, end->connection, 4u);
    put(out + 8, end->tx_message, 2u);
    put(out + 10, slot->offset, 4u);
    if (slot->size != 0u) {
        memcpy(out + SEAM_PACKET_DATA_HEADER, end->tx + slot->offset, slot->size);
    }
    end->counters.retransmits += again ? 1u : 0u;
    end->probe_ms = NEVER;
    end->stalled = 0u;
    slot->left_us = now_ms * 1000u > end->line_us ? now_ms * 1000u : end->line_us;
    if (end->config.bytes_per_second != 0u) {
        slot->left_us += (uint64_t)SEAM_FRAME_WIRE(size + end->config.more) * 1000000u /
                         end->config.bytes_per_second;
    }
    slot->deadline_us = slot->left_us + rto_us(end);
    return (int64_t)size;
}

static int64_t ack_output(seam_packet_end *end, uint8_t *out, int ask) {
    out[0] = TYPE_BYTE(TYPE_ACK);
    out[1] = ask ? FLAG_ACK_NOW : 0;
    put(out + 2, end->tx_number++, 2u);
    put(out + 4, end->connection, 4u);
    put(out + 8, end->rx_message, 2u);
    put(out + 10, end->rx_base, 4u);
    put(out + 14, end->rx_ready ? 0u : end->config.rx_space, 4u);
    put(out + 18, end->rx_largest, 2u);
    put(out + 20, end->rx_bitmap, 4u);
    end->ack_now = end->ack_count = 0u;
    end->ack_ms = NEVER;
    return SEAM_PACKET_ACK_SIZE;
}

/* The oldest packet that is overdue is sent again; the others get the longer time too, because the
 * answer to that one tells which of them are lost. */
static void timers_run(seam_packet_end *end, uint64_t now_ms) {
    seam_packet_slot *due = NULL;
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        seam_packet_slot *slot = &end->slots[i];
        if (slot->state == SLOT_FLIGHT && slot->deadline_us <= now_ms * 1000u &&
            (due == NULL || distance(slot->number, due->number) < 0)) {
            due = slot;
        }
    }
    if (due == NULL) {
        return;
    }
    end->counters.timeouts++;
    if (end->backoff < BACKOFF_HEARD) { /* later ones tell of a silence, not of bad bytes */
        mtu_learn(end, due->size, 1);
    }
    end->backoff = (uint8_t)(end->backoff < BACKOFF_MOST ? end->backoff + 1u : BACKOFF_MOST);
    due->state = SLOT_AGAIN;
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        if (end->slots[i].state == SLOT_FLIGHT) {
            end->slots[i].deadline_us = now_ms * 1000u + rto_us(end);
        }
    }
}

/* A message to say, nothing in flight, no credit: ask, or a lost credit would stop us for good. */
static int probe_due(seam_packet_end *end, uint64_t now_ms) {
    if (!end->tx_busy || slots_in(end, SLOT_FLIGHT) != 0u) {
        return 0;
    }
    if (end->probe_ms == NEVER) {
        end->probe_wait_ms = end->stalled ? end->probe_wait_ms : end->rto_ms;
        end->counters.credit_stalls += end->stalled ? 0u : 1u;
        end->stalled_ms = end->stalled ? end->stalled_ms : now_ms;
        end->stalled = 1u;
        end->probe_ms = now_ms + end->probe_wait_ms;
    }
    if (now_ms < end->probe_ms) {
        return 0;
    }
    end->probe_wait_ms =
        end->probe_wait_ms < SEAM_PACKET_PING ? 2u * end->probe_wait_ms : SEAM_PACKET_PING;
    end->probe_ms = now_ms + end->probe_wait_ms;
    return 1;
}

/* ---- The owner's calls ---- */

int seam_packet_start(seam_packet_end *end, const seam_packet_config *config, uint64_t now_ms) {
    memset(end, 0, sizeof *end);
    end->config = *config;
    if (end->config.mtu == 0u) {
        end->config.mtu = SEAM_PACKET_MTU;
    }
    if (end->config.window == 0u) {
        end->config.window = 8u;
    }
    if (config->rx == NULL || config->rx_space < SEAM_PACKET_UNIT || config->boot_id >> 16 == 0u ||
        config->rx_space > SEAM_MESSAGE_MAX || end->config.mtu > SEAM_PACKET_MTU ||
        end->config.mtu < SEAM_PACKET_UNIT || end->config.mtu % SEAM_PACKET_UNIT != 0u ||
        end->config.window > SEAM_PACKET_SLOTS) {
        return SEAM_E_ARGUMENT;
    }
    end->epoch = config->boot_id & ~UINT64_C(0xFFFF);
    end->open_ms = now_ms;
    end->open_wait_ms = SEAM_PACKET_OPEN_FIRST;
    end->line_bytes = MEASURE_BYTES / 2u; /* a line is taken for clean */
    end->counters.mtu = end->config.mtu;
    sender_reset(end);
    receiver_reset(end, 1u);
    return SEAM_OK;
}

int seam_packet_send(seam_packet_end *end, const uint8_t *message, uint32_t size) {
    if (message == NULL && size != 0u) {
        return SEAM_E_ARGUMENT;
    }
    if (end->peer_epoch == 0u) {
        return SEAM_E_STATE;
    }
    if (end->tx_busy) {
        return SEAM_E_BUSY;
    }
    if (size > SEAM_MESSAGE_MAX || size > end->peer_space) {
        return SEAM_E_LIMIT;
    }
    end->tx = message;
    end->tx_size = size;
    end->tx_next = end->tx_acked = 0u;
    end->tx_busy = end->tx_fresh = 1u;
    return SEAM_OK;
}

/* Is it one of the three packets, with nothing where a later version may have something? */
static int layout_fits(const uint8_t *packet, size_t size) {
    if (packet[0] == TYPE_BYTE(TYPE_OPEN)) {
        if (size != SEAM_PACKET_OPEN_SIZE || packet[1] != 0u || packet[23] != 0u) {
            return 0;
        }
        const uint16_t mtu = (uint16_t)get(packet + 20, 2u);
        return get(packet + 4, 8u) >> 16 != 0u && mtu >= SEAM_PACKET_UNIT &&
               mtu % SEAM_PACKET_UNIT == 0u;
    }
    if (packet[0] == TYPE_BYTE(TYPE_DATA)) {
        return size >= SEAM_PACKET_DATA_HEADER && size <= SEAM_PACKET_MAX &&
               packet[1] <= (FLAG_LAST | FLAG_ACK_NOW);
    }
    return packet[0] == TYPE_BYTE(TYPE_ACK) && size == SEAM_PACKET_ACK_SIZE &&
           (packet[1] & ~FLAG_ACK_NOW) == 0;
}

void seam_packet_input(seam_packet_end *end, const uint8_t *packet, size_t size, uint64_t now_ms) {
    if (size != 0u && packet[0] >> 4 != SEAM_PACKET_VERSION) {
        end->counters.other_version++;
        return;
    }
    if (size == 0u || !layout_fits(packet, size)) {
        end->counters.malformed++;
        return;
    }
    end->counters.packets_received++;
    if (packet[0] == TYPE_BYTE(TYPE_OPEN)) {
        open_input(end, packet, now_ms);
        return;
    }
    if (end->peer_epoch == 0u || get(packet + 4, 4u) != end->connection) {
        end->counters.strays++;
        return;
    }
    end->heard_ms = now_ms;
    end->confirmed = 1u;
    backoff_shorten(end, now_ms);
    if (packet[0] == TYPE_BYTE(TYPE_DATA)) {
        data_input(end, packet, size, now_ms);
    } else {
        ack_input(end, packet, now_ms);
    }
}

/* A peer that has been quiet for longer than its ping is asked more often: on a bad line three lost
 * pings in a row are no death. */
static uint64_t ping_due(const seam_packet_end *end) {
    const uint64_t ping = end->said_ms + SEAM_PACKET_PING;
    const uint64_t hush = end->heard_ms + SEAM_PACKET_HUSH, again = end->said_ms + SEAM_PACKET_ASK;
    const uint64_t ask = hush > again ? hush : again;
    return ping < ask ? ping : ask;
}

static int64_t packet_choose(seam_packet_end *end, uint8_t *out, uint64_t now_ms) {
    /* Repeated until the peer is heard within the connection: our answer may have been lost. */
    if (!end->confirmed && now_ms >= end->open_ms) {
        end->reply_to = end->peer_epoch != 0u ? end->peer_epoch : end->reply_to;
        end->open_ms = now_ms + end->open_wait_ms;
        end->open_wait_ms = end->open_wait_ms < SEAM_PACKET_OPEN_LAST / 2u ? 2u * end->open_wait_ms
                                                                           : SEAM_PACKET_OPEN_LAST;
        return open_output(end, out);
    }
    if (end->reply_to != 0u) {
        return open_output(end, out);
    }
    if (end->peer_epoch == 0u) {
        return 0;
    }
    if (end->ack_now) {
        return ack_output(end, out, 0);
    }
    timers_run(end, now_ms);
    seam_packet_slot *slot = slot_next(end);
    if (slot != NULL) {
        return data_output(end, out, slot, now_ms);
    }
    if (probe_due(end, now_ms)) {
        return ack_output(end, out, 1);
    }
    if (now_ms >= end->ack_ms || now_ms >= ping_due(end)) {
        return ack_output(end, out, now_ms - end->heard_ms >= SEAM_PACKET_HUSH);
    }
    return 0;
}

int64_t seam_packet_output(seam_packet_end *end, uint8_t *out, size_t space, uint64_t now_ms) {
    if (space < SEAM_PACKET_MAX) {
        return SEAM_E_SPACE;
    }
    if (end->peer_epoch != 0u && now_ms - end->heard_ms >= SEAM_PACKET_DEAD) {
        connection_lose(end, SEAM_EVENT_SILENT, now_ms);
    }
    if (end->tx_fresh) {
        end->tx_fresh = 0u;
        end->progress_ms = now_ms;
    }
    if (end->tx_busy && now_ms - end->progress_ms >= SEAM_PACKET_STUCK) {
        connection_lose(end, SEAM_EVENT_STUCK, now_ms);
    }
    if (end->stalled && now_ms - end->stalled_ms >= SEAM_PACKET_FULL) {
        connection_lose(end, SEAM_EVENT_FULL, now_ms);
    }
    const int64_t size = packet_choose(end, out, now_ms);
    if (size > 0) {
        const uint64_t now_us = now_ms * 1000u;
        end->counters.packets_sent++;
        end->said_ms = now_ms;
        end->line_us = end->line_us > now_us ? end->line_us : now_us;
        if (end->config.bytes_per_second != 0u) {
            end->line_us += SEAM_FRAME_WIRE((uint64_t)size + end->config.more) * 1000000u /
                            end->config.bytes_per_second;
        }
    }
    return size;
}

void seam_packet_hurry(seam_packet_end *end, uint64_t now_ms) {
    if (end->peer_epoch != 0u) {
        end->ack_now = 1u;
    }
    end->open_ms = now_ms;
    end->open_wait_ms = SEAM_PACKET_OPEN_FIRST;
}

uint32_t seam_packet_wait(const seam_packet_end *end, uint64_t now_ms) {
    if (end->peer_epoch == 0u) {
        const uint64_t open = end->reply_to != 0u ? now_ms : end->open_ms;
        return open > now_ms ? (uint32_t)(open - now_ms) : 0u;
    }
    if (end->reply_to != 0u || end->ack_now || end->tx_fresh) {
        return 0u;
    }
    uint64_t next = end->heard_ms + SEAM_PACKET_DEAD;
    if (end->tx_busy && end->progress_ms + SEAM_PACKET_STUCK < next) {
        next = end->progress_ms + SEAM_PACKET_STUCK;
    }
    if (end->stalled && end->stalled_ms + SEAM_PACKET_FULL < next) {
        next = end->stalled_ms + SEAM_PACKET_FULL;
    }
    next = !end->confirmed && end->open_ms < next ? end->open_ms : next;
    next = ping_due(end) < next ? ping_due(end) : next;
    next = end->ack_ms < next ? end->ack_ms : next;
    next = end->probe_ms < next ? end->probe_ms : next;
    const int can_send = slots_in(end, SLOT_FLIGHT) < window_now(end);
    for (unsigned i = 0; i < SEAM_PACKET_SLOTS; i++) {
        const seam_packet_slot *slot = &end->slots[i];
        if (slot->state == SLOT_FLIGHT && (slot->deadline_us + 999u) / 1000u < next) {
            next = (slot->deadline_us + 999u) / 1000u;
        } else if (can_send && slot_allowed(end, slot)) {
            return 0u;
        }
    }
    if (can_send && piece_next(end) >= 0) {
        return 0u;
    }
    return next > now_ms ? (uint32_t)(next - now_ms) : 0u;
}

seam_packet_event_kind seam_packet_event(seam_packet_end *end) {
    const int untold = end->rx_ready && !end->rx_reported;
    if (end->sent_due) {
        end->sent_due = 0u;
        return SEAM_EVENT_SENT;
    }
    if (untold && end->rx_old) {
        end->rx_reported = 1u;
        return SEAM_EVENT_MESSAGE;
    }
    if (end->lost_due) {
        const seam_packet_event_kind reason = (seam_packet_event_kind)end->lost_due;
        end->lost_due = 0u;
        return reason;
    }
    if (end->joined_due) {
        end->joined_due = 0u;
        return SEAM_EVENT_JOINED;
    }
    if (untold) {
        end->rx_reported = 1u;
        return SEAM_EVENT_MESSAGE;
    }
    return SEAM_EVENT_NONE;
}

const uint8_t *seam_packet_message(const seam_packet_end *end, uint32_t *size) {
    *size = end->rx_ready ? end->rx_size : 0u;
    return end->rx_ready ? end->config.rx : NULL;
}

void seam_packet_take(seam_packet_end *end) {
    if (end->rx_ready) {
        end->rx_ready = end->rx_old = 0u;
        end->rx_have = end->rx_size = 0u;
        end->ack_now = 1u; /* tells the new room */
    }
}
