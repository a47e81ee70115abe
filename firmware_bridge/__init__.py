"""Cortex-M firmware from the same C core (a later release), and what a host needs to build and reach it."""
