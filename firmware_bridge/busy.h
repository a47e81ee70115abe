/* What a device does while it computes for long. */
#ifndef SEAM_BUSY_H
#define SEAM_BUSY_H

#include "seam_front.h"

/* Drops a message that asks for what the session has in work: the host asks again every few
 * seconds, and takes a device that has no room for two minutes for lost. Call it after a batch,
 * when no message waits. */
void busy_drop_repeats(const seam_session *session);

#endif
