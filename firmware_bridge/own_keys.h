/* The keys of a board that was built without: its own, and that of the host it is paired with. */
#ifndef SEAM_OWN_KEYS_H
#define SEAM_OWN_KEYS_H

#include "seam_device.h"

typedef struct {
    uint8_t secret[SEAM_KEY_SIZE], host_key[SEAM_KEY_SIZE];
    char host[SEAM_NAME_MOST + 1u];
    uint32_t number; /* of what is kept */
    int paired;      /* with `host`; else host and host_key say nothing */
} own_keys;

/* What is kept for device.id; a new secret where there is none. */
void own_keys_load(own_keys *keys);
/* Pairs with this host from now on, and after a loss of power if the board keeps anything at all.
 * 0: it was not written; then nothing has changed. */
int own_keys_pair(own_keys *keys, const char *host, const uint8_t *host_key);

#endif
