/* Numbers in print, by board_print alone. */
#include "tell.h"

#include "board.h"

void tell_number(uint32_t value) {
    char text[11];
    char *at = text + sizeof text;
    *--at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    board_print(at);
}

void tell_hex(uint32_t value) {
    char text[9] = {0};
    for (int i = 0; i < 8; i++)
        text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15u];
    board_print(text);
}

void tell_fault(uint32_t pc, uint32_t lr) {
    board_print("fault at ");
    tell_hex(pc);
    board_print(", called from ");
    tell_hex(lr);
    board_print("\n");
}
