/* Sealed byte lines: Noise handshakes and sealed frames (SPEC.md, "Sealing"). No heap, no clock, no
 * randomness of its own: the owner gives time and random bytes. */
#ifndef SEAM_SEAL_H
#define SEAM_SEAL_H

#include "../seam.h"
#include "seam_crypto.h"

/* ---- Noise (revision 34) with 25519, ChaChaPoly, BLAKE2b; payloads are empty ---- */

typedef enum {
    SEAM_NOISE_KK = 0,     /* both know each other's key */
    SEAM_NOISE_XXPSK3 = 1, /* pairing by a shared secret */
    SEAM_NOISE_XX = 2      /* pairing by a shown code */
} seam_noise_pattern;

#define SEAM_NOISE_MOST 96u /* bytes of a message: a key, a sealed key, a tag */

typedef struct {
    const uint8_t *prologue;
    size_t prologue_size;
    const uint8_t *secret;    /* ours, of 32 bytes, as all keys */
    const uint8_t *ephemeral; /* random and used for nothing else */
    const uint8_t *remote;    /* KK: the peer's public key; else NULL */
    const uint8_t *psk;       /* XXpsk3: the shared secret; else NULL */
    seam_noise_pattern pattern;
    uint8_t initiator;
} seam_noise_config;

typedef struct {
    uint8_t hash[SEAM_HASH_SIZE], chain[SEAM_HASH_SIZE], key[SEAM_KEY_SIZE];
    uint8_t secret[SEAM_KEY_SIZE], ephemeral[SEAM_KEY_SIZE], psk[SEAM_KEY_SIZE];
    uint8_t own_public[SEAM_KEY_SIZE], remote[SEAM_KEY_SIZE], remote_ephemeral[SEAM_KEY_SIZE];
    uint32_t number; /* messages under `key` */
    uint8_t pattern, initiator, keyed, knows_remote, message;
} seam_noise;

/* SEAM_E_ARGUMENT: a key is missing that the pattern needs. */
SEAM_MUST_USE int seam_noise_start(seam_noise *noise, const seam_noise_config *config);
/* 1: the next message is ours; 0: the peer's; -1: none is left. */
int seam_noise_turn(const seam_noise *noise);
/* Our next message: its size; SEAM_E_SPACE; SEAM_E_STATE: it is not our turn; SEAM_E_CHECK: a key
 * of the peer is no point. After an error start again. */
SEAM_MUST_USE int64_t seam_noise_write(seam_noise *noise, uint8_t *out, size_t space);
/* The peer's next message. SEAM_E_CHECK: it does not verify. After an error start again. */
SEAM_MUST_USE int seam_noise_read(seam_noise *noise, const uint8_t *bytes, size_t size);
/* The two keys of a finished handshake: of what the initiator sends, and the responder. */
void seam_noise_split(seam_noise *noise, uint8_t *from_initiator, uint8_t *from_responder);

/* ---- Sealed frames ---- */

#define SEAM_SEAL_TYPE 0x18u
#define SEAM_SEAL_SHORT 0x19u /* of one without the bytes that both ends know */
#define SEAM_SEAL_KNOWN 4u    /* so many */
#define SEAM_SEAL_HEADER 3u
#define SEAM_SEAL_MORE (SEAM_SEAL_HEADER + SEAM_TAG_SIZE) /* bytes beside the packet */
#define SEAM_SEAL_LAST (UINT64_C(1) << 48)                /* numbers under one key */

typedef struct {
    uint8_t send_key[SEAM_KEY_SIZE], receive_key[SEAM_KEY_SIZE];
    uint64_t next;    /* number of the next frame sent */
    uint64_t largest; /* received */
    uint64_t seen;    /* bit i: largest - i */
    uint32_t forged, replayed;
    uint8_t heard; /* the peer has proved that it has these keys */
} seam_seal;

/* Is it the first byte of a sealed body? */
static inline int seam_seal_is(uint8_t type) {
    return type == SEAM_SEAL_TYPE || type == SEAM_SEAL_SHORT;
}

void seam_seal_start(seam_seal *seal, const uint8_t *send_key, const uint8_t *receive_key,
                     uint64_t first);
/* A packet -> the body of a frame: its size, SEAM_E_SPACE, or SEAM_E_LIMIT: the key is used up.
 * known: SEAM_SEAL_KNOWN bytes that both ends know, bound to the packet and not sent, or NULL. */
SEAM_MUST_USE int64_t seam_seal_write(seam_seal *seal, uint8_t *out, size_t space,
                                      const uint8_t *packet, size_t size, const uint8_t *known);
/* The body of a frame -> the packet in it, in place of its ciphertext: its size, or 0: forged, seen
 * before, or no sealed body; then the body is as it was or useless. *packet points into body.
 * known: for a SEAM_SEAL_SHORT, or NULL: none is taken. */
SEAM_MUST_USE size_t seam_seal_read(seam_seal *seal, uint8_t *body, size_t size,
                                    const uint8_t *known, const uint8_t **packet);

#endif
