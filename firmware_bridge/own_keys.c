/* Kept are the board's secret alone, from the first start on, then the secret with a host: a
 * pairing that breaks off half way is taken up with the same key. What was kept before stays until
 * the new is whole. */
#include "own_keys.h"

#include <string.h>

#include "board.h"
#include "device.h"
#include "kept.h"

__attribute__((weak)) int board_forget(void) {
    return 0;
}

/* Keys are of one device: an image for another makes its own. */
static seam_part own_id(void) {
    return (seam_part){(void *)(uintptr_t)device.id, (uint32_t)strlen(device.id) + 1u};
}

/* The host that is kept, if it is still the one this image is for. */
static void load_host(own_keys *keys, const kept_thing *thing, uint32_t at) {
    const uint32_t name = at + (uint32_t)sizeof keys->host_key;
    if (thing->size <= name || thing->size - name > (uint32_t)sizeof keys->host ||
        !kept_read(thing, at, keys->host_key, sizeof keys->host_key) ||
        !kept_read(thing, name, keys->host, thing->size - name))
        return;
    keys->host[sizeof keys->host - 1u] = '\0';
    keys->paired = strcmp(keys->host, device.host) == 0;
}

void own_keys_load(own_keys *keys) {
    const seam_part parts[] = {own_id(), {keys->secret, sizeof keys->secret}};
    const uint32_t known = parts[0].size + parts[1].size;
    kept_thing found;
    memset(keys, 0, sizeof *keys);
    if (board_forget()) {
        kept_forget(KEPT_KEYS);
        board_print("all keys are forgotten\n");
    }
    if (kept_find(&found, KEPT_KEYS, UINT32_MAX, parts, 1) && found.size >= known &&
        kept_read(&found, parts[0].size, keys->secret, sizeof keys->secret)) {
        keys->number = found.number;
        load_host(keys, &found, known);
        return;
    }
    while (!board_random(NULL, keys->secret, sizeof keys->secret))
        board_watchdog();
    if (!kept_save(KEPT_KEYS, keys->number, parts, 2) && board_kept_space() != 0u)
        board_print("our key cannot be kept: after a reset it is another one\n");
}

int own_keys_pair(own_keys *keys, const char *host, const uint8_t *host_key) {
    own_keys next = *keys;
    const seam_part parts[] = {own_id(),
                               {next.secret, sizeof next.secret},
                               {next.host_key, sizeof next.host_key},
                               {next.host, (uint32_t)strlen(host) + 1u}};
    memcpy(next.host_key, host_key, sizeof next.host_key);
    memcpy(next.host, host, parts[3].size);
    next.paired = 1;
    const int same = keys->paired && memcmp(&next, keys, sizeof next) == 0;
    const int well =
        same || board_kept_space() == 0u || kept_save(KEPT_KEYS, ++next.number, parts, 4);
    if (well)
        *keys = next;
    seam_crypto_wipe(&next, sizeof next);
    return well;
}
