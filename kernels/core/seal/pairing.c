/* Pairing at the device: after the handshake both ends agree that each keeps the other's key. */
#include <string.h>

#include "../bytes.h"
#include "seam_device.h"

#define HANDSHAKE 0x14u /* first byte of a body */
#define PAIR 0x15u      /* first byte of the packet that says how far we are, inside the seal */
#define PAIR_SIZE 3u
#define DEVICE 0u
#define FRONT 13u /* COBS begins so far in front of its body, and never catches up with it */

#define SAY_MS 250u
#define GONE_MS 5000u /* without a sealed frame of the host */
#define HINT_MS 2500u /* how long something must look wrong to be believed */
#define LAST_MS 3000u /* how long we wait to hear that the host has stored, too */
#define FAREWELLS 4u  /* the last word is said so often: a line may lose it */
#define FAREWELL_MS 50u

/* Why an end says NO. */
typedef enum { STOPPED = 1, OTHER_KEY = 2, OTHER_NAME = 3, NOT_WRITTEN = 4 } no_reason;

void seam_pairing_stretch(uint8_t *psk, const uint8_t *secret) {
    static const uint8_t PERSONAL[16] = "seamline pair";
    seam_crypto_hash_personal(psk, PERSONAL, secret, SEAM_SECRET_SIZE);
}

int seam_pairing_start(seam_pairing *pairing, const seam_pairing_config *config, uint64_t now_ms) {
    memset(pairing, 0, sizeof *pairing);
    if (config->check == NULL || config->store == NULL || config->handshake.host != NULL)
        return SEAM_E_ARGUMENT;
    pairing->config = *config;
    pairing->until_ms = now_ms + config->wait_ms;
    seam_frame_decoder_start(&pairing->decoder, pairing->body, sizeof pairing->body);
    pairing->decoder.raw = 1u;
    return seam_handshake_start(&pairing->handshake, &config->handshake, now_ms);
}

static int is_ended(const seam_pairing *pairing) {
    return pairing->done || pairing->trouble != SEAM_TROUBLE_NONE;
}

/* End it from here; the host is told why. */
static void stop(seam_pairing *pairing, seam_trouble trouble) {
    if (is_ended(pairing))
        return;
    pairing->trouble = (uint8_t)trouble;
    pairing->answer = SEAM_PAIRING_NO;
    pairing->reason = (uint8_t)(trouble == SEAM_TROUBLE_OTHER_KEY     ? OTHER_KEY
                                : trouble == SEAM_TROUBLE_OTHER_NAME  ? OTHER_NAME
                                : trouble == SEAM_TROUBLE_NOT_WRITTEN ? NOT_WRITTEN
                                                                      : STOPPED);
    pairing->say_ms = 0u;
    pairing->farewells = pairing->keyed ? FAREWELLS : 0u;
}

/* ---- what looks wrong ---- */

/* When it stays so, waiting on is vain. Once is not enough: it may be what another program has left
 * in a buffer. */
static void suspect(seam_pairing *pairing, seam_trouble trouble, uint64_t now_ms) {
    if (trouble == SEAM_TROUBLE_NONE)
        return;
    if (trouble != pairing->hint || now_ms - pairing->hint_ms > HINT_MS) {
        pairing->hint = (uint8_t)trouble;
        pairing->hint_since_ms = now_ms;
    }
    pairing->hint_ms = now_ms;
}

/* Has it looked wrong for long? The host may have seen it earlier, and be gone. */
static int is_vain(const seam_pairing *pairing, uint64_t now_ms) {
    return pairing->hint_ms - pairing->hint_since_ms >= HINT_MS / 3u &&
           now_ms - pairing->hint_since_ms >= HINT_MS;
}

/* What in a HELLO will let us pair with nobody. It is not proved, so it only serves to end a vain
 * wait with a better word. */
static seam_trouble hello_look(const seam_handshake *hand, const uint8_t *hello, size_t size) {
    const unsigned by_psk = 1u << SEAM_NOISE_XXPSK3, by_code = 1u << SEAM_NOISE_XX;
    if (size == hand->hello_size && memcmp(hello, hand->hello, size) == 0)
        return SEAM_TROUBLE_LOOP;
    if (hello[4] == DEVICE)
        return SEAM_TROUBLE_NO_HOST;
    if ((hello[5] >> hand->pattern & 1u) != 0u)
        return SEAM_TROUBLE_NONE;
    return (hello[5] & (by_psk | by_code)) != 0u ? SEAM_TROUBLE_ONE_SECRET
                                                 : SEAM_TROUBLE_NOT_PAIRING;
}

/* ---- in ---- */

/* A name may become that of a file: no path, nothing that cannot be shown. */
static int is_plain(const uint8_t *name, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (name[i] < 0x20u || name[i] == 0x7Fu || name[i] == '/' || name[i] == '\\')
            return 0;
    return size != 0u && name[0] != '.';
}

static void host_name(const seam_pairing *pairing, char *out) {
    size_t size = 0;
    const uint8_t *name = seam_handshake_peer(&pairing->handshake, &size);
    memcpy(out, name, size);
    out[size] = '\0';
}

/* A sealed frame has proved that the host has finished the same handshake: only now it is somebody
 * (of two secrets that differ, we do not know before). */
static void meet(seam_pairing *pairing) {
    char name[SEAM_NAME_MOST + 1u];
    size_t size = 0;
    if (pairing->met)
        return;
    pairing->met = 1u;
    const uint8_t *claimed = seam_handshake_peer(&pairing->handshake, &size);
    const int plain = is_plain(claimed, size);
    host_name(pairing, name);
    const seam_trouble wrong = plain ? pairing->config.check(pairing->config.handshake.context,
                                                             name, pairing->handshake.noise.remote)
                                     : SEAM_TROUBLE_OTHER_NAME;
    if (wrong != SEAM_TROUBLE_NONE) {
        stop(pairing, wrong);
    } else if (pairing->config.handshake.psk != NULL) {
        pairing->answer = SEAM_PAIRING_YES;
        pairing->say_ms = 0u;
    }
}

static void answer_read(seam_pairing *pairing, uint8_t answer, uint8_t reason) {
    if (is_ended(pairing))
        return;
    if (answer == SEAM_PAIRING_NO)
        pairing->trouble = (uint8_t)(reason == OTHER_KEY     ? SEAM_TROUBLE_PEER_OTHER_KEY
                                     : reason == OTHER_NAME  ? SEAM_TROUBLE_PEER_OTHER_NAME
                                     : reason == NOT_WRITTEN ? SEAM_TROUBLE_PEER_NOT_WRITTEN
                                                             : SEAM_TROUBLE_PEER_STOPPED);
    else if (answer > pairing->theirs && answer < SEAM_PAIRING_NO)
        pairing->theirs = answer;
}

static void sealed_read(seam_pairing *pairing, uint32_t size, uint64_t now_ms) {
    const uint8_t *packet = NULL;
    if (!pairing->keyed ||
        seam_seal_read(&pairing->seal, pairing->body, size, NULL, &packet) != PAIR_SIZE)
        return;
    if (packet[0] != PAIR)
        return;
    seam_handshake_confirm(&pairing->handshake);
    pairing->until_ms = now_ms + GONE_MS;
    meet(pairing);
    answer_read(pairing, packet[1], packet[2]);
}

static void clear_read(seam_pairing *pairing, uint32_t size, uint64_t now_ms) {
    seam_handshake *hand = &pairing->handshake;
    const uint8_t *body = pairing->body;
    if (body[0] != HANDSHAKE) {
        suspect(pairing, SEAM_TROUBLE_CLEAR, now_ms);
        return;
    }
    if (seam_handshake_is_hello(body, size)) {
        const seam_trouble wrong = hello_look(hand, body, size);
        suspect(pairing, wrong, now_ms);
        if (wrong == SEAM_TROUBLE_NONE && pairing->hint != hand->trouble)
            pairing->hint = SEAM_TROUBLE_NONE;
    }
    seam_handshake_input(hand, body, size, now_ms);
    if (seam_handshake_take(hand, &pairing->seal)) {
        pairing->keyed = 1u;
        pairing->say_ms = 0u;
    }
}

static void body_read(seam_pairing *pairing, uint32_t size, uint64_t now_ms) {
    if (is_ended(pairing))
        return;
    if (pairing->body[0] == SEAM_SEAL_TYPE) {
        sealed_read(pairing, size, now_ms);
        return;
    }
    if (size <= SEAM_FRAME_CHECK)
        return;
    const uint32_t inner = size - SEAM_FRAME_CHECK;
    if (seam_get32(pairing->body + inner) == seam_crc32(0u, pairing->body, inner))
        clear_read(pairing, inner, now_ms);
}

/* ---- time ---- */

static void store(seam_pairing *pairing, uint64_t now_ms) {
    char name[SEAM_NAME_MOST + 1u];
    host_name(pairing, name);
    if (!pairing->config.store(pairing->config.handshake.context, name,
                               pairing->handshake.noise.remote)) {
        stop(pairing, SEAM_TROUBLE_NOT_WRITTEN);
        return;
    }
    pairing->answer = SEAM_PAIRING_STORED;
    pairing->stored_ms = now_ms;
    pairing->say_ms = 0u;
}

static void give_up(seam_pairing *pairing) {
    pairing->trouble = (uint8_t)(pairing->met                         ? SEAM_TROUBLE_GONE
                                 : pairing->hint != SEAM_TROUBLE_NONE ? pairing->hint
                                                                      : SEAM_TROUBLE_NOBODY);
}

/* What only time, or both answers together, decide. */
static void look(seam_pairing *pairing, uint64_t now_ms) {
    if (!is_ended(pairing) && pairing->answer == SEAM_PAIRING_YES &&
        pairing->theirs != SEAM_PAIRING_ASKING)
        store(pairing, now_ms);
    if (is_ended(pairing))
        return;
    const int late = now_ms - pairing->stored_ms >= LAST_MS;
    if (pairing->answer == SEAM_PAIRING_STORED &&
        (pairing->theirs == SEAM_PAIRING_STORED || late)) {
        pairing->done = 1u;
        pairing->say_ms = 0u;
        pairing->farewells = FAREWELLS;
    } else if (now_ms >= pairing->until_ms) {
        give_up(pairing);
    } else if (!pairing->met) {
        suspect(pairing, (seam_trouble)pairing->handshake.trouble, now_ms);
        if (is_vain(pairing, now_ms))
            give_up(pairing);
    }
}

void seam_pairing_feed(seam_pairing *pairing, const uint8_t *bytes, size_t size, uint64_t now_ms) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t body = seam_frame_decode(&pairing->decoder, bytes[i]);
        if (body != 0u)
            body_read(pairing, body, now_ms);
    }
    look(pairing, now_ms);
}

/* ---- out ---- */

int64_t seam_pairing_output(seam_pairing *pairing, uint8_t *wire, size_t space, uint64_t now_ms) {
    if (space < SEAM_PAIRING_WIRE)
        return SEAM_E_SPACE;
    uint8_t *body = wire + FRONT;
    look(pairing, now_ms);
    int64_t size = 0;
    if (!is_ended(pairing))
        size = seam_handshake_output(&pairing->handshake, body, SEAM_BODY_MOST, now_ms);
    if (size != 0)
        return size < 0 ? size : seam_frame_encode(wire, space, body, (size_t)size);
    if (!pairing->keyed || now_ms < pairing->say_ms || seam_pairing_over(pairing))
        return 0;
    const uint8_t packet[PAIR_SIZE] = {PAIR, pairing->answer, pairing->reason};
    pairing->say_ms = now_ms + (is_ended(pairing) ? FAREWELL_MS : SAY_MS);
    if (pairing->farewells != 0u)
        pairing->farewells--;
    size = seam_seal_write(&pairing->seal, body, space - FRONT, packet, sizeof packet, NULL);
    return size < 0 ? size : seam_frame_encode_raw(wire, space, body, (size_t)size);
}

static uint32_t sooner(uint32_t wait_ms, uint64_t at_ms, uint64_t now_ms) {
    const uint64_t left = at_ms > now_ms ? at_ms - now_ms : 0u;
    return left < wait_ms ? (uint32_t)left : wait_ms;
}

uint32_t seam_pairing_wait(const seam_pairing *pairing, uint64_t now_ms) {
    uint32_t wait_ms = sooner(SAY_MS, pairing->until_ms, now_ms);
    if (pairing->keyed)
        wait_ms = sooner(wait_ms, pairing->say_ms, now_ms);
    if (!is_ended(pairing)) {
        const uint32_t hand = seam_handshake_wait(&pairing->handshake, now_ms);
        wait_ms = hand < wait_ms ? hand : wait_ms;
    }
    return wait_ms;
}

/* ---- for the user ---- */

int seam_pairing_asking(const seam_pairing *pairing) {
    return pairing->met && pairing->answer == SEAM_PAIRING_ASKING && !is_ended(pairing);
}

/* Base32 (RFC 4648) of the first 100 bits of a hash. */
static void short_code(char *out, const uint8_t *bytes, size_t size) {
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    uint8_t hash[SEAM_HASH_SIZE];
    const seam_crypto_part whole = {bytes, size};
    seam_crypto_hash(hash, &whole, 1u);
    for (unsigned i = 0; i < 20u; i++) {
        const unsigned at = 5u * i / 8u, bit = 5u * i % 8u;
        const unsigned pair = (unsigned)hash[at] << 8 | hash[at + 1u];
        if (i != 0u && i % 4u == 0u)
            *out++ = '-';
        *out++ = DIGITS[pair >> (11u - bit) & 31u];
    }
    *out = '\0';
}

void seam_pairing_code(const seam_pairing *pairing, char *out) {
    short_code(out, pairing->handshake.noise.hash, SEAM_HASH_SIZE);
}

void seam_pairing_fingerprint(char *out, const uint8_t *key) {
    short_code(out, key, SEAM_KEY_SIZE);
}

void seam_pairing_answer(seam_pairing *pairing, int yes) {
    if (!yes) {
        stop(pairing, SEAM_TROUBLE_STOPPED);
    } else if (seam_pairing_asking(pairing)) {
        pairing->answer = SEAM_PAIRING_YES;
        pairing->say_ms = 0u;
    }
}

int seam_pairing_over(const seam_pairing *pairing) {
    return is_ended(pairing) && pairing->farewells == 0u;
}
