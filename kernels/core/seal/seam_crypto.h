/* The few functions of cryptography that a sealed line stands on. The core has none of its own: an
 * image links an implementation (Monocypher on a microcontroller). All are constant in time. */
#ifndef SEAM_CRYPTO_H
#define SEAM_CRYPTO_H

#include <stddef.h>
#include <stdint.h>

#define SEAM_KEY_SIZE 32u
#define SEAM_HASH_SIZE 64u
#define SEAM_TAG_SIZE 16u

typedef struct {
    const uint8_t *bytes;
    size_t size;
} seam_crypto_part;

/* X25519 (RFC 7748) of a secret and a point. The result is all zero for a point of low order: the
 * caller refuses it. */
void seam_crypto_x25519(uint8_t *out, const uint8_t *secret, const uint8_t *point);
void seam_crypto_x25519_public(uint8_t *out, const uint8_t *secret);

/* BLAKE2b (RFC 7693), 64 bytes, of the parts one after the other. */
void seam_crypto_hash(uint8_t *out, const seam_crypto_part *parts, size_t count);

/* The same with 32 bytes and the personalisation of RFC 7693's parameter block, 16 bytes. */
void seam_crypto_hash_personal(uint8_t *out, const uint8_t *personal, const uint8_t *bytes,
                               size_t size);

/* ChaCha20-Poly1305 (RFC 8439); the nonce is four zero bytes and `number`, little-endian. out gets
 * size + SEAM_TAG_SIZE bytes and may be text. */
void seam_crypto_lock(uint8_t *out, const uint8_t *key, uint64_t number, const uint8_t *with,
                      size_t with_size, const uint8_t *text, size_t size);
/* size: of the text, without its tag. 1: out holds the text (it may be sealed); 0: it was not
 * sealed with this key, number and `with`, and out is not to be used. */
int seam_crypto_unlock(uint8_t *out, const uint8_t *key, uint64_t number, const uint8_t *with,
                       size_t with_size, const uint8_t *sealed, size_t size);

/* Overwrites secrets; no compiler leaves it out. */
void seam_crypto_wipe(void *bytes, size_t size);

#endif
