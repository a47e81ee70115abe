/* libFuzzer target: any bytes as the plan of an int8 front and, behind it, its parameters; what the
 * checks let through runs, and is trained for two steps, in an arena with exact bounds. */
#include "fuzz.h"
#include "seam_front.h"

#define CRC_AT 44u
#define ARENA_MAX (1u << 20)

/* Bytes of the plan that `data` starts with, by its own counts; 0: it has not that many. */
static size_t plan_size(const uint8_t *data, size_t size) {
    if (size < SEAM_PLAN_HEADER)
        return 0;
    const size_t layers = data[8] | (size_t)data[9] << 8,
                 tensors = data[10] | (size_t)data[11] << 8;
    const size_t plan = SEAM_PLAN_HEADER + tensors * SEAM_PLAN_TENSOR + layers * SEAM_PLAN_LAYER;
    return plan <= size ? plan : 0;
}

/* Without a right checksum no damage would ever come further than the checksum. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    const size_t plan = plan_size(data, size);
    if (plan > 0 && seed % 16 != 0) {
        memset(data + CRC_AT, 0, 4);
        const uint32_t crc = seam_crc32(0, data, plan);
        for (int i = 0; i < 4; i++)
            data[CRC_AT + i] = (uint8_t)(crc >> (8 * i));
    }
    return size;
}

static void step(seam_q8_front *front, uint8_t salt) {
    const seam_plan *plan = &front->plan;
    const seam_q8_step how = {0.1f, 0.9f, 1e-3f, salt, salt % 3};
    seam_tensor in, out;
    seam_plan_tensor(&in, plan, 0);
    seam_plan_tensor(&out, plan, plan->output);
    int8_t *x = seam_q8_front_input(front);
    for (size_t i = 0; i < (size_t)plan->batch * in.values; i++)
        x[i] = (int8_t)(i * 37u + salt);
    seam_q8_front_forward(front, plan->batch, 0, plan->layers, 1);
    if (plan->inference)
        return;
    int8_t *dy = seam_q8_front_gradient(front, plan->output);
    for (size_t i = 0; i < (size_t)plan->batch * out.values; i++)
        dy[i] = (int8_t)(i * 53u % 255u - 127u);
    seam_q8_front_backward(front, plan->layers, (int32_t)(salt % 64u) - 32, &how);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const size_t head = plan_size(data, size);
    uint8_t *bytes = copied(data, head), *blob = copied(data + head, size - head);
    seam_plan plan;
    seam_q8_front front;
    if (seam_plan_open(&plan, bytes, head) == SEAM_OK && plan.dtype == SEAM_DTYPE_Q8 &&
        plan.arena_size <= ARENA_MAX && is_short(&plan)) {
        uint8_t *arena = exact(plan.arena_size);
        if (seam_q8_front_init(&front, &plan, arena, plan.arena_size) != SEAM_OK)
            abort();
        if (seam_q8_front_set(&front, blob, size - head) == SEAM_OK)
            for (uint8_t i = 0; i < 2; i++)
                step(&front, (uint8_t)(bytes[CRC_AT] + i));
        free(arena);
    }
    free(blob);
    free(bytes);
    return 0;
}
