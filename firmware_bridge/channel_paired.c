/* A device's line, sealed, of a board that was built without keys: before anything else it pairs
 * with its host, by the secret of the image or by a code that people compare. */
#include <string.h>

#include "board.h"
#include "device.h"
#include "line_service.h"
#include "own_keys.h"

_Static_assert(CHANNEL_WIRE >= SEAM_SEALED_WIRE, "room for a sealed frame");
_Static_assert(CHANNEL_WIRE >= SEAM_PAIRING_WIRE, "room for a frame of a pairing");

#define NEW_MS 60000u  /* a host is waited for; then the same again */
#define AGAIN_MS 8000u /* the same where we are paired already */

static own_keys keys;
static seam_packet_config packets;
static union {
    seam_sealed_end sealed;
    seam_pairing pairing;
} line;
static struct {
    uint8_t psk[SEAM_KEY_SIZE];
    char code[SEAM_CODE_SIZE];
    int on;       /* the line is that of a pairing */
    int asked;    /* the code is shown */
    int told;     /* that it is waited for */
    uint8_t last; /* what it failed of before */
} pairing;

/* ---- what people are told ---- */

static void print(const char *first, const char *second, const char *third) {
    board_print(first);
    board_print(second);
    board_print(third);
}

static void tell_waiting(void) {
    if (pairing.told)
        return;
    pairing.told = 1;
    print("not paired: waiting for `seamline pair` at ", device.host,
          device.pairing_secret != NULL ? ", with the secret of this image\n" : "\n");
    if (board_kept_space() == 0u)
        board_print("this board keeps nothing: a pairing lasts until it is reset\n");
}

/* What ends an attempt, each time; what only keeps us waiting, once. */
static void tell_failed(void) {
    const uint8_t trouble = line.pairing.trouble;
    if (trouble == SEAM_TROUBLE_NOBODY && !line.pairing.keyed)
        return;
    if (trouble != pairing.last || line.pairing.keyed)
        print(keys.paired ? "the host's key is kept, but: " : "not paired: ",
              seam_trouble_text((seam_trouble)trouble), "\n");
    pairing.last = trouble;
}

__attribute__((weak)) int board_confirm(const char *code) {
    (void)code;
    board_print("this board cannot ask anybody: build its image with --secret-file\n");
    return 0;
}

static void ask(void) {
    if (!pairing.asked) {
        char mark[SEAM_CODE_SIZE];
        const seam_noise *noise = &line.pairing.handshake.noise;
        pairing.asked = 1;
        seam_pairing_code(&line.pairing, pairing.code);
        seam_pairing_fingerprint(mark, noise->own_public);
        print("this end   ", device.id, "  ");
        print(mark, "\nother end  ", device.host);
        seam_pairing_fingerprint(mark, noise->remote);
        print("  ", mark, "\ncode       ");
        print(pairing.code, "\n", "");
    }
    const int answer = board_confirm(pairing.code);
    if (answer >= 0)
        seam_pairing_answer(&line.pairing, answer != 0);
}

/* ---- who may be stored ---- */

static seam_trouble check(void *context, const char *host, const uint8_t *key) {
    (void)context;
    if (strcmp(host, device.host) != 0)
        return SEAM_TROUBLE_OTHER_NAME;
    return keys.paired && memcmp(key, keys.host_key, SEAM_KEY_SIZE) != 0 ? SEAM_TROUBLE_OTHER_KEY
                                                                         : SEAM_TROUBLE_NONE;
}

static int store(void *context, const char *host, const uint8_t *key) {
    (void)context;
    return own_keys_pair(&keys, host, key);
}

/* ---- one or the other ---- */

static int pairing_begin(void) {
    seam_pairing_config config = {
        .handshake = {.name = device.id, .secret = keys.secret, .entropy = board_random},
        .check = check,
        .store = store,
        .wait_ms = keys.paired ? AGAIN_MS : NEW_MS};
    if (device.pairing_secret != NULL) {
        seam_pairing_stretch(pairing.psk, device.pairing_secret);
        config.handshake.psk = pairing.psk;
    }
    line_by_program(1);
    seam_crypto_wipe(&line, sizeof line);
    pairing.on = 1;
    pairing.asked = 0;
    return seam_pairing_start(&line.pairing, &config, board_millis());
}

/* Packets begin anew: with another epoch than any before. */
static int talk_begin(void) {
    const seam_handshake_config handshake = {.name = device.id,
                                             .secret = keys.secret,
                                             .host = keys.host,
                                             .host_key = keys.host_key,
                                             .entropy = board_random};
    seam_crypto_wipe(&line, sizeof line);
    seam_crypto_wipe(pairing.psk, sizeof pairing.psk);
    pairing.on = 0;
    return seam_sealed_start(&line.sealed, &handshake, &packets, board_millis());
}

int channel_start(const seam_packet_config *config, uint64_t now_ms) {
    (void)now_ms;
    packets = *config;
    own_keys_load(&keys);
    return keys.paired ? talk_begin() : pairing_begin();
}

static void or_end(int status) {
    if (status == SEAM_OK)
        return;
    print(seam_status_text(status), "\n", "");
    board_exit(1);
}

/* One attempt to its end. */
static void pair_once(void) {
    while (!seam_pairing_over(&line.pairing)) {
        board_watchdog();
        line_move();
        if (seam_pairing_asking(&line.pairing))
            ask();
        line_sleep();
    }
    if (line.pairing.trouble != SEAM_TROUBLE_NONE) {
        tell_failed();
        return;
    }
    print("paired with ", keys.host, "\n");
    pairing.last = SEAM_TROUBLE_NONE;
}

/* A host that pairs although we know its key has lost ours, or was gone before it kept it. What
 * else keeps us from it is said once. */
static int host_pairs(void) {
    line_lock();
    const seam_trouble trouble = seam_sealed_trouble(&line.sealed);
    line_unlock();
    if (trouble == SEAM_TROUBLE_PAIRING)
        return 1;
    if (trouble != SEAM_TROUBLE_NONE && trouble != pairing.last)
        print("no host: ", seam_trouble_text(trouble), "\n");
    if (trouble != SEAM_TROUBLE_NONE)
        pairing.last = (uint8_t)trouble;
    return 0;
}

void channel_tend(int linked) {
    if (linked)
        pairing.last = SEAM_TROUBLE_NONE;
    if (!pairing.on && (linked || !host_pairs()))
        return;
    line_lock();
    if (!pairing.on)
        or_end(pairing_begin());
    line_unlock();
    do {
        if (!keys.paired)
            tell_waiting();
        pair_once();
        if (!keys.paired)
            or_end(pairing_begin());
    } while (!keys.paired);
    uint64_t epoch;
    while (!board_random(NULL, (uint8_t *)&epoch, sizeof epoch))
        board_watchdog();
    packets.boot_id = epoch | UINT64_C(1) << 63;
    or_end(talk_begin());
    line_by_program(0);
}

/* ---- the line's own calls ---- */

void channel_feed(const uint8_t *bytes, size_t size, uint64_t now_ms) {
    if (pairing.on)
        seam_pairing_feed(&line.pairing, bytes, size, now_ms);
    else
        seam_sealed_feed(&line.sealed, bytes, size, now_ms);
}

size_t channel_output(uint8_t *wire, size_t space, uint64_t now_ms) {
    const int64_t size = pairing.on ? seam_pairing_output(&line.pairing, wire, space, now_ms)
                                    : seam_sealed_output(&line.sealed, wire, space, now_ms);
    return size > 0 ? (size_t)size : 0u;
}

uint32_t channel_wait(uint64_t now_ms) {
    return pairing.on ? seam_pairing_wait(&line.pairing, now_ms)
                      : seam_sealed_wait(&line.sealed, now_ms);
}

/* What follows is only asked for between channel_tend and the next: of a sealed line. */

seam_packet_event_kind channel_event(void) {
    return seam_sealed_event(&line.sealed);
}

int channel_send(const uint8_t *message, uint32_t size) {
    return seam_sealed_send(&line.sealed, message, size);
}

const uint8_t *channel_message(uint32_t *size) {
    return seam_sealed_message(&line.sealed, size);
}

void channel_done(void) {
    seam_sealed_done(&line.sealed);
}
