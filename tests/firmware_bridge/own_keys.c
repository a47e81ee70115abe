/* The keys of a board (firmware_bridge/own_keys.c) on the flash of kept.c, for a device "d00". */
#include "own_keys.h"

#include <string.h>

#include "board.h"
#include "device.h"

void use(const char *id, const char *host, const uint8_t *random, int forget);
void start(uint8_t *secret, char *host, uint8_t *host_key);
int pair(const char *host, const uint8_t *key);
const char *said(void);

static char id[64], wanted[64], words[512];
static uint8_t next[SEAM_KEY_SIZE];
static int forgets;
static own_keys keys;

/* Its only field that changes is a string in place. */
const image_device device = {.id = id, .host = wanted};

int board_forget(void) {
    return forgets;
}

int board_random(void *context, uint8_t *out, size_t size) {
    (void)context;
    memcpy(out, next, size);
    return 1;
}

void board_watchdog(void) {
}

void board_print(const char *text) {
    strncat(words, text, sizeof words - strlen(words) - 1u);
}

/* ---- for the test ---- */

void use(const char *name, const char *host, const uint8_t *random, int forget) {
    strncpy(id, name, sizeof id - 1u);
    strncpy(wanted, host, sizeof wanted - 1u);
    memcpy(next, random, sizeof next);
    forgets = forget;
}

/* host: empty where it is not paired. */
void start(uint8_t *secret, char *host, uint8_t *host_key) {
    words[0] = '\0';
    own_keys_load(&keys);
    memcpy(secret, keys.secret, sizeof keys.secret);
    strcpy(host, keys.paired ? keys.host : "");
    memcpy(host_key, keys.host_key, sizeof keys.host_key);
}

int pair(const char *host, const uint8_t *key) {
    words[0] = '\0';
    return own_keys_pair(&keys, host, key);
}

const char *said(void) {
    return words;
}
