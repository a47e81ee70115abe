/* The conformance program on a board: cases from a file of the machine that runs the emulator. */
#include "board.h"

int conformance_read(void *to, size_t size);
void conformance_print(const char *text);
int conformance_run(const char *only);

static intptr_t file;

int conformance_read(void *to, size_t size) {
    return board_file_read(file, to, size) == size;
}

void conformance_print(const char *text) {
    board_print(text);
}

int main(void) {
    char path[256];
    if (board_arguments(path, sizeof path) != 0)
        return 2;
    file = board_file_open(path);
    return file < 0 ? 2 : conformance_run(NULL);
}
