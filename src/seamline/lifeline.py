"""Ties a process to the one that started it: when that dies, however it dies, this one ends too."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

PARENT = "SEAMLINE_PARENT"  # environment: process id of the parent that a tier must not outlive
_PR_SET_PDEATHSIG = 1


def parent_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child that is to end with us."""
    return {**base, PARENT: str(os.getpid())}


def tie_to_parent() -> None:
    """Asks the kernel for SIGKILL at the parent's death; ends at once if it is dead already.

    Nothing happens without SEAMLINE_PARENT, which is taken out of the environment: it is meant for
    this process alone.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent.isdecimal():
        return
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit(1)
