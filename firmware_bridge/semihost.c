/* The board's side that an emulator or a probe does for it: console, files, arguments, exit. */
#include "board.h"

enum {
    SYS_OPEN = 0x01,
    SYS_CLOSE = 0x02,
    SYS_WRITE0 = 0x04,
    SYS_READ = 0x06,
    SYS_FLEN = 0x0C,
    SYS_GET_CMDLINE = 0x15,
    SYS_EXIT_EXTENDED = 0x20
};

#define STOPPED_BY_APPLICATION 0x20026u

static intptr_t call(int32_t what, const void *with) {
    register intptr_t r0 __asm("r0") = what;
    register const void *r1 __asm("r1") = with;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static size_t length_of(const char *text) {
    size_t length = 0;
    while (text[length] != '\0')
        length++;
    return length;
}

void board_exit(int code) {
    const uint32_t block[2] = {STOPPED_BY_APPLICATION, (uint32_t)code};
    for (;;)
        call(SYS_EXIT_EXTENDED, block);
}

void board_print(const char *text) {
    call(SYS_WRITE0, text);
}

static void print_hex(uint32_t value) {
    char text[9] = {0};
    for (int i = 0; i < 8; i++)
        text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15u];
    board_print(text);
}

void board_fault(uint32_t pc, uint32_t lr) {
    board_print("fault at ");
    print_hex(pc);
    board_print(", called from ");
    print_hex(lr);
    board_print("\n");
    board_exit(255);
}

int32_t board_read_file(void *to, size_t space, const char *path) {
    const struct {
        const char *path;
        uint32_t mode, length;
    } open = {path, 1u /* "rb" */, (uint32_t)length_of(path)};
    const intptr_t file = call(SYS_OPEN, &open);
    if (file < 0)
        return -1;
    const intptr_t size = call(SYS_FLEN, &file);
    intptr_t left = -1;
    if (size >= 0 && (size_t)size <= space) {
        const struct {
            intptr_t file;
            void *to;
            size_t size;
        } read = {file, to, (size_t)size};
        left = call(SYS_READ, &read);
    }
    call(SYS_CLOSE, &file);
    return left == 0 ? (int32_t)size : -1;
}

int board_arguments(char *to, size_t space) {
    struct {
        char *to;
        size_t space;
    } block = {to, space};
    return call(SYS_GET_CMDLINE, &block) == 0 ? 0 : -1;
}
