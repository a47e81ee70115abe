/* A recorded talk of the device's sealed line, once more on a board: the same bytes come out. The
 * file: the device's secret and the host's key, then records `u8 what | u32 now | u16 size |
 * bytes`. */
#include <string.h>

#include "board.h"
#include "tell.h"
#include "seam_device.h"

#define ROOM 4096u
#define PAINTED 12288u /* bytes of stack that are looked at */

static seam_sealed_end end;
static uint8_t rx[ROOM], tx[ROOM], wire[SEAM_SEALED_WIRE], bytes[ROOM + 1u];
static uint8_t secret[SEAM_KEY_SIZE], host_key[SEAM_KEY_SIZE];
static intptr_t file;
static uint32_t drawn;

/* Anybody knows these: a device has a generator. */
static int entropy(void *context, uint8_t *out, size_t size) {
    (void)context;
    drawn++;
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(drawn * 37u + i * 11u + 5u);
    return 1;
}

static void say(const char *what, uint32_t number) {
    board_print(what);
    tell_number(number);
    board_print("\n");
}

/* 1: it is what was recorded. */
static int replay(uint8_t what, uint32_t now, uint32_t size) {
    if (what == 'I') {
        seam_sealed_feed(&end, bytes, size, now);
        return 1;
    }
    if (what == 'O') {
        const int64_t made = seam_sealed_output(&end, wire, sizeof wire, now);
        return made == (int64_t)size && memcmp(wire, bytes, size) == 0;
    }
    if (what == 'S') {
        memcpy(tx, bytes, size);
        return seam_sealed_send(&end, tx, size) == SEAM_OK;
    }
    uint32_t found = 0;
    const seam_packet_event_kind kind = seam_sealed_event(&end);
    const uint8_t *message = seam_sealed_message(&end, &found);
    if (kind != (seam_packet_event_kind)bytes[0])
        return 0;
    if (kind != SEAM_EVENT_MESSAGE)
        return 1;
    const int same = found == size - 1u && memcmp(message, bytes + 1, found) == 0;
    seam_sealed_done(&end);
    return same;
}

static int talk(void) {
    uint8_t head[7];
    uint32_t records = 0, most = 0;
    while (board_file_read(file, head, sizeof head) == sizeof head) {
        const uint32_t now = (uint32_t)head[1] | (uint32_t)head[2] << 8 | (uint32_t)head[3] << 16 |
                             (uint32_t)head[4] << 24;
        const uint32_t size = (uint32_t)head[5] | (uint32_t)head[6] << 8;
        if (size > sizeof bytes || board_file_read(file, bytes, size) != size)
            return 3;
        const uint32_t before = board_instructions();
        const int same = replay(head[0], now, size);
        const uint32_t took = board_instructions() - before;
        most = took > most ? took : most;
        records++;
        if (!same) {
            say("another answer at record ", records);
            return 4;
        }
    }
    say("records ", records);
    say("handshakes ", end.counters.handshakes);
    say("longest call in instructions ", most);
    return 0;
}

static int start(void) {
    char path[256];
    if (board_arguments(path, sizeof path) != 0 || (file = board_file_open(path)) < 0 ||
        board_file_read(file, secret, sizeof secret) != sizeof secret ||
        board_file_read(file, host_key, sizeof host_key) != sizeof host_key)
        return 2;
    const seam_handshake_config handshake = {.name = "watch-1",
                                             .secret = secret,
                                             .host = "host-A",
                                             .host_key = host_key,
                                             .entropy = entropy};
    const seam_packet_config packets = {.boot_id = UINT64_C(0x700000000),
                                        .rx = rx,
                                        .rx_space = sizeof rx,
                                        .bytes_per_second = 11520u,
                                        .mtu = 1024u,
                                        .first_number = 1u};
    return seam_sealed_start(&end, &handshake, &packets, 0u) == SEAM_OK ? talk() : 5;
}

int main(void) {
    volatile uint8_t *top = (volatile uint8_t *)__builtin_frame_address(0) - 256;
    uint32_t unused = 0;
    for (uint32_t i = 1; i <= PAINTED; i++)
        top[-(int32_t)i] = 0xA5u;
    const int code = start();
    while (unused < PAINTED && top[-(int32_t)(PAINTED - unused)] == 0xA5u)
        unused++;
    say("stack ", PAINTED - unused);
    return code;
}
