/* Monocypher, compiled with an image; its warnings are not ours. */
#include <monocypher.c>
