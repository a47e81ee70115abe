/* An image that traces a front (seam_trace.h). Its one argument is the file of a record; it prints
 * "sum", kind, layer and CRC-32 of each checksum, decimal. TRACE_BYTES: of record and arena. */
#include "board.h"
#include "seam_trace.h"

static _Alignas(16) uint8_t memory[TRACE_BYTES] __attribute__((section(".noinit")));

/* A number and what comes behind it, ending at `end`. */
static char *put(char *end, uint32_t value, char behind) {
    *--end = behind;
    do {
        *--end = (char)('0' + value % 10u);
        value /= 10u;
    } while (value > 0);
    return end;
}

static void hear(void *context, seam_trace_kind kind, uint32_t layer, uint32_t crc) {
    char text[40];
    char *at = text + sizeof text;
    (void)context;
    *--at = '\0';
    at = put(at, crc, '\n');
    at = put(at, layer, ' ');
    board_print("sum ");
    board_print(put(at, (uint32_t)kind, ' '));
}

int main(void) {
    char path[256];
    const intptr_t file = board_arguments(path, sizeof path) == 0 ? board_file_open(path) : -1;
    const size_t size = file < 0 ? 0u : board_file_read(file, memory, sizeof memory);
    if (size < SEAM_TRACE_HEAD) {
        board_print("cannot read the record\n");
        return 1;
    }
    uint8_t *arena = memory + seam_round16(size);
    const size_t space = sizeof memory - (size_t)seam_round16(size);
    const int status = seam_trace_run(memory, size, arena, space, hear, NULL);
    if (status != SEAM_OK)
        board_print(seam_status_text(status));
    return status == SEAM_OK ? 0 : 2;
}
