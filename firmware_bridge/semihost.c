/* The board's side that an emulator or a probe does for it: console, files, arguments, exit. */
#include <string.h>

#include "board.h"
#include "tell.h"

enum {
    SYS_OPEN = 0x01,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_SEEK = 0x0A,
    SYS_GET_CMDLINE = 0x15,
    SYS_EXIT_EXTENDED = 0x20
};

enum { READ_BYTES = 1, CHANGE_BYTES = 3 }; /* as fopen's "rb" and "r+b" */

#define KEPT_SPACE 0x100000u
#define KEYS_MOST 256u /* bytes, with their head */
#define PATH_MOST 256u
#define STOPPED_BY_APPLICATION 0x20026u

static intptr_t call(int32_t what, const void *with) {
    register intptr_t r0 __asm("r0") = what;
    register const void *r1 __asm("r1") = with;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_exit(int code) {
    const uint32_t block[2] = {STOPPED_BY_APPLICATION, (uint32_t)code};
    for (;;)
        call(SYS_EXIT_EXTENDED, block);
}

void board_print(const char *text) {
    call(SYS_WRITE0, text);
}

void board_fault(uint32_t pc, uint32_t lr) {
    tell_fault(pc, lr);
    board_exit(255);
}

static intptr_t open(const char *path, uint32_t mode) {
    const struct {
        const char *path;
        uint32_t mode, length;
    } block = {path, mode, (uint32_t)strlen(path)};
    return call(SYS_OPEN, &block);
}

intptr_t board_file_open(const char *path) {
    return open(path, READ_BYTES);
}

size_t board_file_read(intptr_t file, void *to, size_t size) {
    const struct {
        intptr_t file;
        void *to;
        size_t size;
    } block = {file, to, size};
    return size - (size_t)call(SYS_READ, &block); /* it says how many are missing */
}

int board_arguments(char *to, size_t space) {
    struct {
        char *to;
        size_t space;
    } block = {to, space};
    return call(SYS_GET_CMDLINE, &block) == 0 ? 0 : -1;
}

int board_random(void *context, uint8_t *out, size_t size) {
    static intptr_t file = -1;
    (void)context;
    if (file < 0)
        file = board_file_open("/dev/urandom");
    return file >= 0 && board_file_read(file, out, size) == size;
}

/* ---- files that the image's words name: what is kept, and what a person answers ---- */

/* The file of the word that begins with `name`; -1: there is no such word, or it cannot be opened.
 * An image that was given no word is told its own file, which has no such name. */
static intptr_t word_file(const char *name, uint32_t mode) {
    char words[2u * PATH_MOST];
    const size_t size = strlen(name);
    if (board_arguments(words, sizeof words) != 0)
        return -1;
    for (char *word = words, *end;; word = end + 1) {
        end = word;
        while (*end != '\0' && *end != ' ')
            end++;
        const int last = *end == '\0';
        *end = '\0';
        if ((size_t)(end - word) > size && memcmp(word, name, size) == 0)
            return open(word + size, mode);
        if (last)
            return -1;
    }
}

static intptr_t kept_file(void) {
    static intptr_t file = -2; /* not asked for yet */
    if (file == -2)
        file = word_file("kept=", CHANGE_BYTES);
    return file;
}

/* A file that grows by what a person types. What was typed before a code was shown is no answer
 * to it. */
int board_confirm(const char *code) {
    static char asked[32];
    static intptr_t file = -2;
    char said[32];
    if (file == -2)
        file = word_file("answers=", READ_BYTES);
    if (file < 0) {
        board_print("nobody can be asked here: build the image with --secret-file\n");
        return 0;
    }
    if (strcmp(asked, code) != 0) {
        const size_t size = strlen(code);
        memcpy(asked, code, size < sizeof asked ? size : sizeof asked - 1u);
        while (board_file_read(file, said, sizeof said) != 0u) {
        }
        board_print("Does the other end show the same code? Type yes or no:\n");
    }
    return board_file_read(file, said, sizeof said) == 0u ? -1 : said[0] == 'y' || said[0] == 'Y';
}

static int seek(uint32_t place, uint32_t offset) {
    const struct {
        intptr_t file;
        uint32_t at;
    } block = {kept_file(), place * KEPT_SPACE + offset};
    return call(SYS_SEEK, &block) == 0;
}

uint32_t board_kept_space(void) {
    return kept_file() < 0 ? 0u : KEPT_SPACE;
}

int board_kept_read(uint32_t place, uint32_t offset, uint8_t *to, size_t size) {
    return seek(place, offset) && board_file_read(kept_file(), to, size) == size;
}

int board_kept_write(uint32_t place, uint32_t offset, const uint8_t *bytes, size_t size) {
    const struct {
        intptr_t file;
        const uint8_t *bytes;
        size_t size;
    } block = {kept_file(), bytes, size};
    return seek(place, offset) && call(SYS_WRITE, &block) == 0; /* how many are missing */
}

/* Enough to make it nothing, and to leave nothing of keys. */
int board_kept_erase(uint32_t place) {
    static const uint8_t nothing[32];
    int well = 1;
    for (uint32_t at = 0; at < KEYS_MOST; at += sizeof nothing)
        well &= board_kept_write(place, at, nothing, sizeof nothing);
    return well;
}
