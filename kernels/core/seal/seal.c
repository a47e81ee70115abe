/* Sealed frames: ChaCha20-Poly1305 under a number that is never used twice, replays dropped. */
#include <string.h>

#include "../bytes.h"
#include "seam_seal.h"

void seam_seal_start(seam_seal *seal, const uint8_t *send_key, const uint8_t *receive_key,
                     uint64_t first) {
    memset(seal, 0, sizeof *seal);
    memcpy(seal->send_key, send_key, SEAM_KEY_SIZE);
    memcpy(seal->receive_key, receive_key, SEAM_KEY_SIZE);
    seal->next = first;
    seal->largest = first - 1u;
}

/* What is proved beside the packet: the body's first bytes, then what both ends know. */
static size_t proven(uint8_t *bytes, const uint8_t *body, const uint8_t *known) {
    memcpy(bytes, body, SEAM_SEAL_HEADER);
    if (body[0] != SEAM_SEAL_SHORT)
        return SEAM_SEAL_HEADER;
    memcpy(bytes + SEAM_SEAL_HEADER, known, SEAM_SEAL_KNOWN);
    return SEAM_SEAL_HEADER + SEAM_SEAL_KNOWN;
}

int64_t seam_seal_write(seam_seal *seal, uint8_t *out, size_t space, const uint8_t *packet,
                        size_t size, const uint8_t *known) {
    uint8_t beside[SEAM_SEAL_HEADER + SEAM_SEAL_KNOWN];
    if (space < SEAM_SEAL_MORE || space - SEAM_SEAL_MORE < size)
        return SEAM_E_SPACE;
    if (seal->next >= SEAM_SEAL_LAST)
        return SEAM_E_LIMIT;
    memmove(out + SEAM_SEAL_HEADER, packet, size);
    out[0] = known != NULL ? SEAM_SEAL_SHORT : SEAM_SEAL_TYPE;
    seam_put16(out + 1, (uint16_t)seal->next);
    seam_crypto_lock(out + SEAM_SEAL_HEADER, seal->send_key, seal->next, beside,
                     proven(beside, out, known), out + SEAM_SEAL_HEADER, size);
    seal->next++;
    return (int64_t)(size + SEAM_SEAL_MORE);
}

/* The number with these low bits that is nearest to the one we expect next. */
static uint64_t number_of(const seam_seal *seal, uint16_t low) {
    const uint64_t expected = seal->largest + 1u;
    const int16_t ahead = (int16_t)(uint16_t)(low - (uint16_t)expected);
    return expected + (uint64_t)(int64_t)ahead;
}

static int is_seen(const seam_seal *seal, uint64_t number) {
    const uint64_t behind = seal->largest - number;
    return behind < (UINT64_C(1) << 63) && (behind >= 64u || (seal->seen >> behind & 1u) != 0u);
}

static void note(seam_seal *seal, uint64_t number) {
    const uint64_t ahead = number - seal->largest;
    if (ahead - 1u < (UINT64_C(1) << 63)) { /* newer than all */
        seal->seen = ahead >= 64u ? 1u : seal->seen << ahead | 1u;
        seal->largest = number;
    } else {
        seal->seen |= UINT64_C(1) << (seal->largest - number);
    }
}

size_t seam_seal_read(seam_seal *seal, uint8_t *body, size_t size, const uint8_t *known,
                      const uint8_t **packet) {
    uint8_t beside[SEAM_SEAL_HEADER + SEAM_SEAL_KNOWN];
    if (size <= SEAM_SEAL_MORE || !seam_seal_is(body[0]) ||
        (body[0] == SEAM_SEAL_SHORT && known == NULL)) {
        seal->forged++;
        return 0u;
    }
    const uint64_t number = number_of(seal, seam_get16(body + 1));
    if (number >= SEAM_SEAL_LAST || is_seen(seal, number)) {
        seal->replayed++;
        return 0u;
    }
    uint8_t *text = body + SEAM_SEAL_HEADER;
    if (!seam_crypto_unlock(text, seal->receive_key, number, beside, proven(beside, body, known),
                            text, size - SEAM_SEAL_MORE)) {
        seal->forged++;
        return 0u;
    }
    note(seal, number);
    seal->heard = 1u;
    *packet = text;
    return size - SEAM_SEAL_MORE;
}
