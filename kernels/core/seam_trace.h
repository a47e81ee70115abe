/* A front traced: checksums of everything it makes, in the order it is made, so that two machines
 * can be compared layer by layer. */
#ifndef SEAM_TRACE_H
#define SEAM_TRACE_H

#include "seam_front.h"

#define SEAM_TRACE_HEAD 64u

/* What a checksum is of. In int8 a layer learns on its way back; in f32 all do at the end, from
 * gradients of weights. */
typedef enum {
    SEAM_TRACE_INPUT,            /* the samples, as the first layer gets them */
    SEAM_TRACE_FORWARD,          /* a layer's output */
    SEAM_TRACE_LOSS,             /* where it is on the device: sum of losses, number right */
    SEAM_TRACE_GRADIENT,         /* of the output */
    SEAM_TRACE_BACKWARD,         /* gradients of a layer's inputs, as far as they are summed up */
    SEAM_TRACE_WEIGHT_GRADIENTS, /* f32 */
    SEAM_TRACE_LEARNED,          /* a layer's weights and biases after the step */
    SEAM_TRACE_MOMENTUM          /* of all layers, after the step */
} seam_trace_kind;

typedef void seam_trace_hear(void *context, seam_trace_kind kind, uint32_t layer, uint32_t crc);

/* Runs what a record says, in `arena` (16-aligned). The record: i32 sizes of plan, parameters,
 * samples (f32), labels (i32), output gradient; i32 samples, exponent of an int8 gradient, seed,
 * mode; f32 rate, momentum, decay; 16 bytes of 0; then the five arrays, each 16-aligned and padded.
 * With labels the loss is on the device, with a gradient it is not; with neither of them the
 * trace ends behind the forward pass. SHORT, ARGUMENT: it is none; else as the front's functions.
 */
SEAM_MUST_USE int seam_trace_run(const uint8_t *record, size_t size, void *arena, size_t arena_size,
                                 seam_trace_hear *hear, void *context);

#endif
