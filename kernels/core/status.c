/* The text of every status, made from the one table in seam.h. */
#include "seam.h"

const char *seam_status_text(int status) {
    switch (status) {
#define SEAM_STATUS_CASE(name, value, text) \
    case value:                             \
        return text;
        SEAM_STATUS_TABLE(SEAM_STATUS_CASE)
#undef SEAM_STATUS_CASE
    default:
        return "an unknown status";
    }
}
