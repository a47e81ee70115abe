/* What tests in Python reach of the device's sealed line: sizes, counters, fields. */
#include <string.h>

#include "seam_device.h"

size_t device_size(void);
void device_counters(const seam_sealed_end *end, uint32_t *out);
size_t device_pairing_size(void);
int device_pairing_trouble(const seam_pairing *pairing);
int device_trouble(const char *name);
int device_is_joined(const seam_sealed_end *end);
int device_is_busy(const seam_sealed_end *end);

size_t device_size(void) {
    return sizeof(seam_sealed_end);
}

size_t device_pairing_size(void) {
    return sizeof(seam_pairing);
}

int device_pairing_trouble(const seam_pairing *pairing) {
    return pairing->trouble;
}

/* A trouble by its name; -1: there is none. */
int device_trouble(const char *name) {
    static const char *const NAMES[] = {
#define X(name, text) #name,
        SEAM_TROUBLE_TABLE(X)
#undef X
    };
    for (int i = 0; i < (int)(sizeof NAMES / sizeof NAMES[0]); i++)
        if (strcmp(NAMES[i], name) == 0)
            return i;
    return -1;
}

void device_counters(const seam_sealed_end *end, uint32_t *out) {
    out[0] = end->counters.handshakes;
    out[1] = end->counters.clear_refused;
    out[2] = end->counters.other_version;
    out[3] = end->counters.damaged + end->decoder.damaged;
    out[4] = end->counters.forged + end->seal.forged;
    out[5] = end->counters.replayed + end->seal.replayed;
    out[6] = end->packets.counters.retransmits;
}

int device_is_joined(const seam_sealed_end *end) {
    return end->packets.peer_epoch != 0u;
}

int device_is_busy(const seam_sealed_end *end) {
    return end->packets.tx_busy != 0u;
}
