/* Feeds hostile conversations to a session whose memory has exact bounds, for the sanitizers to
 * watch. Input: u32 count of conversations, each a u32 count of messages, each a u32 size and its
 * bytes. */
#include "seam_front.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_MAX (1u << 20)

static uint32_t number(FILE *file) {
    uint32_t value = 0;
    if (fread(&value, sizeof value, 1, file) != 1)
        exit(3);
    return value;
}

static void fill(const seam_session *s) {
    seam_tensor input;
    seam_plan_tensor(&input, s->q8 ? &s->q8_front.plan : &s->front.plan, 0);
    for (size_t i = 0; i < (size_t)s->need_count * input.values; i++)
        s->inputs[i] = (float)(i % 7) - 3.0f;
    for (uint32_t i = 0; i < s->need_count; i++)
        s->labels[i] = (int32_t)(i % 3);
}

int main(int argc, char **argv) {
    static const uint8_t id[] = "d";
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (file == NULL)
        return 2;
    uint64_t actions[8] = {0}, dropped = 0;
    for (uint32_t conversations = number(file); conversations > 0; conversations--) {
        seam_device_facts facts = {
            .id = id, .id_size = 1, .training_samples = 9, .test_samples = 9};
        seam_session s;
        void *memory = NULL;
        seam_session_init(&s, &facts);
        seam_session_hello(&s);
        for (uint32_t messages = number(file); messages > 0; messages--) {
            uint32_t size = number(file);
            uint8_t *bytes = malloc(size ? size : 1);
            if (bytes == NULL || fread(bytes, 1, size, file) != size)
                return 3;
            int action = seam_session_receive(&s, bytes, size);
            if (action == SEAM_DO_MEMORY) {
                void *old = memory;
                memory = s.need_bytes <= MEMORY_MAX ? aligned_alloc(16, s.need_bytes) : NULL;
                action = seam_session_memory(&s, memory);
                free(old);
            }
            for (int rounds = 0; rounds < 4 && (action == SEAM_DO_TRAIN || action == SEAM_DO_TEST);
                 rounds++) {
                fill(&s);
                action = seam_session_batch(&s);
            }
            if (action < 0)
                dropped++;
            else
                actions[action]++;
            if (action == SEAM_DO_SEND && s.answer_size > 0 && s.answer[s.answer_size - 1] == 255)
                actions[7]++; /* reads the answer's last byte */
            free(bytes);
        }
        free(memory);
    }
    fclose(file);
    printf("%llu %llu\n", (unsigned long long)actions[SEAM_DO_SEND], (unsigned long long)dropped);
    return 0;
}
