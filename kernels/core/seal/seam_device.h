/* The device's end of a sealed byte line: handshake, pairing, sealed packets (SPEC.md, "Sealing and
 * handshake", "Pairing"). No heap, no clock: the caller gives memory, time and random bytes.
 *
 * A device that has a host's key talks to it through a seam_sealed_end, one that has none makes a
 * seam_pairing first; both take the bytes of the line:
 *   bytes read -> seam_sealed_feed, then seam_sealed_event until it gives SEAM_EVENT_NONE
 *   a message to say -> seam_sealed_send; its bytes stay in place until SENT or LOST
 *   then, and again after seam_sealed_wait() ms: seam_sealed_output until it gives 0, each time one
 *   frame for the line (of a pairing: seam_pairing_feed and so on).
 * `now_ms` never goes back. Strings end with a zero; keys and psk are 32 bytes. */
#ifndef SEAM_DEVICE_H
#define SEAM_DEVICE_H

#include "../seam_link.h"
#include "seam_seal.h"

#define SEAM_NAME_MOST 63u
#define SEAM_HELLO_HEAD 23u /* bytes before the name */
#define SEAM_HELLO_MOST (SEAM_HELLO_HEAD + SEAM_NAME_MOST)
#define SEAM_BODY_MOST 256u /* bytes of a handshake body without its CRC */
#define SEAM_SECRET_SIZE 16u

/* Fills out; 0: there are no random bytes now (then nothing is begun, and it is asked again). A
 * weak source breaks the line's secrecy: give a hardware generator's bytes. */
typedef int (*seam_entropy)(void *context, uint8_t *out, size_t size);

/* What keeps two ends from talking, as far as this end can tell; SEAM_TROUBLE_NAME, sentence. Most
 * of it is not proved: a word for the user, which ends nothing. */
#define SEAM_TROUBLE_TABLE(X)                                                                    \
    X(NONE, "no trouble")                                                                        \
    X(CLEAR, "the other end speaks clear text: start it with keys, or stop it and pair")         \
    X(NOT_KNOWN, "the host does not know us, or expects another device on this line")            \
    X(STRANGER, "another host is on this line than the one whose key we have")                   \
    X(WRONG_KEY, "the key of the host is not the one it has, or it has another one of ours")     \
    X(VERSION, "the other end speaks another version of the line: upgrade the older of the two") \
    X(BUSY, "the host is busy with another handshake: try again")                                \
    X(NOT_PAIRING, "the other end does not pair: stop it, start `seamline pair` there")          \
    X(PAIRING, "the other end is pairing: finish or stop that, then start its host")             \
    X(SECRETS_DIFFER, "the secrets differ: both ends need the same one")                         \
    X(CHANGED, "the handshake was changed on its way: try again, and look at the cable")         \
    X(RANDOM, "there are no random bytes: no handshake can begin")                               \
    X(NOBODY, "nobody answered: start `seamline pair` at the other end, look at the cable")      \
    X(LOOP, "the line sends back what we send: both its ends are in the same plug")              \
    X(NO_HOST, "the other end is a device, too: pair with a host")                               \
    X(ONE_SECRET, "one end has a secret and the other has none")                                 \
    X(STOPPED, "our user did not confirm the code: nothing was stored")                          \
    X(OTHER_KEY, "we have another key of this host: forget it first")                            \
    X(OTHER_NAME, "it is another host than the one we expect")                                   \
    X(NOT_WRITTEN, "the host's key could not be stored")                                         \
    X(PEER_STOPPED, "the user of the host did not confirm: start again at both ends")            \
    X(PEER_OTHER_KEY, "the host has another key of our name: `seamline keys forget` it there")   \
    X(PEER_OTHER_NAME, "the host expects another name than ours on this line")                   \
    X(PEER_NOT_WRITTEN, "the host could not write our key: its error says why")                  \
    X(GONE, "the host is gone: start again at both ends")

typedef enum {
#define X(name, text) SEAM_TROUBLE_##name,
    SEAM_TROUBLE_TABLE(X)
#undef X
} seam_trouble;

const char *seam_trouble_text(seam_trouble trouble);

/* ---- Handshake: bodies of frames without their CRC in and out ---- */

typedef struct {
    const char *name;        /* ours: 1 to 63 bytes of UTF-8 */
    const uint8_t *secret;   /* our X25519 key; both stay in place, as all that follows */
    const char *host;        /* KK: the host we know; else NULL */
    const uint8_t *host_key; /* KK: its public key; else NULL */
    const uint8_t *psk;      /* XXpsk3: of seam_pairing_stretch; else NULL. With neither: XX */
    seam_entropy entropy;
    void *context;         /* for `entropy` */
    uint64_t first_number; /* of sealed frames: 0 unless a test says so */
} seam_handshake_config;

/* The fields are handshake.c's own, but for `trouble` and those of the noise state. */
typedef struct {
    seam_handshake_config config;
    seam_noise noise; /* `remote` and `hash` are the peer's until the next handshake begins */
    uint64_t at_ms, moved_ms, quiet_ms, first_number;
    uint32_t step_ms;
    uint8_t hello[SEAM_HELLO_MOST], theirs[SEAM_HELLO_MOST], message[3u + SEAM_NOISE_MOST];
    uint8_t hello_size, theirs_size, message_size;
    uint8_t answers[4], answer_count;
    uint8_t pattern, repeating, open, ready;
    uint8_t trouble; /* a seam_trouble */
} seam_handshake;

/* SEAM_E_ARGUMENT: no name or one that is no UTF-8 of 1 to 63 bytes, a key or a hook is missing. */
SEAM_MUST_USE int seam_handshake_start(seam_handshake *hand, const seam_handshake_config *config,
                                       uint64_t now_ms);
/* A body whose CRC holds; what does not fit is dropped. Ask seam_handshake_take afterwards. */
void seam_handshake_input(seam_handshake *hand, const uint8_t *body, size_t size, uint64_t now_ms);
/* 1, once for each handshake that is finished here: seal has its keys. */
int seam_handshake_take(seam_handshake *hand, seam_seal *seal);
/* A sealed frame of the host has verified: nothing needs to be repeated. */
void seam_handshake_confirm(seam_handshake *hand);
/* The way to the host is lost: look for a new one. */
void seam_handshake_restart(seam_handshake *hand, uint64_t now_ms);
/* Somebody speaks in clear: say so, once a second at most. */
void seam_handshake_refuse_clear(seam_handshake *hand, uint64_t now_ms);
/* The next body to send now: its size, 0 (none), or SEAM_E_SPACE below SEAM_BODY_MOST. */
SEAM_MUST_USE int64_t seam_handshake_output(seam_handshake *hand, uint8_t *out, size_t space,
                                            uint64_t now_ms);
/* Milliseconds until output has to be asked again, at most. */
uint32_t seam_handshake_wait(const seam_handshake *hand, uint64_t now_ms);
/* The name in the host's HELLO: its bytes (no zero behind them) and their count, 0 before. */
const uint8_t *seam_handshake_peer(const seam_handshake *hand, size_t *size);
/* Is it a HELLO of our version, of whichever role? */
int seam_handshake_is_hello(const uint8_t *body, size_t size);

/* ---- The sealed end: messages in and out, frames of a line out and in ---- */

/* Room for a frame that seam_sealed_output makes: the largest packet, its seal, COBS. */
#define SEAM_SEALED_WIRE (SEAM_PACKET_MAX + SEAM_SEAL_MORE + 16u)
#define SEAM_SEALED_BODY (SEAM_PACKET_MAX + 32u)

typedef struct {
    uint32_t handshakes, clear_refused, other_version, damaged;
    uint32_t forged, replayed; /* under keys that are no longer in use; the seal counts on */
} seam_sealed_counters;

/* The fields are sealed_end.c's own, but for the counters, also those in `packets` and `seal`. */
typedef struct {
    seam_handshake handshake;
    seam_seal seal;
    seam_packet_end packets;
    seam_frame_decoder decoder;
    seam_sealed_counters counters;
    uint64_t since_ms; /* when the keys in use were established, or others looked for */
    uint8_t body[SEAM_SEALED_BODY];
    uint8_t keyed; /* the seal has keys */
    uint8_t lost;  /* the way to the host: look for a new one */
} seam_sealed_end;

/* handshake: of a known host (KK). packets: `more` is set here. SEAM_E_ARGUMENT. */
SEAM_MUST_USE int seam_sealed_start(seam_sealed_end *end, const seam_handshake_config *handshake,
                                    const seam_packet_config *packets, uint64_t now_ms);
void seam_sealed_feed(seam_sealed_end *end, const uint8_t *bytes, size_t size, uint64_t now_ms);
/* As seam_packet_event; a message that came is seam_sealed_message until seam_sealed_done. */
seam_packet_event_kind seam_sealed_event(seam_sealed_end *end);
/* As seam_packet_send. */
SEAM_MUST_USE int seam_sealed_send(seam_sealed_end *end, const uint8_t *message, uint32_t size);
const uint8_t *seam_sealed_message(const seam_sealed_end *end, uint32_t *size);
void seam_sealed_done(seam_sealed_end *end);
/* One whole frame for the line: its size, 0 (none), or SEAM_E_SPACE below SEAM_SEALED_WIRE. */
SEAM_MUST_USE int64_t seam_sealed_output(seam_sealed_end *end, uint8_t *wire, size_t space,
                                         uint64_t now_ms);
/* Milliseconds until output has to be asked again if nothing else happens. */
uint32_t seam_sealed_wait(const seam_sealed_end *end, uint64_t now_ms);
/* Why no host is found, as far as it can be told. */
seam_trouble seam_sealed_trouble(const seam_sealed_end *end);

/* ---- Pairing: both ends come to keep the other's public key ---- */

#define SEAM_PAIRING_WIRE (SEAM_BODY_MOST + 32u)
#define SEAM_CODE_SIZE 25u /* five groups of four characters, and a zero */

/* What an end says of itself. */
typedef enum {
    SEAM_PAIRING_ASKING = 0, /* its user compares the code */
    SEAM_PAIRING_YES = 1,
    SEAM_PAIRING_STORED = 2,
    SEAM_PAIRING_NO = 3
} seam_pairing_answer_kind;

typedef struct {
    seam_handshake_config handshake; /* no host; psk: by a secret, else by a code */
    /* May this host be stored? SEAM_TROUBLE_NONE, _OTHER_KEY or _OTHER_NAME. A key that is there
     * already is in order when it is the same. Its context, and that of `store`, is `handshake`'s.
     */
    seam_trouble (*check)(void *context, const char *host, const uint8_t *key);
    /* Keeps name and key through a loss of power; 1: they are kept. Called at most once. */
    int (*store)(void *context, const char *host, const uint8_t *key);
    uint32_t wait_ms; /* for a host to be there */
} seam_pairing_config;

/* The fields are pairing.c's own, but for `trouble`, `met` and `answer`. */
typedef struct {
    seam_pairing_config config;
    seam_handshake handshake;
    seam_seal seal;
    seam_frame_decoder decoder;
    uint64_t until_ms, say_ms, stored_ms, hint_since_ms, hint_ms;
    uint8_t body[SEAM_BODY_MOST + SEAM_FRAME_CHECK];
    uint8_t keyed, met; /* met: a sealed frame has proved that the host is somebody */
    uint8_t answer, reason, theirs, done, farewells, hint;
    uint8_t trouble; /* a seam_trouble: it is over, without success */
} seam_pairing;

/* The 16 bytes of a secret as the psk of a handshake. */
void seam_pairing_stretch(uint8_t *psk, const uint8_t *secret);
SEAM_MUST_USE int seam_pairing_start(seam_pairing *pairing, const seam_pairing_config *config,
                                     uint64_t now_ms);
void seam_pairing_feed(seam_pairing *pairing, const uint8_t *bytes, size_t size, uint64_t now_ms);
/* One whole frame for the line: its size, 0 (none), or SEAM_E_SPACE below SEAM_PAIRING_WIRE. */
SEAM_MUST_USE int64_t seam_pairing_output(seam_pairing *pairing, uint8_t *wire, size_t space,
                                          uint64_t now_ms);
uint32_t seam_pairing_wait(const seam_pairing *pairing, uint64_t now_ms);
/* 1: the user has to compare the code now, and seam_pairing_answer is due. */
int seam_pairing_asking(const seam_pairing *pairing);
/* out: SEAM_CODE_SIZE bytes; the host shows the same unless somebody is between. */
void seam_pairing_code(const seam_pairing *pairing, char *out);
/* What people compare instead of a public key, as `seamline keys list` shows it. out: as above. */
void seam_pairing_fingerprint(char *out, const uint8_t *key);
/* What the user said; a no ends it at any time. */
void seam_pairing_answer(seam_pairing *pairing, int yes);
/* 1: nothing is left to be said; `trouble` is SEAM_TROUBLE_NONE when the key is stored. */
int seam_pairing_over(const seam_pairing *pairing);

#endif
