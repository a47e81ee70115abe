"""What this machine and this installation are, for tables, reports and `seamline info`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import __version__

PACKAGES = ("numpy", "pyzmq", "pyserial", "cryptography", "msgspec")
EXTRAS = {
    "edge": ("torch", "rich", "jinja2", "matplotlib"),
    "cloud": ("rich",),
    "bench": ("onnxruntime", "onnx", "ai-edge-litert"),
}


def describe_machine() -> dict[str, Any]:
    """Processor, cores, system, versions and load: what a measured figure depends on."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "torch": package_version("torch"),
        "seamline": __version__,
        "kernels": _kernels(),
        "load": round(os.getloadavg()[0], 2),
    }


def describe_installation() -> dict[str, Any]:
    """Versions, kernel variants, and which extras are whole."""
    found: dict[str, Any] = {"seamline": __version__, "python": platform.python_version()}
    found |= {name: package_version(name) or "missing" for name in PACKAGES}
    found["kernels"] = _kernels()
    found["variants"] = _variants()
    for extra, names in EXTRAS.items():
        missing = [name for name in names if package_version(name) is None]
        found[f"[{extra}]"] = f"missing {', '.join(missing)}" if missing else "complete"
    return found


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _kernels() -> str:
    try:
        from .kernels import variant
    except ImportError as error:
        return f"not usable: {error}"
    return str(variant())


def _variants() -> str:
    """All that SEAMLINE_KERNELS can name here, slowest first."""
    try:
        from .kernels import variants
    except ImportError:
        return "none"
    return ", ".join(variants())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
