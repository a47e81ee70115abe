"""Cortex-M images from the same C core, compiled for boards and run in the emulator."""
