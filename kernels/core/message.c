/* The header of every message: written, and checked when it comes from outside. */
#include "bytes.h"
#include "seam_front.h"

#define MAGIC 0x4C53u /* "SL" */

void seam_message_header(uint8_t *out, const seam_message *message) {
    seam_put16(out, MAGIC);
    out[2] = SEAM_WIRE_VERSION;
    out[3] = message->kind;
    seam_put16(out + 4, message->flags);
    seam_put16(out + 6, 0);
    seam_put32(out + 8, message->session);
    seam_put32(out + 12, message->round);
    seam_put32(out + 16, message->step);
    seam_put32(out + 20, message->body_size);
}

int seam_message_parse(seam_message *message, const uint8_t *bytes, size_t size) {
    if (size < SEAM_MESSAGE_HEADER)
        return SEAM_E_SHORT;
    if (seam_get16(bytes) != MAGIC)
        return SEAM_E_MAGIC;
    if (bytes[2] != SEAM_WIRE_VERSION)
        return SEAM_E_VERSION;
    if (seam_get16(bytes + 6) != 0)
        return SEAM_E_ARGUMENT;
    if (size > SEAM_MESSAGE_MAX)
        return SEAM_E_LIMIT;
    message->kind = bytes[3];
    message->flags = seam_get16(bytes + 4);
    message->session = seam_get32(bytes + 8);
    message->round = seam_get32(bytes + 12);
    message->step = seam_get32(bytes + 16);
    message->body_size = seam_get32(bytes + 20);
    message->body = bytes + SEAM_MESSAGE_HEADER;
    size_t body = size - SEAM_MESSAGE_HEADER;
    if (message->body_size > body)
        return SEAM_E_SHORT;
    if (message->body_size < body)
        return SEAM_E_LIMIT;
    return SEAM_OK;
}
