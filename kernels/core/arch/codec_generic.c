/* The codec's loops as this machine's oldest processor runs them; on aarch64 that has vectors. */
#include "generic_x86.h"

#define CODEC seam_codec_generic
#include "codec_loops.h"
