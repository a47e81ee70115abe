/* Noise handshakes (Perrin, The Noise Protocol Framework, revision 34): KK, XX and XXpsk3. */
#include <string.h>

#include "seam_seal.h"

#define BLOCK 128u /* bytes BLAKE2b takes at a time; HMAC pads its key to them */
#define MESSAGES_MOST 3

/* What each message of a pattern consists of; upper case: Diffie-Hellman of the initiator's key and
 * the responder's, E ephemeral, S static. */
typedef enum { END, OWN_E, OWN_S, EE, ES, SE, SS, PSK } token;

static const token PATTERNS[3][MESSAGES_MOST][6] = {
    {{OWN_E, ES, SS, END}, {OWN_E, EE, SE, END}, {END}},
    {{OWN_E, END}, {OWN_E, EE, OWN_S, ES, END}, {OWN_S, SE, PSK, END}},
    {{OWN_E, END}, {OWN_E, EE, OWN_S, ES, END}, {OWN_S, SE, END}},
};
static const char *const NAMES[3] = {
    "Noise_KK_25519_ChaChaPoly_BLAKE2b",
    "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2b",
    "Noise_XX_25519_ChaChaPoly_BLAKE2b",
};

/* ---- keys from keys ---- */

/* HMAC (RFC 2104) over BLAKE2b of two parts. */
static void hmac(uint8_t *out, const uint8_t *key, const uint8_t *a, size_t a_size,
                 const uint8_t *b, size_t b_size) {
    uint8_t pad[BLOCK], inner[SEAM_HASH_SIZE];
    memset(pad, 0x36, sizeof pad);
    for (size_t i = 0; i < SEAM_HASH_SIZE; i++)
        pad[i] ^= key[i];
    const seam_crypto_part first[3] = {{pad, sizeof pad}, {a, a_size}, {b, b_size}};
    seam_crypto_hash(inner, first, 3u);
    for (size_t i = 0; i < sizeof pad; i++)
        pad[i] ^= 0x36 ^ 0x5C;
    const seam_crypto_part second[2] = {{pad, sizeof pad}, {inner, sizeof inner}};
    seam_crypto_hash(out, second, 2u);
    seam_crypto_wipe(pad, sizeof pad);
    seam_crypto_wipe(inner, sizeof inner);
}

/* HKDF (RFC 5869): up to three outputs of 64 bytes. */
static void derive(uint8_t (*out)[SEAM_HASH_SIZE], uint8_t count, const uint8_t *chain,
                   const uint8_t *input, size_t size) {
    uint8_t root[SEAM_HASH_SIZE];
    hmac(root, chain, input, size, NULL, 0u);
    for (uint8_t i = 0; i < count; i++) {
        const uint8_t number = (uint8_t)(i + 1u);
        hmac(out[i], root, i > 0u ? out[i - 1u] : NULL, i > 0u ? SEAM_HASH_SIZE : 0u, &number, 1u);
    }
    seam_crypto_wipe(root, sizeof root);
}

static void mix_hash(seam_noise *noise, const uint8_t *bytes, size_t size) {
    const seam_crypto_part parts[2] = {{noise->hash, SEAM_HASH_SIZE}, {bytes, size}};
    seam_crypto_hash(noise->hash, parts, 2u);
}

static void mix_key(seam_noise *noise, const uint8_t *input) {
    uint8_t out[2][SEAM_HASH_SIZE];
    derive(out, 2u, noise->chain, input, SEAM_KEY_SIZE);
    memcpy(noise->chain, out[0], SEAM_HASH_SIZE);
    memcpy(noise->key, out[1], SEAM_KEY_SIZE);
    noise->keyed = 1u;
    noise->number = 0u;
    seam_crypto_wipe(out, sizeof out);
}

static void mix_psk(seam_noise *noise) {
    uint8_t out[3][SEAM_HASH_SIZE];
    derive(out, 3u, noise->chain, noise->psk, SEAM_KEY_SIZE);
    memcpy(noise->chain, out[0], SEAM_HASH_SIZE);
    mix_hash(noise, out[1], SEAM_HASH_SIZE);
    memcpy(noise->key, out[2], SEAM_KEY_SIZE);
    noise->keyed = 1u;
    noise->number = 0u;
    seam_crypto_wipe(out, sizeof out);
}

/* 0 for a point of low order, whose result would be no secret. */
static int mix_shared(seam_noise *noise, const uint8_t *secret, const uint8_t *point) {
    uint8_t shared[SEAM_KEY_SIZE], any = 0u;
    seam_crypto_x25519(shared, secret, point);
    for (size_t i = 0; i < sizeof shared; i++)
        any |= shared[i];
    if (any != 0u)
        mix_key(noise, shared);
    seam_crypto_wipe(shared, sizeof shared);
    return any != 0u;
}

static int exchange(seam_noise *noise, token which) {
    /* The first letter is the initiator's key, the second the responder's. */
    const int own_is_ephemeral =
        noise->initiator ? which == EE || which == ES : which == EE || which == SE;
    const int peer_is_ephemeral =
        noise->initiator ? which == EE || which == SE : which == EE || which == ES;
    return mix_shared(noise, own_is_ephemeral ? noise->ephemeral : noise->secret,
                      peer_is_ephemeral ? noise->remote_ephemeral : noise->remote);
}

/* ---- a message, written and read ---- */

/* Bytes as they go into a message: sealed once there is a key. Returns their size there. */
static size_t put(seam_noise *noise, uint8_t *out, const uint8_t *bytes, size_t size) {
    const size_t whole = size + (noise->keyed ? SEAM_TAG_SIZE : 0u);
    if (noise->keyed)
        seam_crypto_lock(out, noise->key, noise->number++, noise->hash, SEAM_HASH_SIZE, bytes,
                         size);
    else if (size != 0u)
        memcpy(out, bytes, size);
    mix_hash(noise, out, whole);
    return whole;
}

/* out: `size` bytes. Returns what was taken of the message, or -1. */
static int64_t take(seam_noise *noise, uint8_t *out, size_t size, const uint8_t *bytes,
                    size_t left) {
    const size_t whole = size + (noise->keyed ? SEAM_TAG_SIZE : 0u);
    if (left < whole)
        return -1;
    if (noise->keyed) {
        if (!seam_crypto_unlock(out, noise->key, noise->number++, noise->hash, SEAM_HASH_SIZE,
                                bytes, size))
            return -1;
    } else if (size != 0u) {
        memcpy(out, bytes, size);
    }
    mix_hash(noise, bytes, whole);
    return (int64_t)whole;
}

static size_t put_ephemeral(seam_noise *noise, uint8_t *out) {
    seam_crypto_x25519_public(out, noise->ephemeral);
    mix_hash(noise, out, SEAM_KEY_SIZE);
    if (noise->pattern == SEAM_NOISE_XXPSK3)
        mix_key(noise, out);
    return SEAM_KEY_SIZE;
}

static int64_t take_ephemeral(seam_noise *noise, const uint8_t *bytes, size_t left) {
    if (left < SEAM_KEY_SIZE)
        return -1;
    memcpy(noise->remote_ephemeral, bytes, SEAM_KEY_SIZE);
    mix_hash(noise, bytes, SEAM_KEY_SIZE);
    if (noise->pattern == SEAM_NOISE_XXPSK3)
        mix_key(noise, bytes);
    return SEAM_KEY_SIZE;
}

int seam_noise_turn(const seam_noise *noise) {
    if (noise->message >= MESSAGES_MOST || PATTERNS[noise->pattern][noise->message][0] == END)
        return -1;
    return (noise->message % 2u == 0u) == (noise->initiator != 0u);
}

int64_t seam_noise_write(seam_noise *noise, uint8_t *out, size_t space) {
    if (seam_noise_turn(noise) != 1)
        return SEAM_E_STATE;
    if (space < SEAM_NOISE_MOST)
        return SEAM_E_SPACE;
    size_t size = 0u;
    for (const token *next = PATTERNS[noise->pattern][noise->message]; *next != END; next++) {
        if (*next == OWN_E)
            size += put_ephemeral(noise, out + size);
        else if (*next == OWN_S)
            size += put(noise, out + size, noise->own_public, SEAM_KEY_SIZE);
        else if (*next == PSK)
            mix_psk(noise);
        else if (!exchange(noise, *next))
            return SEAM_E_CHECK;
    }
    size += put(noise, out + size, NULL, 0u);
    noise->message++;
    return (int64_t)size;
}

int seam_noise_read(seam_noise *noise, const uint8_t *bytes, size_t size) {
    if (seam_noise_turn(noise) != 0)
        return SEAM_E_STATE;
    size_t at = 0u;
    for (const token *next = PATTERNS[noise->pattern][noise->message]; *next != END; next++) {
        int64_t taken = 0;
        if (*next == OWN_E)
            taken = take_ephemeral(noise, bytes + at, size - at);
        else if (*next == OWN_S)
            taken = take(noise, noise->remote, SEAM_KEY_SIZE, bytes + at, size - at);
        else if (*next == PSK)
            mix_psk(noise);
        else if (!exchange(noise, *next))
            taken = -1;
        if (taken < 0)
            return SEAM_E_CHECK;
        noise->knows_remote |= *next == OWN_S;
        at += (size_t)taken;
    }
    uint8_t none[1];
    if (take(noise, none, 0u, bytes + at, size - at) != (int64_t)(size - at))
        return SEAM_E_CHECK;
    noise->message++;
    return SEAM_OK;
}

/* ---- begin and end ---- */

int seam_noise_start(seam_noise *noise, const seam_noise_config *config) {
    const int kk = config->pattern == SEAM_NOISE_KK, psk = config->pattern == SEAM_NOISE_XXPSK3;
    memset(noise, 0, sizeof *noise);
    if ((kk && config->remote == NULL) || (psk && config->psk == NULL) ||
        (unsigned)config->pattern > SEAM_NOISE_XX)
        return SEAM_E_ARGUMENT;
    noise->pattern = (uint8_t)config->pattern;
    noise->initiator = config->initiator != 0u;
    memcpy(noise->secret, config->secret, SEAM_KEY_SIZE);
    memcpy(noise->ephemeral, config->ephemeral, SEAM_KEY_SIZE);
    seam_crypto_x25519_public(noise->own_public, noise->secret);
    const char *name = NAMES[noise->pattern];
    for (size_t i = 0; name[i] != '\0'; i++)
        noise->hash[i] = (uint8_t)name[i];
    memcpy(noise->chain, noise->hash, SEAM_HASH_SIZE);
    mix_hash(noise, config->prologue, config->prologue_size);
    if (psk)
        memcpy(noise->psk, config->psk, SEAM_KEY_SIZE);
    if (kk) {
        memcpy(noise->remote, config->remote, SEAM_KEY_SIZE);
        noise->knows_remote = 1u;
        mix_hash(noise, noise->initiator ? noise->own_public : noise->remote, SEAM_KEY_SIZE);
        mix_hash(noise, noise->initiator ? noise->remote : noise->own_public, SEAM_KEY_SIZE);
    }
    return SEAM_OK;
}

void seam_noise_split(seam_noise *noise, uint8_t *from_initiator, uint8_t *from_responder) {
    uint8_t out[2][SEAM_HASH_SIZE];
    derive(out, 2u, noise->chain, NULL, 0u);
    memcpy(from_initiator, out[0], SEAM_KEY_SIZE);
    memcpy(from_responder, out[1], SEAM_KEY_SIZE);
    seam_crypto_wipe(out, sizeof out);
    seam_crypto_wipe(noise->chain, sizeof noise->chain);
    seam_crypto_wipe(noise->key, sizeof noise->key);
    seam_crypto_wipe(noise->ephemeral, sizeof noise->ephemeral);
    seam_crypto_wipe(noise->secret, sizeof noise->secret);
    seam_crypto_wipe(noise->psk, sizeof noise->psk);
}
