/* The samples that are linked into an image. A board with a sensor has a board_sample of its own.
 */
#include <string.h>

#include "board.h"
#include "device.h"

__attribute__((weak)) int board_sample(float *values, int32_t *label, int training,
                                       uint32_t number) {
    if (number >= (training ? device.training : device.tests))
        return 0;
    const size_t row = training ? number : (size_t)device.training + number;
    memcpy(values, device.x + row * device.values, device.values * sizeof(float));
    *label = device.y[row];
    return 1;
}
