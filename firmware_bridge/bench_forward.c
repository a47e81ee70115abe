/* An image of an exported network: instructions of a pass and of each layer, its stack, and whether
 * it makes the bytes it should. BENCH_CLASSES: a softmax of so many follows, as in MLPerf Tiny. */
#include <string.h>

#include "bench.h"
#include "front.h"
#include "front_sample.h"
#include "seam.h"

#define LAYERS_MAX 64

void bench_layer(int index);

static uint32_t spent[LAYERS_MAX], last;
static int tracing;

/* front.c calls it behind each layer. */
void bench_layer(int index) {
    if (!tracing)
        return;
    spent[index] = board_instructions() - last;
    last = board_instructions();
}

static void finish(const int8_t *made) {
#ifdef BENCH_CLASSES
    static int8_t shares[BENCH_CLASSES];
    seam_q8_softmax(shares, made, 1, BENCH_CLASSES, BENCH_MULTIPLIER, BENCH_SHIFT);
#else
    (void)made;
#endif
}

int main(void) {
    memcpy(front_input(), front_sample, sizeof front_sample);
    bench_paint();
    const uint32_t start = board_instructions();
    const int8_t *made = front_run();
    const uint32_t ran = board_instructions();
    finish(made);
    const uint32_t end = board_instructions();
    bench_say("stack", bench_painted());
    bench_say("forward", end - start);
    bench_say("softmax", end - ran);
    bench_say("same", memcmp(made, front_expected, sizeof front_expected) == 0);
    memcpy(front_input(), front_sample, sizeof front_sample);
    tracing = 1;
    last = board_instructions();
    front_run();
    for (int i = 0; i < BENCH_LAYERS; i++)
        bench_say("layer", spent[i]);
    return 0;
}
