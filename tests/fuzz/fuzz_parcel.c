/* libFuzzer target: any bytes as a parcel; what is accepted is unpacked and must come out the same
 * when it is packed by its own header. */
#include "fuzz.h"
#include "seam.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *bytes = copied(data, size);
    seam_parcel parcel;
    if (seam_parcel_parse(&parcel, bytes, size) == SEAM_OK) {
        if (parcel.size > size || parcel.payload + parcel.payload_size != bytes + parcel.size)
            abort();
        if (seam_parcel_size(parcel.codec, parcel.ndim, parcel.shape) != parcel.size)
            abort();
        float *x = exact((size_t)parcel.values * sizeof(float));
        if (seam_parcel_unpack(x, parcel.values, &parcel) == SEAM_OK) {
            if (parcel.values > 0 && seam_parcel_unpack(x, parcel.values - 1u, &parcel) == SEAM_OK)
                abort(); /* one value too few */
            uint8_t *again = exact(parcel.size);
            int64_t packed = seam_parcel_pack(again, parcel.size, x, parcel.codec, parcel.rounding,
                                              parcel.seed, parcel.ndim, parcel.shape);
            if (packed >= 0 && (size_t)packed != parcel.size)
                abort();
            free(again);
        }
        free(x);
    }
    free(bytes);
    return 0;
}
