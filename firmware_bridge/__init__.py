"""Cortex-M firmware from the same C core; this release has only the core it will be built from."""
