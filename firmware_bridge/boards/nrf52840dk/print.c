/* What the board has to say to people: a buffer that a probe reads while the program runs, in the
 * layout that SEGGER's RTT viewers, OpenOCD and pyOCD know. Without a probe it is overwritten. */
#include <string.h>

#include "board.h"

#define SIZE 1024u

static char text[SIZE];

typedef struct {
    const char *name;
    char *buffer;
    uint32_t size;
    volatile uint32_t written, read;
    uint32_t flags;
} channel;

static struct {
    char mark[16];
    int32_t up, down;
    channel channels[1];
} control;

/* The mark is put together here, so that it is found nowhere else. */
static void begin(void) {
    static const char REVERSED[] = "TTR REGGES";
    control.up = 1;
    control.channels[0] = (channel){.name = "Terminal", .buffer = text, .size = SIZE};
    for (unsigned i = 0; i < 10u; i++)
        control.mark[i] = REVERSED[9u - i];
}

void board_print(const char *what) {
    channel *to = &control.channels[0];
    if (control.up == 0)
        begin();
    for (; *what != '\0'; what++) {
        text[to->written] = *what;
        to->written = (to->written + 1u) % SIZE;
    }
}
