/* A device on a microcontroller: the session of the core, its line, its samples. No heap. */
#include <string.h>

#include "batches.h"
#include "board.h"
#include "busy.h"
#include "device.h"
#include "kept.h"
#include "line_service.h"
#include "seam_front.h"
#include "tell.h"

#define HELLO_MS 1000u /* until the host has answered, doubling */
#define HELLO_LAST_MS 8000u
#define FAREWELL_MS 500u /* for the last word to be acknowledged */
#define REFUSED 6        /* exit code, as `seamline device` has it */

extern uint32_t image_stack_top[], image_stack_limit[];

int main(void);

static seam_session session;
static batches walk;
static struct {
    uint64_t said_ms;
    uint32_t hello_ms;
    int linked;  /* the host's end of the line is there */
    int joined;  /* the host has sent a plan, and we have taken it */
    int fresh;   /* and since then, nothing was trained */
    int fronted; /* and since then, a front came or was put back */
    int sending; /* the session's answer is still on its way: it must stay in place */
    int waiting; /* a message is there, not looked at yet */
    int over;    /* the host has said BYE */
} state;

/* ---- how much of the stack is ever used ---- */

#define PAINT 0x5AA5C33Cu

static void stack_paint(void) {
    uint32_t *at = image_stack_limit, *top;
    __asm volatile("mrs %0, msp" : "=r"(top));
    while (at < top)
        *at++ = PAINT;
}

static void stack_tell(void) {
    const uint32_t *at = image_stack_limit;
    while (*at == PAINT)
        at++;
    board_print("stack: ");
    tell_number((uint32_t)((const char *)image_stack_top - (const char *)at));
    board_print(" bytes used\n");
}

/* ---- saying something ---- */

static void send(void) {
    line_lock();
    state.sending = channel_send(session.answer, session.answer_size) == SEAM_OK;
    line_unlock();
    line_wanted();
}

static void greet(uint64_t now) {
    if (!state.linked || state.joined || state.sending || now - state.said_ms < state.hello_ms)
        return;
    state.said_ms = now;
    state.hello_ms = state.hello_ms < HELLO_LAST_MS ? 2u * state.hello_ms : HELLO_LAST_MS;
    seam_session_hello(&session);
    send();
}

/* ---- a message ---- */

static int place_batch(int training) {
    const seam_session *s = &session;
    for (uint32_t i = 0; i < s->need_count; i++) {
        const uint32_t number =
            training ? batches_sample(&walk, s->seed, (uint64_t)s->need_first * s->batch + i)
                     : s->need_first + i;
        if (!board_sample(s->inputs + (size_t)i * device.values, s->labels + i, training, number))
            return seam_session_refuse(&session, SEAM_E_DATA);
        board_watchdog();
    }
    return seam_session_batch(&session);
}

/* ---- what is kept through a loss of power, as SPEC.md says under "Exactly once" ---- */

/* Of the front that is asked for: is one kept? */
static void know_what_is_kept(void) {
    const seam_part known[] = {{&session.seed, sizeof session.seed},
                               {(void *)(uintptr_t)session.pending_plan, session.plan_size}};
    kept_thing found = {0};
    session.facts.has_checkpoint = (uint8_t)kept_find(&found, KEPT_FRONT, UINT32_MAX, known, 2);
    session.facts.saved_round = found.number;
}

static void keep(void) {
    seam_part parts[SEAM_KEPT_PARTS];
    seam_session_kept(&session, parts);
    if (!kept_save(KEPT_FRONT, session.trained_round, parts, SEAM_KEPT_PARTS) &&
        board_kept_space() != 0u)
        board_print("what was learned cannot be kept; training goes on\n");
}

/* The first work for a host that was joined anew starts from what was kept after the round before:
 * what was learned since is learned again. */
static void go_back(int training, int weights_came) {
    if (!state.fresh)
        return;
    const uint32_t before = training ? session.round - 1u : session.round;
    seam_part parts[SEAM_KEPT_PARTS];
    kept_thing found;
    seam_session_kept(&session, parts);
    const seam_part *momentum = &parts[SEAM_KEPT_MOMENTUM], *rest = &parts[SEAM_KEPT_REST];
    const uint32_t known = parts[SEAM_KEPT_SEED].size + parts[SEAM_KEPT_PLAN].size;
    const int kept = kept_find(&found, KEPT_FRONT, before, parts, SEAM_KEPT_MOMENTUM) &&
                     found.size == known + momentum->size + rest->size;
    state.fronted |= weights_came;
    int well = 1;
    if (kept && !state.fronted && !session.q8) {
        well &= kept_read(&found, known + momentum->size, rest->at, rest->size);
        state.fronted = 1;
    }
    if (!training)
        return;
    state.fresh = 0;
    if (before == 0u)
        seam_session_forget_momentum(&session);
    else if (kept) {
        well &= kept_read(&found, known, momentum->at, momentum->size);
        if (session.q8)
            well &= kept_read(&found, known + momentum->size, rest->at, rest->size);
    }
    if (!well)
        board_print("what was kept cannot be read any more; training goes on without\n");
}

/* ---- memory ---- */

/* The plan's input must be what our samples are, or they would be written beyond it. */
static int give_memory(void) {
    const int fits = session.need_bytes <= device.memory_bytes;
    seam_plan plan;
    seam_tensor input;
    if (fits && seam_plan_open(&plan, session.pending_plan, session.plan_size) == SEAM_OK) {
        seam_plan_tensor(&input, &plan, 0);
        if (input.values != device.values) {
            const int told = seam_session_memory(&session, NULL);
            return told < 0 ? told : seam_session_refuse(&session, SEAM_E_SHAPE);
        }
    }
    const int same = fits ? seam_session_go_on(&session) : SEAM_E_STATE;
    if (same != SEAM_E_STATE)
        return same;
    session.trained_round = 0;
    know_what_is_kept();
    return seam_session_memory(&session, fits ? device.memory : NULL);
}

static void fail(void) {
    state.joined = 0;
    if (session.failed_code == (uint16_t)-SEAM_E_STATE ||
        session.failed_code == (uint16_t)-SEAM_E_SESSION)
        return; /* a new HELLO helps */
    char text[SEAM_TEXT_MAX + 1u];
    memcpy(text, session.failed_text, session.failed_size);
    text[session.failed_size] = '\0';
    board_print("the edge host refused us: ");
    board_print(text);
    board_print("\n");
    board_exit(REFUSED);
}

/* The message is used: there is room for the next. */
static void release(void) {
    state.waiting = 0;
    line_lock();
    channel_done();
    line_unlock();
    line_wanted();
}

static void take(void) {
    uint32_t size;
    const uint8_t *message = channel_message(&size);
    const uint8_t kind = size > 4u ? message[3] : 0u, flags = size > 4u ? message[4] : 0u;
    int action = seam_session_receive(&session, message, size);
    if (action == SEAM_DO_MEMORY)
        action = give_memory();
    if (action == SEAM_DO_FAIL)
        fail();
    release();
    state.said_ms = board_millis(); /* the host is about to go on: no HELLO between */
    if (action == SEAM_DO_TRAIN || action == SEAM_DO_TEST)
        go_back(action == SEAM_DO_TRAIN, flags & SEAM_FLAG_WEIGHTS);
    while (action == SEAM_DO_TRAIN || action == SEAM_DO_TEST) {
        action = place_batch(action == SEAM_DO_TRAIN);
        busy_drop_repeats(&session);
    }
    if (action == SEAM_DO_SEND) {
        const uint8_t said = session.answer[3];
        if ((flags & SEAM_FLAG_KEEP) && said != SEAM_ERROR)
            keep();
        if (kind == SEAM_PLAN) {
            state.fresh = 1;
            state.fronted = 0;
        }
        state.joined = said != SEAM_ERROR && (state.joined || kind == SEAM_PLAN);
        send();
    }
    if (action == SEAM_DO_END) {
        kept_forget(KEPT_FRONT); /* a new job starts without momentum */
        state.over = 1;
    }
}

/* ---- the line ---- */

static void lose(void) {
    state.linked = state.joined = state.sending = 0;
    if (state.waiting)
        release();
}

/* What has happened on the line; 0: nothing. */
static int hear(void) {
    line_lock();
    const seam_packet_event_kind event = channel_event();
    line_unlock();
    switch (event) {
    case SEAM_EVENT_NONE:
        return 0;
    case SEAM_EVENT_JOINED:
        state.linked = 1;
        state.joined = state.sending = 0;
        state.hello_ms = 0;
        greet(board_millis());
        state.hello_ms = HELLO_MS;
        return 1;
    case SEAM_EVENT_MESSAGE:
        state.waiting = 1;
        return 1;
    case SEAM_EVENT_SENT:
        state.sending = 0;
        return 1;
    case SEAM_EVENT_SILENT:
    case SEAM_EVENT_RESTARTED:
    case SEAM_EVENT_STUCK:
    case SEAM_EVENT_FULL:
        lose();
        return 1;
    }
    return 0;
}

/* ---- beginning and end ---- */

static int start(void) {
    seam_device_facts facts = {.id = (const uint8_t *)device.id,
                               .id_size = (uint8_t)strlen(device.id),
                               .ram = device.ram,
                               .flash = device.flash,
                               .training_samples = device.training,
                               .test_samples = device.tests,
                               .least = device.least,
                               .most = device.most};
    uint64_t boot_id = 0;
    while (!board_random(NULL, facts.boot_id, sizeof facts.boot_id) ||
           !board_random(NULL, (uint8_t *)&boot_id, sizeof boot_id))
        board_watchdog();
    walk = (batches){.order = device.order, .samples = device.training};
    seam_session_init(&session, &facts);
    const seam_packet_config packets = {.boot_id = boot_id | UINT64_C(1) << 63,
                                        .rx = device.message,
                                        .rx_space = device.message_bytes};
    return line_begin(&packets);
}

/* The host has to hear that we have its BYE. */
static void farewell(void) {
    const uint64_t until = board_millis() + FAREWELL_MS;
    while (board_millis() < until) {
        board_watchdog();
        line_sleep();
    }
}

__attribute__((weak)) void board_watchdog(void) {
}

__attribute__((weak)) void channel_tend(int linked) {
    (void)linked;
}

int main(void) {
    stack_paint();
    const int status = start();
    if (status != SEAM_OK) {
        board_print(seam_status_text(status));
        board_print("\n");
        return 1;
    }
    while (!state.over) {
        board_watchdog();
        channel_tend(state.linked);
        if (hear())
            continue;
        if (state.waiting && !state.sending) {
            take();
            continue;
        }
        greet(board_millis());
        line_sleep();
    }
    farewell();
    stack_tell();
    return 0;
}
