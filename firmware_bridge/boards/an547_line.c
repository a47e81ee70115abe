/* The line of an Arm MPS3 with the Corstone-300: UART0. */
#define UART 0x59303000u
#define UART_RX 33u
#define UART_TX 34u
#include "cmsdk_uart.h"
