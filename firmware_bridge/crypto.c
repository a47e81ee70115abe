/* The core's cryptography on Monocypher. */
#include <string.h>

#include "monocypher.h"
#include "seam_crypto.h"

#define NONCE 12 /* four zero bytes, then the number */

static void start(crypto_aead_ctx *lock, const uint8_t *key, uint64_t number) {
    uint8_t nonce[NONCE] = {0};
    for (unsigned i = 0; i < 8u; i++)
        nonce[4u + i] = (uint8_t)(number >> (8u * i));
    crypto_aead_init_ietf(lock, key, nonce);
}

void seam_crypto_x25519(uint8_t *out, const uint8_t *secret, const uint8_t *point) {
    crypto_x25519(out, secret, point);
}

void seam_crypto_x25519_public(uint8_t *out, const uint8_t *secret) {
    crypto_x25519_public_key(out, secret);
}

void seam_crypto_hash(uint8_t *out, const seam_crypto_part *parts, size_t count) {
    crypto_blake2b_ctx hash;
    crypto_blake2b_init(&hash, SEAM_HASH_SIZE);
    for (size_t i = 0; i < count; i++)
        crypto_blake2b_update(&hash, parts[i].bytes, parts[i].size);
    crypto_blake2b_final(&hash, out);
}

/* The parameter block is XORed into the first state (RFC 7693, 2.5), its bytes 48 to 63, the
 * personalisation, into the last two words; Monocypher has no call for them. */
void seam_crypto_hash_personal(uint8_t *out, const uint8_t *personal, const uint8_t *bytes,
                               size_t size) {
    crypto_blake2b_ctx hash;
    crypto_blake2b_init(&hash, SEAM_KEY_SIZE);
    for (unsigned i = 0; i < 16u; i++)
        hash.hash[6u + i / 8u] ^= (uint64_t)personal[i] << (8u * (i % 8u));
    crypto_blake2b_update(&hash, bytes, size);
    crypto_blake2b_final(&hash, out);
}

void seam_crypto_lock(uint8_t *out, const uint8_t *key, uint64_t number, const uint8_t *with,
                      size_t with_size, const uint8_t *text, size_t size) {
    crypto_aead_ctx lock;
    start(&lock, key, number);
    crypto_aead_write(&lock, out, out + size, with, with_size, text, size);
    crypto_wipe(&lock, sizeof lock);
}

int seam_crypto_unlock(uint8_t *out, const uint8_t *key, uint64_t number, const uint8_t *with,
                       size_t with_size, const uint8_t *sealed, size_t size) {
    crypto_aead_ctx lock;
    start(&lock, key, number);
    const int wrong =
        crypto_aead_read(&lock, out, sealed + size, with, with_size, sealed, size) != 0;
    crypto_wipe(&lock, sizeof lock);
    return !wrong;
}

void seam_crypto_wipe(void *bytes, size_t size) {
    crypto_wipe(bytes, size);
}
