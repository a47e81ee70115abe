/* libFuzzer target: any bytes as a plan; what the check lets through is trained for a step in an
 * arena with exact bounds. */
#include "fuzz.h"
#include "seam_front.h"

#define CRC_AT 44u
#define ARENA_MAX (1u << 20)

/* Without a right checksum no damage would ever come further than the checksum. */
static void seal(uint8_t *bytes, size_t size) {
    if (size < SEAM_PLAN_HEADER)
        return;
    memset(bytes + CRC_AT, 0, 4);
    uint32_t crc = seam_crc32(0, bytes, size);
    for (int i = 0; i < 4; i++)
        bytes[CRC_AT + i] = (uint8_t)(crc >> (8 * i));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 16 != 0)
        seal(data, size);
    return size;
}

static void train(const seam_plan *plan) {
    seam_front front;
    uint8_t *arena = exact(plan->arena_size);
    if (seam_front_init(&front, plan, arena, plan->arena_size) == SEAM_OK) {
        seam_tensor in, out;
        seam_plan_tensor(&in, plan, 0);
        seam_plan_tensor(&out, plan, plan->output);
        float *x = seam_front_input(&front), *dy;
        for (size_t i = 0; i < (size_t)plan->batch * in.values; i++)
            x[i] = (float)(i % 7) - 3.0f;
        seam_front_forward(&front, plan->batch, 0, plan->layers);
        dy = seam_front_gradient(&front, plan->output);
        for (size_t i = 0; i < (size_t)plan->batch * out.values; i++)
            dy[i] = (float)(i % 5) - 2.0f;
        seam_front_backward(&front, plan->layers);
        seam_front_update(&front, plan->layers, 0.1f, 0.9f, 0.0f);
    }
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *bytes = copied(data, size);
    seam_plan plan;
    if (seam_plan_open(&plan, bytes, size) == SEAM_OK && plan.arena_size <= ARENA_MAX &&
        is_short(&plan))
        train(&plan);
    free(bytes);
    return 0;
}
