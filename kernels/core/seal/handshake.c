/* The device's side of the handshake of a byte line: bodies and time in, bodies out. */
#include <string.h>

#include "../bytes.h"
#include "seam_device.h"

#define TYPE 0x14u /* first byte of a body */
#define VERSION 1u
#define DEVICE 0u
#define HOST 1u
#define HELLO_MS 250u /* between two of our bodies, doubling to SLOWEST_MS */
#define REPEAT_MS 200u
#define SLOWEST_MS 1000u
#define STUCK_MS 5000u /* without progress: from the beginning */
#define AGAIN_MS 1000u /* the least between two new beginnings that others ask for */

typedef enum { HELLO = 0, FIRST = 1, SECOND = 2, THIRD = 3, REFUSE = 15 } stage;

/* Codes of a REFUSE. */
typedef enum {
    UNKNOWN = 1,
    OTHER_KEY = 2,
    OTHER_VERSION = 3,
    BUSY = 4,
    NOT_PAIRING = 5,
    IN_CLEAR = 6
} refusal;

typedef enum { NOTHING, OUR_HELLO, OUR_MESSAGE } repeated;

static const char PROLOGUE[] = "seamline line 1";

static const char *const TEXTS[] = {
#define X(name, text) text,
    SEAM_TROUBLE_TABLE(X)
#undef X
};

const char *seam_trouble_text(seam_trouble trouble) {
    const size_t count = sizeof TEXTS / sizeof TEXTS[0];
    return (size_t)trouble < count ? TEXTS[trouble] : TEXTS[SEAM_TROUBLE_NONE];
}

/* ---- names ---- */

static size_t length(const char *text) {
    size_t size = 0;
    while (text[size] != '\0')
        size++;
    return size;
}

/* The bytes that follow the first one of a character in UTF-8; -1: none begins so. */
static int followers(uint8_t first) {
    if (first < 0x80u)
        return 0;
    if (first >= 0xC2u && first <= 0xDFu)
        return 1;
    if (first >> 4 == 0xEu)
        return 2;
    return first >= 0xF0u && first <= 0xF4u ? 3 : -1;
}

/* RFC 3629: no character in more bytes than it needs, no surrogates, none above U+10FFFF. */
static int is_text(const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size;) {
        const uint8_t first = bytes[i++];
        uint8_t low = first == 0xE0u ? 0xA0u : first == 0xF0u ? 0x90u : 0x80u;
        uint8_t high = first == 0xEDu ? 0x9Fu : first == 0xF4u ? 0x8Fu : 0xBFu;
        int left = followers(first);
        for (; left > 0; left--, i++) {
            if (i >= size || bytes[i] < low || bytes[i] > high)
                return 0;
            low = 0x80u;
            high = 0xBFu;
        }
        if (left < 0)
            return 0;
    }
    return 1;
}

static int is_name(const char *name) {
    const size_t size = name != NULL ? length(name) : 0u;
    return size >= 1u && size <= SEAM_NAME_MOST && is_text((const uint8_t *)name, size);
}

/* ---- what we say ---- */

static void repeat(seam_handshake *hand, repeated what, uint64_t at_ms, uint32_t step_ms) {
    hand->repeating = (uint8_t)what;
    hand->at_ms = at_ms;
    hand->step_ms = step_ms;
}

/* Soon; a peer that asks faster than it reads is not answered every time. */
static void refuse(seam_handshake *hand, refusal code) {
    if (hand->answer_count < sizeof hand->answers)
        hand->answers[hand->answer_count++] = (uint8_t)code;
}

static size_t refusal_write(const seam_handshake *hand, uint8_t *out, uint8_t code) {
    const size_t name = length(hand->config.name);
    const uint8_t head[4] = {TYPE, REFUSE, code, (uint8_t)name};
    memcpy(out, head, sizeof head);
    memcpy(out + sizeof head, hand->config.name, name);
    return sizeof head + name;
}

static int random_fill(seam_handshake *hand, uint8_t *out, size_t size) {
    const int filled = hand->config.entropy(hand->config.context, out, size);
    if (!filled)
        hand->trouble = SEAM_TROUBLE_RANDOM;
    return filled;
}

/* Without random bytes nothing is said; the time that no progress may take tries it again. */
static void begin(seam_handshake *hand, uint64_t now_ms) {
    const size_t name = length(hand->config.name);
    const uint8_t head[6] = {TYPE, HELLO, VERSION, VERSION, DEVICE, (uint8_t)(1u << hand->pattern)};
    uint8_t *hello = hand->hello;
    seam_crypto_wipe(&hand->noise, sizeof hand->noise);
    hand->theirs_size = hand->message_size = 0u;
    hand->ready = 0u;
    hand->moved_ms = now_ms;
    hand->open = 1u;
    memcpy(hello, head, sizeof head);
    hand->hello_size = 0u;
    if (random_fill(hand, hello + sizeof head, SEAM_HELLO_HEAD - 1u - sizeof head)) {
        hello[SEAM_HELLO_HEAD - 1u] = (uint8_t)name;
        memcpy(hello + SEAM_HELLO_HEAD, hand->config.name, name);
        hand->hello_size = (uint8_t)(SEAM_HELLO_HEAD + name);
    }
    repeat(hand, hand->hello_size != 0u ? OUR_HELLO : NOTHING, now_ms, HELLO_MS);
}

/* ---- what we hear ---- */

static int is_other_version(const uint8_t *body, size_t size) {
    return size > SEAM_HELLO_HEAD && !(body[2] <= VERSION && VERSION <= body[3]);
}

int seam_handshake_is_hello(const uint8_t *body, size_t size) {
    return size > SEAM_HELLO_HEAD && size <= SEAM_HELLO_MOST && body[0] == TYPE &&
           body[1] == HELLO && !is_other_version(body, size) && body[4] <= HOST &&
           body[SEAM_HELLO_HEAD - 1u] == size - SEAM_HELLO_HEAD &&
           is_text(body + SEAM_HELLO_HEAD, size - SEAM_HELLO_HEAD);
}

static void refusal_read(seam_handshake *hand, uint8_t code) {
    if (code == OTHER_KEY)
        hand->trouble =
            hand->config.psk != NULL ? SEAM_TROUBLE_SECRETS_DIFFER : SEAM_TROUBLE_WRONG_KEY;
    else if (code == UNKNOWN)
        hand->trouble = SEAM_TROUBLE_NOT_KNOWN;
    else if (code == OTHER_VERSION)
        hand->trouble = SEAM_TROUBLE_VERSION;
    else if (code == BUSY)
        hand->trouble = SEAM_TROUBLE_BUSY;
    else if (code == NOT_PAIRING)
        hand->trouble = SEAM_TROUBLE_NOT_PAIRING;
}

/* A Noise message was wrong. But for KK another one may have been of another try. */
static void fail(seam_handshake *hand, uint64_t now_ms) {
    if (hand->pattern == SEAM_NOISE_KK) {
        hand->trouble = SEAM_TROUBLE_WRONG_KEY;
        refuse(hand, OTHER_KEY);
    }
    begin(hand, now_ms);
    hand->at_ms = now_ms + SLOWEST_MS;
}

/* Both HELLOs are part of what the handshake proves: none can be changed or replayed. */
static int noise_begin(seam_handshake *hand) {
    uint8_t prologue[sizeof PROLOGUE + 2u * SEAM_HELLO_MOST], ephemeral[SEAM_KEY_SIZE];
    size_t size = sizeof PROLOGUE - 1u;
    memcpy(prologue, PROLOGUE, size);
    prologue[size++] = hand->pattern;
    memcpy(prologue + size, hand->hello, hand->hello_size);
    size += hand->hello_size;
    memcpy(prologue + size, hand->theirs, hand->theirs_size);
    size += hand->theirs_size;
    if (!random_fill(hand, ephemeral, sizeof ephemeral))
        return SEAM_E_BUSY;
    const seam_noise_config config = {.prologue = prologue,
                                      .prologue_size = size,
                                      .secret = hand->config.secret,
                                      .ephemeral = ephemeral,
                                      .remote = hand->config.host_key,
                                      .psk = hand->config.psk,
                                      .pattern = (seam_noise_pattern)hand->pattern,
                                      .initiator = 1u};
    const int status = seam_noise_start(&hand->noise, &config);
    seam_crypto_wipe(ephemeral, sizeof ephemeral);
    return status;
}

static int message_write(seam_handshake *hand, size_t head) {
    const int64_t size =
        seam_noise_write(&hand->noise, hand->message + head, sizeof hand->message - head);
    if (size < 0)
        return 0;
    hand->message_size = (uint8_t)(head + (size_t)size);
    return 1;
}

static int is_expected(const seam_handshake *hand, const uint8_t *hello, size_t size) {
    const char *host = hand->config.host;
    const size_t name = size - SEAM_HELLO_HEAD;
    return host == NULL ||
           (length(host) == name && memcmp(host, hello + SEAM_HELLO_HEAD, name) == 0);
}

static void first_write(seam_handshake *hand, const uint8_t *hello, size_t size, uint64_t now_ms) {
    if (!is_expected(hand, hello, size)) {
        hand->trouble = SEAM_TROUBLE_STRANGER;
        refuse(hand, UNKNOWN);
        return;
    }
    memcpy(hand->theirs, hello, size);
    hand->theirs_size = (uint8_t)size;
    const uint8_t head[3] = {TYPE, FIRST, hand->pattern};
    memcpy(hand->message, head, sizeof head);
    const int status = noise_begin(hand);
    if (status == SEAM_E_BUSY) {
        hand->theirs_size = 0u;
        return;
    }
    if (status != SEAM_OK || !message_write(hand, sizeof head)) {
        fail(hand, now_ms);
        return;
    }
    hand->moved_ms = now_ms;
    repeat(hand, OUR_MESSAGE, now_ms, REPEAT_MS);
}

static void hello_read(seam_handshake *hand, const uint8_t *body, size_t size, uint64_t now_ms) {
    if (!seam_handshake_is_hello(body, size) || body[4] != HOST)
        return;
    const int kk = hand->pattern == SEAM_NOISE_KK;
    if ((body[5] >> hand->pattern & 1u) == 0u) {
        hand->trouble = kk ? SEAM_TROUBLE_PAIRING : hand->trouble;
    } else if (!hand->open) {
        const int same =
            size == hand->theirs_size && memcmp(body, hand->theirs, hand->theirs_size) == 0;
        if (kk && now_ms - hand->moved_ms >= AGAIN_MS && !same)
            begin(hand, now_ms); /* it has started anew and does not know our keys */
    } else if (hand->theirs_size == 0u && hand->hello_size != 0u) {
        first_write(hand, body, size, now_ms);
    }
}

static void second_read(seam_handshake *hand, const uint8_t *body, size_t size, uint64_t now_ms) {
    const uint8_t head[2] = {TYPE, THIRD};
    if (!hand->open || hand->message_size == 0u)
        return;
    hand->message_size = 0u;
    if (seam_noise_read(&hand->noise, body + sizeof head, size - sizeof head) != SEAM_OK) {
        fail(hand, now_ms);
        return;
    }
    memcpy(hand->message, head, sizeof head);
    if (seam_noise_turn(&hand->noise) == 1 && !message_write(hand, sizeof head)) {
        fail(hand, now_ms);
        return;
    }
    hand->moved_ms = now_ms;
    repeat(hand, hand->message_size != 0u ? OUR_MESSAGE : NOTHING, now_ms, REPEAT_MS);
    hand->open = 0u;
    hand->ready = 1u;
    hand->trouble = SEAM_TROUBLE_NONE;
}

void seam_handshake_input(seam_handshake *hand, const uint8_t *body, size_t size, uint64_t now_ms) {
    if (size < 2u || size > SEAM_BODY_MOST || body[0] != TYPE)
        return;
    if (body[1] == REFUSE) {
        refusal_read(hand, size > 2u ? body[2] : 0u);
    } else if (body[1] == HELLO && is_other_version(body, size)) {
        hand->trouble = SEAM_TROUBLE_VERSION;
        refuse(hand, OTHER_VERSION);
    } else if (body[1] == HELLO) {
        hello_read(hand, body, size, now_ms);
    } else if (body[1] == SECOND) {
        second_read(hand, body, size, now_ms);
    }
}

/* ---- the owner's calls ---- */

int seam_handshake_start(seam_handshake *hand, const seam_handshake_config *config,
                         uint64_t now_ms) {
    const int kk = config->host != NULL;
    memset(hand, 0, sizeof *hand);
    if (!is_name(config->name) || config->secret == NULL || config->entropy == NULL ||
        kk != (config->host_key != NULL) || (kk && (!is_name(config->host) || config->psk != NULL)))
        return SEAM_E_ARGUMENT;
    hand->config = *config;
    hand->first_number = config->first_number;
    hand->pattern = (uint8_t)(kk                    ? SEAM_NOISE_KK
                              : config->psk != NULL ? SEAM_NOISE_XXPSK3
                                                    : SEAM_NOISE_XX);
    begin(hand, now_ms);
    return SEAM_OK;
}

int seam_handshake_take(seam_handshake *hand, seam_seal *seal) {
    uint8_t to_host[SEAM_KEY_SIZE], to_device[SEAM_KEY_SIZE];
    if (!hand->ready)
        return 0;
    seam_noise_split(&hand->noise, to_host, to_device);
    seam_seal_start(seal, to_host, to_device, hand->first_number);
    seam_crypto_wipe(to_host, sizeof to_host);
    seam_crypto_wipe(to_device, sizeof to_device);
    hand->first_number = 0u;
    hand->ready = 0u;
    return 1;
}

void seam_handshake_confirm(seam_handshake *hand) {
    hand->repeating = NOTHING;
}

void seam_handshake_restart(seam_handshake *hand, uint64_t now_ms) {
    begin(hand, now_ms);
}

void seam_handshake_refuse_clear(seam_handshake *hand, uint64_t now_ms) {
    if (now_ms < hand->quiet_ms)
        return;
    hand->quiet_ms = now_ms + AGAIN_MS;
    refuse(hand, IN_CLEAR);
}

int64_t seam_handshake_output(seam_handshake *hand, uint8_t *out, size_t space, uint64_t now_ms) {
    if (space < SEAM_BODY_MOST)
        return SEAM_E_SPACE;
    if (hand->answer_count != 0u) {
        const uint8_t code = hand->answers[0];
        hand->answer_count--;
        memmove(hand->answers, hand->answers + 1, hand->answer_count);
        return (int64_t)refusal_write(hand, out, code);
    }
    if (hand->open && now_ms - hand->moved_ms >= STUCK_MS)
        begin(hand, now_ms);
    if (hand->repeating == NOTHING || now_ms < hand->at_ms)
        return 0;
    hand->at_ms = now_ms + hand->step_ms;
    hand->step_ms = 2u * hand->step_ms < SLOWEST_MS ? 2u * hand->step_ms : SLOWEST_MS;
    const int hello = hand->repeating == OUR_HELLO;
    const size_t size = hello ? hand->hello_size : hand->message_size;
    memcpy(out, hello ? hand->hello : hand->message, size);
    return (int64_t)size;
}

uint32_t seam_handshake_wait(const seam_handshake *hand, uint64_t now_ms) {
    if (hand->answer_count != 0u)
        return 0u;
    if (hand->repeating == NOTHING)
        return SLOWEST_MS;
    return hand->at_ms > now_ms ? (uint32_t)(hand->at_ms - now_ms) : 0u;
}

const uint8_t *seam_handshake_peer(const seam_handshake *hand, size_t *size) {
    *size = hand->theirs_size != 0u ? hand->theirs_size - SEAM_HELLO_HEAD : 0u;
    return hand->theirs + SEAM_HELLO_HEAD;
}
