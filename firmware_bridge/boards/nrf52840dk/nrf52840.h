/* Registers of the nRF52840 that the board's files use (product specification 1.7). */
#ifndef SEAM_NRF52840_H
#define SEAM_NRF52840_H

#include "cortex.h"

#define CLOCK 0x40000000u
#define UART 0x40002000u
#define RNG 0x4000D000u
#define WDT 0x40010000u
#define NVMC 0x4001E000u
#define GPIO 0x50000000u /* port 0 */

#define PIN_CONFIG(pin) CORTEX(GPIO + 0x700u + 4u * (pin))
#define PINS_IN CORTEX(GPIO + 0x510u)

#define RESET_CONTROL CORTEX(0xE000ED0Cu)
#define RESET_NOW 0x05FA0004u

#endif
