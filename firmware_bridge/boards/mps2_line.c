/* The line of Arm MPS2 boards: UART0. */
#define UART 0x40004000u
#define UART_RX 0u
#define UART_TX 1u
#include "cmsdk_uart.h"
