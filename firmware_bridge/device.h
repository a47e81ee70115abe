/* What makes an image one device of one job: `seamline firmware build` writes it. */
#ifndef SEAM_IMAGE_DEVICE_H
#define SEAM_IMAGE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *made_for;             /* for who looks into the image */
    const char *id, *host;            /* host: NULL in clear text, as are the keys */
    const uint8_t *secret, *host_key; /* X25519, 32 bytes each; NULL: it pairs with `host`, */
    const uint8_t *pairing_secret;    /* by these 16 bytes, or NULL: by a code */
    uint32_t training, tests, values; /* samples; floats of one */
    float least, most;                /* of the training samples */
    const float *x;                   /* [training + tests][values]; NULL: board_sample */
    const uint16_t *y;                /* [training + tests] */
    uint16_t *order;                  /* [training] */
    uint8_t *message, *memory;        /* one message from the host; what a plan takes */
    uint32_t message_bytes, memory_bytes;
    uint32_t ram, flash; /* bytes the board has */
} image_device;

extern const image_device device;

#endif
