/* libFuzzer target: a device that a hostile host talks to. The bytes are messages, each behind its
 * length; what the device asks for (memory, batches) it gets. */
#include "fuzz.h"
#include "seam_front.h"

#define MEMORY_MAX (1u << 20)
#define BATCHES 8 /* of one request: a host may ask for many */

static uint8_t sum; /* of all answers: every byte of them is looked at */

static int is_cheap(const seam_session *s) {
    return is_short(s->q8 ? &s->q8_front.plan : &s->front.plan);
}

static int batch(seam_session *s) {
    const seam_plan *plan = s->q8 ? &s->q8_front.plan : &s->front.plan;
    seam_tensor in;
    seam_plan_tensor(&in, plan, 0);
    for (size_t i = 0; i < (size_t)s->batch * in.values; i++)
        s->inputs[i] = (float)(i % 13u) - 6.0f;
    for (size_t i = 0; i < s->batch; i++)
        s->labels[i] = (int32_t)(i % 3u);
    return seam_session_batch(s);
}

/* One message, and all that it leads to. Returns the memory in use. */
static void *answer(seam_session *s, const uint8_t *bytes, size_t size, void *memory) {
    int action = seam_session_receive(s, bytes, size);
    for (int i = 0; i < BATCHES && action > SEAM_DO_SEND; i++) {
        if (action == SEAM_DO_MEMORY) {
            free(memory);
            memory = s->need_bytes <= MEMORY_MAX ? exact((size_t)s->need_bytes) : NULL;
            action = seam_session_memory(s, memory);
        } else if ((action == SEAM_DO_TRAIN || action == SEAM_DO_TEST) && is_cheap(s)) {
            action = batch(s);
        } else {
            break;
        }
    }
    if (action == SEAM_DO_SEND)
        for (uint32_t i = 0; i < s->answer_size; i++)
            sum = (uint8_t)(sum + s->answer[i]);
    if (action == SEAM_DO_FAIL)
        for (uint32_t i = 0; i < s->failed_size; i++)
            sum = (uint8_t)(sum + s->failed_text[i]);
    return memory;
}

/* Without the right length of its body hardly a damaged message would be one at all. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    for (size_t at = 0; seed % 16 != 0 && size - at >= 2u + SEAM_MESSAGE_HEADER;) {
        const size_t wanted = data[at] | (size_t)data[at + 1] << 8, left = size - at - 2u;
        const size_t length = wanted < left ? wanted : left;
        for (unsigned i = 0; length >= SEAM_MESSAGE_HEADER && i < 4u; i++)
            data[at + 22u + i] = (uint8_t)((length - SEAM_MESSAGE_HEADER) >> (8u * i));
        at += 2u + length;
    }
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t id[] = "watch-1";
    const seam_device_facts facts = {.id = id,
                                     .id_size = 7u,
                                     .boot_id = {1, 2, 3, 4, 5, 6, 7, 8},
                                     .training_samples = 40u,
                                     .test_samples = 10u,
                                     .least = -6.0f,
                                     .most = 6.0f};
    seam_session s;
    void *memory = NULL;
    seam_session_init(&s, &facts);
    seam_session_hello(&s);
    while (size >= 2u) {
        const size_t wanted = data[0] | (size_t)data[1] << 8, left = size - 2u;
        const size_t length = wanted < left ? wanted : left;
        uint8_t *message = copied(data + 2, length);
        memory = answer(&s, message, length, memory);
        free(message);
        data += 2u + length;
        size = left - length;
    }
    free(memory);
    return 0;
}
