/* Frames on a byte line: COBS (Cheshire and Baker, 1999) of a packet and its CRC-32, then a zero.
 */
#include "seam_link.h"

/* COBS as a byte sink: a code counts the bytes up to the next zero; 0xFF: 254 bytes, no zero. */
typedef struct {
    uint8_t *out;
    size_t code_at, size;
    int after_full; /* the block in progress is empty and follows one of 254 bytes */
} cobs_sink;

static void cobs_put(cobs_sink *sink, uint8_t byte) {
    sink->after_full = 0;
    if (byte != 0u) {
        sink->out[sink->size++] = byte;
        sink->out[sink->code_at]++;
        sink->after_full = sink->out[sink->code_at] == 0xFFu;
    }
    if (byte == 0u || sink->after_full) {
        sink->code_at = sink->size++;
        sink->out[sink->code_at] = 1u;
    }
}

/* checked: a CRC-32 goes behind the bytes. */
static int64_t encode(uint8_t *out, size_t space, const uint8_t *bytes, size_t size, int checked) {
    if (size == 0u) {
        return SEAM_E_ARGUMENT;
    }
    if (space < SEAM_FRAME_WIRE(size)) {
        return SEAM_E_SPACE;
    }
    const uint32_t crc = checked ? seam_crc32(0u, bytes, size) : 0u;
    cobs_sink sink = {out, 0u, 1u, 0};
    out[0] = 1u;
    for (size_t i = 0; i < size; i++) {
        cobs_put(&sink, bytes[i]);
    }
    for (unsigned shift = 0; checked && shift < 32u; shift += 8u) {
        cobs_put(&sink, (uint8_t)(crc >> shift));
    }
    if (sink.after_full) { /* its lone code would say nothing */
        sink.size--;
    }
    out[sink.size++] = 0u;
    return (int64_t)sink.size;
}

int64_t seam_frame_encode(uint8_t *out, size_t space, const uint8_t *packet, size_t size) {
    return encode(out, space, packet, size, 1);
}

int64_t seam_frame_encode_raw(uint8_t *out, size_t space, const uint8_t *body, size_t size) {
    return encode(out, space, body, size, 0);
}

void seam_frame_decoder_start(seam_frame_decoder *decoder, uint8_t *buffer, uint32_t space) {
    const seam_frame_decoder fresh = {.buffer = buffer, .space = space};
    *decoder = fresh;
}

static uint32_t frame_end(seam_frame_decoder *decoder) {
    const uint32_t size = decoder->size;
    const int ends = decoder->left == 0u, whole = ends && size > SEAM_FRAME_CHECK;
    const int skipped = decoder->skipping != 0u;
    const int empty = ends && size == 0u && decoder->zero_after == 0u;
    decoder->size = 0u;
    decoder->left = decoder->zero_after = decoder->skipping = 0u;
    if (empty || skipped) { /* two zeros in a row are no frame; a long one has been counted */
        return 0u;
    }
    if (decoder->raw != 0u && ends && size != 0u) {
        decoder->frames++;
        return size;
    }
    if (decoder->raw == 0u && whole) {
        const uint32_t body = size - SEAM_FRAME_CHECK;
        const uint8_t *check = decoder->buffer + body;
        const uint32_t crc = (uint32_t)check[0] | (uint32_t)check[1] << 8 |
                             (uint32_t)check[2] << 16 | (uint32_t)check[3] << 24;
        if (crc == seam_crc32(0u, decoder->buffer, body)) {
            decoder->frames++;
            return body;
        }
    }
    decoder->damaged++;
    return 0u;
}

static void frame_put(seam_frame_decoder *decoder, uint8_t byte) {
    if (decoder->size >= decoder->space) {
        decoder->skipping = 1u;
        decoder->too_long++;
        return;
    }
    decoder->buffer[decoder->size++] = byte;
}

uint32_t seam_frame_decode(seam_frame_decoder *decoder, uint8_t byte) {
    if (byte == 0u) {
        return frame_end(decoder);
    }
    if (decoder->skipping != 0u) {
        return 0u;
    }
    if (decoder->left != 0u) {
        decoder->left--;
        frame_put(decoder, byte);
        return 0u;
    }
    /* A code. The zero of the block before is written only now: the last block stands for none. */
    if (decoder->zero_after != 0u) {
        frame_put(decoder, 0u);
    }
    decoder->left = (uint8_t)(byte - 1u);
    decoder->zero_after = byte != 0xFFu;
    return 0u;
}
