/* The byte line: frames (COBS + CRC-32) and packets (reliable messages). No sockets, no clocks, no
 * heap: bytes and the time go in, bytes and events come out. SPEC.md, "Byte line", has the layouts.
 *
 * How an owner drives one end (the same on a microcontroller and on Linux):
 *   every byte read  -> seam_frame_decode; a frame -> seam_packet_input, then seam_packet_event
 *   a message to say -> seam_packet_send; its bytes stay in place until SENT or LOST
 *   then, and again after seam_packet_wait() ms: seam_packet_output until it gives 0, each packet
 *   through seam_frame_encode to the line.
 */
#ifndef SEAM_LINK_H
#define SEAM_LINK_H

#include "seam.h"

/* ---- Frames ---- */

#define SEAM_FRAME_CHECK 4u /* bytes of CRC-32 behind the packet */
/* Most bytes on the line for a packet of `size` bytes: a code each 254 bytes, one zero. */
#define SEAM_FRAME_WIRE(size) ((size) + SEAM_FRAME_CHECK + ((size) + SEAM_FRAME_CHECK) / 254u + 2u)

/* Bytes written to out (> 0), or SEAM_E_SPACE. An empty packet is SEAM_E_ARGUMENT: nothing would
 * tell it from noise. */
SEAM_MUST_USE int64_t seam_frame_encode(uint8_t *out, size_t space, const uint8_t *packet,
                                        size_t size);

/* The same of a body that brings its own check: COBS and the zero. */
SEAM_MUST_USE int64_t seam_frame_encode_raw(uint8_t *out, size_t space, const uint8_t *body,
                                            size_t size);

typedef struct {
    uint8_t *buffer; /* the caller's: the largest packet + SEAM_FRAME_CHECK */
    uint32_t space;
    uint32_t size;
    uint8_t left;       /* bytes before the next code */
    uint8_t zero_after; /* the block in progress stands for a zero at its end */
    uint8_t skipping;   /* too long: wait for the next zero */
    uint8_t raw;        /* 1, set by the caller: bodies come whole, their check is the caller's */
    uint32_t frames, damaged, too_long;
} seam_frame_decoder;

void seam_frame_decoder_start(seam_frame_decoder *decoder, uint8_t *buffer, uint32_t space);
/* One byte in. Returns the size of the packet that it ends, now in decoder->buffer until the next
 * call, or 0. Damaged and over-long frames are counted and skipped up to the next zero. */
uint32_t seam_frame_decode(seam_frame_decoder *decoder, uint8_t byte);

/* ---- Packets ---- */

#define SEAM_PACKET_VERSION 1u
#define SEAM_PACKET_OPEN_SIZE 28u
#define SEAM_PACKET_DATA_HEADER 14u
#define SEAM_PACKET_ACK_SIZE 24u
#define SEAM_PACKET_UNIT 64u    /* payloads start at its multiples and, but the last, fill them */
#define SEAM_PACKET_MTU 1024u   /* bytes of payload, largest */
#define SEAM_PACKET_SLOTS 32u   /* packets in flight, most */
#define SEAM_PACKET_SPAN 32768u /* bytes behind the first gap a receiver keeps track of */
#define SEAM_PACKET_MAX (SEAM_PACKET_DATA_HEADER + SEAM_PACKET_MTU)

/* Milliseconds. */
#define SEAM_PACKET_RTO_FLOOR 25u
#define SEAM_PACKET_RTO_START 200u /* before the first measured round trip */
#define SEAM_PACKET_RTO_CEILING 5000u
#define SEAM_PACKET_ACK_DELAY 10u
#define SEAM_PACKET_OPEN_FIRST 100u /* between two OPENs, doubling */
#define SEAM_PACKET_OPEN_LAST 1000u
#define SEAM_PACKET_PING 1000u
#define SEAM_PACKET_HUSH 1250u   /* nothing heard for so long: ask .. */
#define SEAM_PACKET_ASK 250u     /* .. so often */
#define SEAM_PACKET_DEAD 2750u   /* so that a dead peer is known in 3 s */
#define SEAM_PACKET_STUCK 10000u /* the peer answers, but takes in nothing it has room for */
#define SEAM_PACKET_FULL 120000u /* the peer answers, but has no room for anything */

typedef enum {
    SEAM_EVENT_NONE = 0,
    SEAM_EVENT_JOINED = 1,  /* the peer is there: both ends start from nothing */
    SEAM_EVENT_MESSAGE = 2, /* one message lies in rx: seam_packet_message, then seam_packet_take */
    SEAM_EVENT_SENT = 3,    /* the peer has the whole message: its bytes are the caller's again */
    SEAM_EVENT_SILENT = 4,  /* LOST: nothing heard for SEAM_PACKET_DEAD */
    SEAM_EVENT_RESTARTED = 5, /* LOST: the peer has started anew, or had lost us */
    SEAM_EVENT_STUCK = 6, /* LOST: the peer is there, but for SEAM_PACKET_STUCK nothing got on */
    SEAM_EVENT_FULL = 7   /* LOST: the peer is there, but had no room for SEAM_PACKET_FULL */
} seam_packet_event_kind;

typedef struct {
    uint64_t boot_id;          /* random, another at every start; the low 16 bits are not used */
    uint8_t *rx;               /* the caller's: one incoming message */
    uint32_t rx_space;         /* bytes; the longest message the peer may send */
    uint32_t bytes_per_second; /* of the line, for the timers; 0: fast or not known */
    uint16_t mtu;              /* 64..1024, a multiple of 64; 0: 1024 */
    uint16_t first_number;     /* of the first packet of a connection; 1 unless a test says so */
    uint8_t more;              /* bytes a frame has beside those of a clear one: a seal's */
    uint8_t window;            /* packets in flight, 1..32; 0: 8 */
} seam_packet_config;

typedef struct {
    uint64_t left_us;     /* when its last byte leaves us, by bytes_per_second */
    uint64_t deadline_us; /* when it is taken for lost without further news */
    uint32_t offset;
    uint16_t size, number;
    uint8_t state; /* free, in flight, to be sent again */
} seam_packet_slot;

typedef struct {
    uint64_t payload_sent, payload_received; /* bytes of messages the peer, or we, have whole */
    uint32_t packets_sent, packets_received, retransmits, timeouts, duplicates, strays, malformed,
        other_version, credit_stalls, joins, losses;
    uint32_t rtt_us; /* smoothed round trip; 0: none measured yet */
    uint32_t mtu;    /* payload bytes of a packet now, by the errors of the line */
} seam_packet_counters;

/* One end of a line. The fields are packet.c's own, but for the counters. */
typedef struct {
    seam_packet_config config;
    seam_packet_counters counters;
    /* connection */
    uint64_t epoch, peer_epoch; /* ours (the one in use, or offered); the peer's, 0 while closed */
    uint64_t reply_to;          /* an OPEN to answer: the epoch it came from, else 0 */
    uint64_t heard_ms, said_ms, open_ms, line_us;
    uint32_t connection, open_wait_ms;
    uint32_t peer_space;
    uint32_t line_bytes, line_lost; /* how bad the line is: outlives a connection */
    uint16_t peer_mtu;
    uint8_t confirmed, lost_due, joined_due, sent_due;
    /* sender: one message at a time */
    const uint8_t *tx;
    uint32_t tx_size, tx_next, tx_acked, tx_limit;
    uint16_t tx_message, tx_number, ack_seen;
    uint8_t tx_busy, tx_fresh, backoff, stalled;
    uint32_t srtt_us, rttvar_us, rto_ms, probe_wait_ms;
    uint64_t probe_ms, progress_ms, stalled_ms;
    seam_packet_slot slots[SEAM_PACKET_SLOTS];
    /* receiver: one message at a time, put together in rx */
    uint32_t rx_base, rx_size, rx_have, rx_bitmap;
    uint32_t rx_map[SEAM_PACKET_SPAN / SEAM_PACKET_UNIT / 32u];
    uint64_t ack_ms;
    uint16_t rx_message, rx_largest;
    uint8_t rx_last_known, rx_ready, rx_reported, rx_old, ack_count, ack_now;
} seam_packet_end;

SEAM_MUST_USE int seam_packet_start(seam_packet_end *end, const seam_packet_config *config,
                                    uint64_t now_ms);
/* SEAM_E_STATE: no peer yet. SEAM_E_BUSY: the last message is not SENT. SEAM_E_LIMIT: longer than
 * SEAM_MESSAGE_MAX or than the peer can take. message must stay in place until SENT or LOST. */
SEAM_MUST_USE int seam_packet_send(seam_packet_end *end, const uint8_t *message, uint32_t size);
/* One packet from the line; time never goes back. A packet that does not fit is counted and
 * dropped, never an error. */
void seam_packet_input(seam_packet_end *end, const uint8_t *packet, size_t size, uint64_t now_ms);
/* The next packet to send now, at most SEAM_PACKET_MAX bytes: its size, 0 (none), SEAM_E_SPACE. */
SEAM_MUST_USE int64_t seam_packet_output(seam_packet_end *end, uint8_t *out, size_t space,
                                         uint64_t now_ms);
/* Say something at once: there is a new way to the peer. */
void seam_packet_hurry(seam_packet_end *end, uint64_t now_ms);
/* Milliseconds until output has to be asked again if nothing else happens. */
uint32_t seam_packet_wait(const seam_packet_end *end, uint64_t now_ms);
/* The next event, in the order in which things happened: SENT, MESSAGE, LOST, JOINED, MESSAGE. */
seam_packet_event_kind seam_packet_event(seam_packet_end *end);
/* The message that MESSAGE told of; NULL if there is none. Valid until seam_packet_take. */
const uint8_t *seam_packet_message(const seam_packet_end *end, uint32_t *size);
/* The message is used: its room can be given to the next one. */
void seam_packet_take(seam_packet_end *end);

#endif
