"""The import contracts hold, and each of them fails when it is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PARTS = ["kernels", "runtime", "edge_host", "cloud", "firmware_bridge"]
CONTRACTS = 5

DIRECTION = "kernels <- runtime <-"
TORCH = "torch is imported in edge_host and nowhere else"
LIGHT = "devices and the cloud need no torch"
ZMQ = "zmq is imported in"
SERIAL = "serial is imported in"

# The contract that must break, by the beginning of its name; the file changed; the lines added.
BREACHES = {
    "runtime needs a program": (DIRECTION, "runtime/keys.py", "from ..edge_host import back"),
    "kernels need the runtime": (DIRECTION, "kernels/f32.py", "from ..runtime import link"),
    "a program needs another": (DIRECTION, "cloud/rounds.py", "from ..edge_host import uplink"),
    "a program needs the front door": (DIRECTION, "edge_host/host.py", "from .. import cli"),
    "a module without a place": (DIRECTION, "stray.py", "import os"),
    "torch in the front door": (TORCH, "events.py", "import torch"),
    "torch in the cloud": (TORCH, "cloud/aggregate.py", "import torch"),
    "torch in a function": (LIGHT, "runtime/device.py", "def _f():\n    import torch"),
    "rich in the runtime": (LIGHT, "runtime/plan.py", "import rich"),
    "matplotlib in the cloud": (LIGHT, "cloud/server.py", "from matplotlib import pyplot"),
    "scipy in the runtime": (LIGHT, "runtime/predictor.py", "from scipy import optimize"),
    "zmq in the cloud": (ZMQ, "cloud/server.py", "import zmq"),
    "zmq in another file of the runtime": (ZMQ, "runtime/link.py", "import zmq"),
    "serial in another file of the runtime": (SERIAL, "runtime/link.py", "import serial"),
}


def lay_flat(root: Path, target: Path) -> Path:
    """The Python files as the wheel has them: seamline/, with the parts in it."""
    only_python = shutil.ignore_patterns("__pycache__", "*.so", "*.c", "*.h", "*.py[xcid]", "*.pxd")
    shutil.copytree(root / "src" / "seamline", target / "seamline", ignore=only_python)
    for part in PARTS:
        shutil.copytree(root / part, target / "seamline" / part, ignore=only_python)
    return target


def lint_imports(root: Path, flat: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-cache", "--no-logo", "--config", str(root / ".importlinter")]
    environment = {**os.environ, "PYTHONPATH": str(flat), "COLUMNS": "200"}
    return subprocess.run(
        command, env=environment, cwd=flat, capture_output=True, text=True, check=False
    )


def test_the_contracts_hold_and_see_every_module(root: Path, tmp_path: Path) -> None:
    flat = lay_flat(root, tmp_path)
    result = lint_imports(root, flat)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {CONTRACTS} kept, 0 broken." in result.stdout
    seen = int(result.stdout.partition("Analyzed ")[2].split()[0])
    assert seen >= len(list(flat.rglob("*.py")))


@pytest.mark.parametrize(("contract", "module", "lines"), BREACHES.values(), ids=list(BREACHES))
def test_a_breach_is_seen(
    root: Path, tmp_path: Path, contract: str, module: str, lines: str
) -> None:
    flat = lay_flat(root, tmp_path)
    with (flat / "seamline" / module).open("a") as file:
        file.write(f"\n{lines}\n")
    result = lint_imports(root, flat)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.rstrip().endswith("BROKEN")]
    broken += [row for row in result.stdout.splitlines() if "BROKEN (" in row]
    assert any(row.startswith(contract) for row in broken), result.stdout + result.stderr
