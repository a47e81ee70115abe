/* The codec's loops as this machine's oldest processor runs them; on aarch64 that has vectors. */
#define CODEC seam_codec_generic
#include "codec_loops.h"
