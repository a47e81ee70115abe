"""What device, edge host and firmware agree on bit for bit: C core, Cython faces, definition."""

import sys

from .errors import SeamError

try:
    from ._core import ARITHMETIC_VERSION, WIRE_VERSION, random_bits, variant, variants
    from ._core import choose_variant as _choose_core
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._core":
        raise
    raise ImportError(
        "the kernels of seamline are not compiled for this Python; "
        "in a source tree run: python -m pip install -e ."
    ) from error


def choose_variant(name: str | None = None) -> None:
    """Use the micro-kernels of that name (None: the best here). All give the same bits.

    Not while another thread computes. Raises ValueError for a variant that does not run here.
    """
    _choose_core(name)
    front = sys.modules.get(f"{__name__}._front")  # a compiled module with its own copy of them
    if front is not None:
        front.choose_variant(variant())


__all__ = [
    "ARITHMETIC_VERSION",
    "WIRE_VERSION",
    "SeamError",
    "choose_variant",
    "random_bits",
    "variant",
    "variants",
]
