/* libFuzzer target: any bytes from a line, through a frame decoder with exact bounds; and the same
 * bytes as a packet, framed and read back. */
#include "fuzz.h"
#include "seam_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint32_t space = size > 0 ? 5u + data[0] : 5u;
    uint8_t *buffer = exact(space), *wire = exact(SEAM_FRAME_WIRE(size)), *back = exact(size + 4u);
    seam_frame_decoder decoder;
    seam_frame_decoder_start(&decoder, buffer, space);
    for (size_t i = 0; i < size; i++)
        if (seam_frame_decode(&decoder, data[i]) + SEAM_FRAME_CHECK > space)
            abort();
    const int64_t framed = seam_frame_encode(wire, SEAM_FRAME_WIRE(size), data, size);
    if ((framed > 0) != (size > 0))
        abort();
    seam_frame_decoder_start(&decoder, back, (uint32_t)size + 4u);
    for (int64_t i = 0; i < framed; i++) {
        const uint32_t found = seam_frame_decode(&decoder, wire[i]);
        if (found != (i + 1 < framed ? 0u : size) || (wire[i] == 0u) != (i + 1 == framed))
            abort();
    }
    if (framed > 0 && memcmp(back, data, size) != 0)
        abort();
    free(buffer);
    free(wire);
    free(back);
    return 0;
}
