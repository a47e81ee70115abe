/* An image that trains a front for one step: instructions of each pass, of each layer, the stack it
 * took, and a checksum of what it learned. bench_step.py writes the file that it reads. BENCH_Q8:
 * the front is in int8. The linker turns the call that opens a layer into ours (--wrap), so the
 * core is measured as it is. */
#include <string.h>

#include "bench.h"
#include "seam_front.h"

#ifdef BENCH_Q8
#include "front_q8.h"
#endif

typedef struct {
    uint32_t plan_size, parameter_size, x_size, dy_size; /* bytes; the arrays follow, 16-aligned */
    int32_t batch, exponent;
    float rate, momentum;
} record;

typedef struct {
    const record *r;
    const uint8_t *plan, *parameters, *x, *dy;
    uint8_t *arena;
} material;

enum { FORWARD, BACKWARD, PASSES };

static _Alignas(16) uint8_t memory[ARENA_BYTES] __attribute__((section(".noinit")));

/* ---- instructions by layer ---- */

static uint32_t spent[PASSES][SEAM_PLAN_LAYERS_MAX], last;
static uint32_t current;
static int tracing, pass;

static void enter(uint32_t index) {
    if (!tracing)
        return;
    const uint32_t now = board_instructions();
    spent[pass][current] += now - last;
    current = index;
    last = board_instructions();
}

static void begin(int which, uint32_t layers) {
    pass = which;
    current = which == FORWARD ? 0 : layers - 1u; /* what goes before it counts to the first */
    last = board_instructions();
}

#ifdef BENCH_Q8

void __real_seam_q8_front_step(seam_q8_layer_step *s, const seam_q8_front *f, uint32_t index);
void __wrap_seam_q8_front_step(seam_q8_layer_step *s, const seam_q8_front *f, uint32_t index);

void __wrap_seam_q8_front_step(seam_q8_layer_step *s, const seam_q8_front *f, uint32_t index) {
    enter(index);
    __real_seam_q8_front_step(s, f, index);
}

static seam_q8_front front;

static void open(const seam_plan *plan, const material *m) {
    if (seam_q8_front_init(&front, plan, m->arena, plan->arena_size) != SEAM_OK ||
        seam_q8_front_set(&front, m->parameters, m->r->parameter_size) != SEAM_OK)
        board_exit(3);
    memcpy(seam_q8_front_input(&front), m->x, m->r->x_size);
}

static void forward(const material *m) {
    seam_q8_front_forward(&front, m->r->batch, 0, front.plan.layers, 0);
}

static void give(const material *m) {
    memcpy(seam_q8_front_gradient(&front, front.plan.output), m->dy, m->r->dy_size);
}

static void backward(const material *m) {
    const seam_q8_step step = {.rate = m->r->rate, .momentum = m->r->momentum, .mode = 1};
    seam_q8_front_backward(&front, front.plan.layers, m->r->exponent, &step);
}

static void update(const material *m) {
    (void)m; /* int8 fronts learn on the way back */
}

static uint32_t learned(void) {
    return seam_crc32(0, front.blob, front.plan.parameters);
}

#else

void __real_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index);
void __wrap_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index);

void __wrap_seam_plan_layer(seam_layer *layer, const seam_plan *plan, uint32_t index) {
    enter(index);
    __real_seam_plan_layer(layer, plan, index);
}

static seam_front front;

static void open(const seam_plan *plan, const material *m) {
    if (seam_front_init(&front, plan, m->arena, plan->arena_size) != SEAM_OK)
        board_exit(3);
    memcpy(front.parameters, m->parameters, m->r->parameter_size);
    memcpy(seam_front_input(&front), m->x, m->r->x_size);
}

static void forward(const material *m) {
    seam_front_forward(&front, m->r->batch, 0, front.plan.layers);
}

static void give(const material *m) {
    memcpy(seam_front_gradient(&front, front.plan.output), m->dy, m->r->dy_size);
}

static void backward(const material *m) {
    (void)m;
    seam_front_backward(&front, front.plan.layers);
}

static void update(const material *m) {
    seam_front_update(&front, front.plan.layers, m->r->rate, m->r->momentum, 0.0f);
}

static uint32_t learned(void) {
    return seam_crc32(0, front.parameters, front.plan.parameters * sizeof(float));
}

#endif

/* ---- the run ---- */

static void whole(const seam_plan *plan, const material *m) {
    open(plan, m);
    bench_paint();
    const uint32_t start = board_instructions();
    forward(m);
    const uint32_t made = board_instructions();
    const uint32_t forward_stack = bench_painted();
    give(m);
    bench_paint();
    const uint32_t given = board_instructions();
    backward(m);
    const uint32_t back = board_instructions();
    update(m);
    const uint32_t end = board_instructions();
    const uint32_t backward_stack = bench_painted();
    bench_say("forward", made - start);
    bench_say("backward", back - given);
    bench_say("update", end - back);
    bench_say("stack", forward_stack > backward_stack ? forward_stack : backward_stack);
    bench_say("arena", plan->arena_size);
    bench_say("learned", learned());
}

static void by_layer(const seam_plan *plan, const material *m) {
    open(plan, m);
    tracing = 1;
    begin(FORWARD, plan->layers);
    forward(m);
    enter(0);
    give(m);
    begin(BACKWARD, plan->layers);
    backward(m);
    enter(0);
    tracing = 0;
    for (uint32_t i = 0; i < plan->layers; i++) {
        bench_say("layer_forward", spent[FORWARD][i]);
        bench_say("layer_backward", spent[BACKWARD][i]);
    }
}

static const uint8_t *take(uint8_t **next, uint32_t size) {
    const uint8_t *taken = *next;
    *next += (size + 15u) / 16u * 16u;
    return taken;
}

int main(void) {
    char path[256];
    if (board_arguments(path, sizeof path) != 0)
        return 1;
    const intptr_t file = board_file_open(path);
    if (file < 0 || board_file_read(file, memory, sizeof memory) < sizeof(record)) {
        board_print("error: cannot read the front\n");
        return 1;
    }
    uint8_t *next = memory;
    material m = {.r = (const record *)(const void *)take(&next, sizeof(record))};
    m.plan = take(&next, m.r->plan_size);
    m.parameters = take(&next, m.r->parameter_size);
    m.x = take(&next, m.r->x_size);
    m.dy = take(&next, m.r->dy_size);
    m.arena = next;
    seam_plan plan;
    const int status = seam_plan_open(&plan, m.plan, m.r->plan_size);
    if (status != SEAM_OK || m.arena + plan.arena_size > memory + sizeof memory) {
        board_print(status != SEAM_OK ? seam_status_text(status) : "the arena does not fit\n");
        return 2;
    }
    whole(&plan, &m);
    by_layer(&plan, &m);
    return 0;
}
