/* libFuzzer target: the device's sealed line, or its pairing, before a hostile host that has the
 * right keys. The bytes are a play: bodies and frames that come in, right answers of the host,
 * packets that it seals, calls of the owner, time that passes. */
#include "fuzz.h"
#include "seal/seam_device.h"

#define ROOM 640u
#define HEAD 15u /* bytes of "seamline line 1" */

typedef struct {
    const uint8_t *at, *stop;
} play;

typedef struct {
    uint64_t now;
    uint8_t *message;
    seam_sealed_end *line; /* one of these two */
    seam_pairing *pairing;
    seam_handshake *hand;
    /* the host's side */
    seam_noise noise;
    seam_seal seal;
    uint8_t hello[SEAM_HELLO_MOST], said[SEAM_BODY_MOST];
    size_t hello_size, said_size;
    int keyed;
} world;

static const uint8_t HOST_HELLO[] = "\x14\0\1\1\1\7rrrrrrrrrrrrrrrr\6host-A";
static const uint8_t DEVICE_SECRET[32] = "the device's secret key.........";
static const uint8_t HOST_SECRET[32] = "the secret key of the host......";
static const uint8_t PSK[32] = "what both have been told........";
static uint8_t host_public[32], device_public[32];
static uint32_t drawn;
static int dry; /* the source of random bytes fails now and then */

static uint8_t next(play *p) {
    return p->at < p->stop ? *p->at++ : 0u;
}

/* Some of the play in memory of its own, at most `most` bytes. */
static uint8_t *some(play *p, size_t most, size_t *size) {
    const size_t left = (size_t)(p->stop - p->at), low = next(p),
                 wanted = low | (size_t)next(p) << 8;
    const size_t rest = left > 2u ? left - 2u : 0u;
    *size = wanted < rest ? wanted : rest;
    *size = *size < most ? *size : most;
    uint8_t *bytes = copied(p->at, *size);
    p->at += *size;
    return bytes;
}

static int entropy(void *context, uint8_t *out, size_t size) {
    (void)context;
    drawn++;
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(drawn * 31u + i);
    return !(dry && drawn % 3u == 0u);
}

static seam_trouble check(void *context, const char *host, const uint8_t *key) {
    (void)context;
    if (strlen(host) > SEAM_NAME_MOST || memcmp(key, host_public, sizeof host_public) != 0)
        abort(); /* nobody else has proved a key */
    return host[0] == 'x' ? SEAM_TROUBLE_OTHER_NAME : SEAM_TROUBLE_NONE;
}

static int store(void *context, const char *host, const uint8_t *key) {
    return check(context, host, key) == SEAM_TROUBLE_NONE;
}

/* ---- the line ---- */

static void feed(world *w, const uint8_t *bytes, size_t size) {
    if (w->line != NULL)
        seam_sealed_feed(w->line, bytes, size, w->now);
    else
        seam_pairing_feed(w->pairing, bytes, size, w->now);
}

static void feed_body(world *w, const uint8_t *body, size_t size, int checked) {
    const size_t space = SEAM_FRAME_WIRE(size);
    uint8_t *wire = exact(space);
    const int64_t made = checked ? seam_frame_encode(wire, space, body, size)
                                 : seam_frame_encode_raw(wire, space, body, size);
    if (made > 0)
        feed(w, wire, (size_t)made);
    free(wire);
}

/* What the device says, as far as the host's answers need it. */
static void hear(world *w, const uint8_t *wire, size_t size) {
    uint8_t body[SEAM_SEALED_WIRE];
    seam_frame_decoder decoder;
    seam_frame_decoder_start(&decoder, body, sizeof body);
    decoder.raw = 1u;
    uint32_t found = 0;
    for (size_t i = 0; i < size; i++) {
        if (found != 0u)
            abort(); /* one frame at a time */
        found = seam_frame_decode(&decoder, wire[i]);
    }
    if (found < 2u || found > SEAM_SEALED_BODY)
        abort();
    if (body[0] != 0x14u || body[1] > 3u)
        return;
    w->said_size = found - SEAM_FRAME_CHECK;
    memcpy(w->said, body, w->said_size);
    if (body[1] == 0u) {
        memcpy(w->hello, body, w->said_size);
        w->hello_size = w->said_size;
    }
}

static void speak(world *w) {
    const size_t space = w->line != NULL ? SEAM_SEALED_WIRE : SEAM_PAIRING_WIRE;
    uint8_t *wire = exact(space);
    for (int i = 0; i < 40; i++) {
        const int64_t made = w->line != NULL ? seam_sealed_output(w->line, wire, space, w->now)
                                             : seam_pairing_output(w->pairing, wire, space, w->now);
        if (made < 0 || made > (int64_t)space)
            abort();
        if (made == 0)
            break;
        hear(w, wire, (size_t)made);
    }
    free(wire);
}

/* ---- the host ---- */

static void answer_first(world *w) {
    uint8_t prologue[256] = "seamline line 1", body[2u + SEAM_NOISE_MOST] = {0x14, 2};
    size_t at = HEAD;
    prologue[at++] = w->hand->pattern;
    memcpy(prologue + at, w->hello, w->hello_size);
    at += w->hello_size;
    memcpy(prologue + at, HOST_HELLO, sizeof HOST_HELLO - 1u);
    at += sizeof HOST_HELLO - 1u;
    uint8_t ephemeral[32] = {9, (uint8_t)drawn};
    const int kk = w->hand->pattern == SEAM_NOISE_KK;
    const seam_noise_config config = {.prologue = prologue,
                                      .prologue_size = at,
                                      .secret = HOST_SECRET,
                                      .ephemeral = ephemeral,
                                      .remote = kk ? device_public : NULL,
                                      .psk = PSK,
                                      .pattern = (seam_noise_pattern)w->hand->pattern};
    if (seam_noise_start(&w->noise, &config) != SEAM_OK ||
        seam_noise_read(&w->noise, w->said + 3, w->said_size - 3u) != SEAM_OK)
        return; /* of another HELLO */
    const int64_t size = seam_noise_write(&w->noise, body + 2, SEAM_NOISE_MOST);
    if (size < 0)
        abort();
    feed_body(w, body, 2u + (size_t)size, 1);
}

static void answer(world *w) {
    uint8_t to_host[32], to_device[32];
    const uint8_t stage = w->said_size > 3u ? w->said[1] : 9u;
    if (stage == 0u)
        feed_body(w, HOST_HELLO, sizeof HOST_HELLO - 1u, 1);
    else if (stage == 1u)
        answer_first(w);
    else if (stage == 3u)
        w->keyed = seam_noise_read(&w->noise, w->said + 2, w->said_size - 2u) == SEAM_OK;
    if ((stage == 1u && w->hand->pattern == SEAM_NOISE_KK) || (stage == 3u && w->keyed)) {
        seam_noise_split(&w->noise, to_host, to_device);
        seam_seal_start(&w->seal, to_device, to_host, 0u);
        w->keyed = 1;
    }
    w->said_size = 0u;
}

/* A packet that the host seals; the right connection in it, or hardly any would be of it. */
static void seal(world *w, play *p, int fits) {
    size_t size = 0;
    uint8_t *packet = some(p, SEAM_PACKET_MAX, &size);
    if (w->keyed && size != 0u) {
        const seam_packet_end *end = w->line != NULL ? &w->line->packets : NULL;
        const int opens = packet[0] % 16u == 1u;
        const size_t at = opens ? 12u : 4u, width = opens ? 8u : 4u;
        const uint64_t tag = end == NULL ? 0u
                             : opens     ? end->epoch + (end->peer_epoch != 0u)
                                         : end->connection;
        for (size_t i = 0; end != NULL && fits && size >= at + width && i < width; i++)
            packet[at + i] = (uint8_t)(tag >> (8u * i));
        /* A flag that no packet has says: without the connection, which the seal proves. */
        const int brief = end != NULL && size >= 2u && (packet[1] & 0x80u) != 0u;
        uint8_t known[SEAM_SEAL_KNOWN] = {0};
        for (size_t i = 0; brief && i < sizeof known; i++)
            known[i] = (uint8_t)(end->connection >> (8u * i));
        if (brief)
            packet[1] &= 0x7Fu;
        if (brief && size >= 8u) {
            size -= sizeof known;
            memmove(packet + 4, packet + 4 + sizeof known, size - 4u);
        }
        uint8_t *body = exact(size + SEAM_SEAL_MORE);
        const int64_t made = seam_seal_write(&w->seal, body, size + SEAM_SEAL_MORE, packet, size,
                                             brief ? known : NULL);
        if (made != (int64_t)(size + SEAM_SEAL_MORE))
            abort();
        feed_body(w, body, (size_t)made, 0);
        free(body);
    }
    free(packet);
}

/* ---- the play ---- */

/* Straight to the parsers, in memory with exact bounds. */
static void parse(world *w, play *p, int sealed) {
    size_t size = 0;
    uint8_t *body = some(p, 2048u, &size);
    const uint8_t *packet = NULL;
    seam_seal spare = w->line != NULL ? w->line->seal : w->pairing->seal;
    const uint8_t known[SEAM_SEAL_KNOWN] = {1, 2, 3, 4};
    const int is_known = size % 2u == 0u;
    if (sealed && seam_seal_read(&spare, body, size, is_known ? known : NULL, &packet) > size)
        abort();
    if (!sealed)
        seam_handshake_input(w->hand, body, size, w->now);
    free(body);
}

static void own(world *w, uint8_t how) {
    uint32_t size = 0;
    if (w->pairing != NULL) {
        char code[SEAM_CODE_SIZE];
        if (seam_pairing_asking(w->pairing)) {
            seam_pairing_code(w->pairing, code);
            if (strlen(code) != SEAM_CODE_SIZE - 1u)
                abort();
        }
        seam_pairing_answer(w->pairing, how % 8u != 0u);
        return;
    }
    if (how % 2u == 0u)
        size = seam_sealed_send(w->line, w->message, how * 2u) == SEAM_OK;
    else
        seam_sealed_done(w->line);
    while (seam_sealed_event(w->line) != SEAM_EVENT_NONE) {
    }
    const uint8_t *whole = seam_sealed_message(w->line, &size);
    if (whole != NULL && size > ROOM)
        abort();
}

static void look(const world *w) {
    const seam_handshake *hand = w->hand;
    const uint32_t wait =
        w->line != NULL ? seam_sealed_wait(w->line, w->now) : seam_pairing_wait(w->pairing, w->now);
    if (hand->theirs_size > SEAM_HELLO_MOST || hand->hello_size > SEAM_HELLO_MOST ||
        hand->message_size > sizeof hand->message || hand->answer_count > sizeof hand->answers ||
        wait > 1000u)
        abort();
    if (strlen(seam_trouble_text((seam_trouble)hand->trouble)) == 0u)
        abort();
}

static void act(world *w, play *p) {
    while (p->at < p->stop) {
        const uint8_t call = next(p) % 10u;
        size_t size = 0;
        if (call <= 1u) {
            parse(w, p, call == 1u);
        } else if (call <= 3u) {
            uint8_t *body = some(p, 1200u, &size);
            feed_body(w, body, size, call == 2u);
            free(body);
        } else if (call == 4u) {
            uint8_t *bytes = some(p, 1200u, &size);
            feed(w, bytes, size);
            free(bytes);
        } else if (call == 5u) {
            w->now += (uint64_t)next(p) * next(p);
        } else if (call == 6u) {
            answer(w);
        } else if (call <= 8u) {
            seal(w, p, call == 7u);
        } else {
            own(w, next(p));
        }
        speak(w);
        look(w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    play p = {data, data + size};
    world w = {0};
    const uint8_t first = next(&p);
    uint8_t *rx = exact(ROOM);
    if (device_public[0] == 0u) { /* once: curves are the slow part */
        seam_crypto_x25519_public(host_public, HOST_SECRET);
        seam_crypto_x25519_public(device_public, DEVICE_SECRET);
    }
    drawn = 0u;
    dry = first % 8u == 7u;
    w.message = exact(512u);
    memset(w.message, 7, 512u);
    seam_handshake_config hand = {
        .name = "watch-1", .secret = DEVICE_SECRET, .entropy = entropy, .first_number = 0u};
    if (first % 3u == 0u) {
        hand.host = "host-A";
        hand.host_key = host_public;
        const seam_packet_config packets = {
            .boot_id = UINT64_C(0x1234567800000000), .rx = rx, .rx_space = ROOM};
        w.line = exact(sizeof *w.line);
        w.hand = &w.line->handshake;
        if (seam_sealed_start(w.line, &hand, &packets, 0u) != SEAM_OK)
            abort();
    } else {
        hand.psk = first % 3u == 1u ? PSK : NULL;
        const seam_pairing_config config = {
            .handshake = hand, .check = check, .store = store, .wait_ms = 60000u};
        w.pairing = exact(sizeof *w.pairing);
        w.hand = &w.pairing->handshake;
        if (seam_pairing_start(w.pairing, &config, 0u) != SEAM_OK)
            abort();
    }
    speak(&w);
    act(&w, &p);
    free(w.line);
    free(w.pairing);
    free(w.message);
    free(rx);
    return 0;
}
