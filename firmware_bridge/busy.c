/* What a device does while it computes for long: it feeds the watchdog at each layer, and drops
 * requests that come again. */
#include "busy.h"

#include "board.h"
#include "line_service.h"

/* The linker gives us the one call that opens a layer of either arithmetic, forward and backward
 * (--wrap), so no hook is in the kernels. */
void __real_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index);
void __wrap_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index);

void __wrap_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index) {
    board_watchdog();
    __real_seam_plan_layer(layer, plan, index);
}

static int repeats(const seam_session *s, const uint8_t *bytes, uint32_t size) {
    seam_message m;
    return seam_message_parse(&m, bytes, size) == SEAM_OK && m.session == s->number &&
           m.kind == s->kind && m.round == s->round && m.step == s->step;
}

void busy_drop_repeats(const seam_session *session) {
    uint32_t size;
    line_lock();
    const uint8_t *message = channel_message(&size);
    if (repeats(session, message, size)) {
        channel_done();
        line_unlock();
        line_wanted();
        return;
    }
    line_unlock();
}
