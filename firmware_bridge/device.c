/* A device in an image: its sealed line, its session and its samples, in one loop that sleeps
 * between events. */
#include <string.h>

#include "board.h"
#include "device.h"
#include "seam_device.h"
#include "seam_front.h"

#define HELLO_MS 1000u /* until a host answers */
#define CHUNK 64u      /* bytes taken from the line at a time */

extern const float device_x_train[], device_x_test[]; /* [n][DEVICE_VALUES] */
extern const int32_t device_y_train[], device_y_test[];
extern const uint8_t device_secret[], device_host_key[];

static seam_sealed_end line;
static seam_session session;
static uint8_t rx[DEVICE_RX_BYTES], wire[SEAM_SEALED_WIRE];
static uint8_t arena[DEVICE_ARENA_BYTES] __attribute__((aligned(16), section(".noinit")));

/* ---- samples: an endless walk through all, in a new order each epoch ---- */

#define EPOCH_STREAM 0x45504F43u

static uint16_t order[DEVICE_TRAIN];
static uint32_t drawn[DEVICE_TRAIN];
static uint32_t ordered_epoch, ordered_seed;
static uint8_t is_ordered;

static int comes_before(uint16_t a, uint16_t b) {
    return drawn[a] != drawn[b] ? drawn[a] < drawn[b] : a < b;
}

/* Lets the entry at `root` down to its place among the first `count`, the last of all on top. */
static void sift(uint32_t root, uint32_t count) {
    const uint16_t entry = order[root];
    for (uint32_t child; (child = 2u * root + 1u) < count; root = child) {
        if (child + 1u < count && comes_before(order[child], order[child + 1u]))
            child++;
        if (!comes_before(entry, order[child]))
            break;
        order[root] = order[child];
    }
    order[root] = entry;
}

static void order_epoch(uint32_t epoch) {
    if (is_ordered && epoch == ordered_epoch && session.seed == ordered_seed)
        return;
    seam_random_fill(drawn, session.seed, EPOCH_STREAM + epoch, 0, DEVICE_TRAIN);
    for (uint32_t i = 0; i < DEVICE_TRAIN; i++)
        order[i] = (uint16_t)i;
    for (uint32_t i = DEVICE_TRAIN / 2u; i-- > 0;)
        sift(i, DEVICE_TRAIN);
    for (uint32_t left = DEVICE_TRAIN; left-- > 1u;) {
        const uint16_t last = order[0];
        order[0] = order[left];
        order[left] = last;
        sift(0, left);
    }
    ordered_epoch = epoch;
    ordered_seed = session.seed;
    is_ordered = 1u;
}

static void put_training(void) {
    for (uint32_t i = 0; i < session.need_count; i++) {
        const uint64_t at = (uint64_t)session.need_first * session.need_count + i;
        order_epoch((uint32_t)(at / DEVICE_TRAIN));
        const uint32_t sample = order[at % DEVICE_TRAIN];
        memcpy(session.inputs + (size_t)i * DEVICE_VALUES,
               device_x_train + (size_t)sample * DEVICE_VALUES, DEVICE_VALUES * sizeof(float));
        session.labels[i] = device_y_train[sample];
    }
}

static void put_test(void) {
    const size_t first = session.need_first, count = session.need_count;
    memcpy(session.inputs, device_x_test + first * DEVICE_VALUES,
           count * DEVICE_VALUES * sizeof(float));
    memcpy(session.labels, device_y_test + first, count * sizeof(int32_t));
}

/* ---- the conversation ---- */

static uint8_t joined, answer_due, came, ended;
static uint64_t said_ms;

/* What the session wants done, until there is an answer or nothing to do. */
static void act(int action) {
    while (action == SEAM_DO_MEMORY || action == SEAM_DO_TRAIN || action == SEAM_DO_TEST) {
        board_alive();
        if (action == SEAM_DO_MEMORY) {
            const int fits = session.need_bytes <= sizeof arena;
            action = seam_session_memory(&session, fits ? arena : NULL);
            joined = (uint8_t)fits;
            continue;
        }
        if (action == SEAM_DO_TRAIN)
            put_training();
        else
            put_test();
        action = seam_session_batch(&session);
    }
    if (action == SEAM_DO_SEND)
        answer_due = 1u;
    else if (action == SEAM_DO_FAIL)
        joined = 0u; /* the host forgot us, or refuses: greet it again */
    else if (action == SEAM_DO_END)
        ended = 1u;
}

static void hear(void) {
    seam_packet_event_kind kind;
    while ((kind = seam_sealed_event(&line)) != SEAM_EVENT_NONE) {
        if (kind == SEAM_EVENT_MESSAGE) {
            came = 1u;
        } else if (kind != SEAM_EVENT_SENT) { /* JOINED, or lost: either way a new beginning */
            joined = answer_due = 0u;
            said_ms = 0u;
        }
    }
    /* An answer that is still on its way lies where the next one will be made. */
    if (came && !line.packets.tx_busy) {
        uint32_t size = 0;
        const uint8_t *message = seam_sealed_message(&line, &size);
        came = 0u;
        if (message == NULL)
            return;
        act(seam_session_receive(&session, message, size));
        seam_sealed_done(&line);
    }
}

static void say(uint64_t now) {
    if (!joined && !answer_due && (said_ms == 0u || now - said_ms >= HELLO_MS)) {
        seam_session_hello(&session);
        answer_due = 1u;
        said_ms = now;
    }
    if (answer_due && seam_sealed_send(&line, session.answer, session.answer_size) == SEAM_OK)
        answer_due = 0u;
    int64_t size;
    while ((size = seam_sealed_output(&line, wire, sizeof wire, board_millis())) > 0)
        board_write(wire, (size_t)size);
}

static int random_bytes(void *context, uint8_t *out, size_t size) {
    (void)context;
    return board_random(out, size);
}

static float extreme(int largest) {
    float found = device_x_train[0];
    for (size_t i = 1; i < (size_t)DEVICE_TRAIN * DEVICE_VALUES; i++)
        if (largest ? device_x_train[i] > found : device_x_train[i] < found)
            found = device_x_train[i];
    return found;
}

static int start(void) {
    seam_device_facts facts = {.id = (const uint8_t *)DEVICE_ID,
                               .id_size = sizeof DEVICE_ID - 1u,
                               .ram = sizeof arena,
                               .training_samples = DEVICE_TRAIN,
                               .test_samples = DEVICE_TEST,
                               .least = extreme(0),
                               .most = extreme(1)};
    uint8_t boot[8];
    while (!board_random(boot, sizeof boot))
        board_alive();
    memcpy(facts.boot_id, boot, sizeof boot);
    seam_session_init(&session, &facts);
    const seam_handshake_config handshake = {.name = DEVICE_ID,
                                             .secret = device_secret,
                                             .host = DEVICE_HOST,
                                             .host_key = device_host_key,
                                             .entropy = random_bytes};
    seam_packet_config packets = {
        .rx = rx, .rx_space = sizeof rx, .bytes_per_second = DEVICE_BAUD / 10u, .first_number = 1u};
    memcpy(&packets.boot_id, boot, sizeof boot);
    return seam_sealed_start(&line, &handshake, &packets, board_millis());
}

int main(void) {
    uint8_t bytes[CHUNK];
    if (start() != SEAM_OK)
        return 2;
    while (!ended || line.packets.tx_busy) {
        board_alive();
        const size_t count = board_read(bytes, sizeof bytes);
        seam_sealed_feed(&line, bytes, count, board_millis());
        hear();
        say(board_millis());
        if (count == 0u)
            board_sleep(); /* at most until the clock's next tick */
    }
    return 0;
}
