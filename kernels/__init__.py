"""What device, edge host and firmware agree on bit for bit: C core, Cython faces, definition."""

from .errors import SeamError

try:
    from ._core import (
        ARITHMETIC_VERSION,
        WIRE_VERSION,
        choose_variant,
        random_bits,
        variant,
        variants,
    )
except ModuleNotFoundError as error:
    raise ImportError(
        "the kernels of seamline are not compiled for this Python; "
        "in a source tree run: python -m pip install -e ."
    ) from error

__all__ = [
    "ARITHMETIC_VERSION",
    "WIRE_VERSION",
    "SeamError",
    "choose_variant",
    "random_bits",
    "variant",
    "variants",
]
