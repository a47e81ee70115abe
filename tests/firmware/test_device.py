"""A device on an emulated Cortex-M pairs over its UART and trains the front of a real network: with
a real edge host and cloud it comes to the bits of a Linux device.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kills import free_port, write_waves
from seamline.firmware_bridge import image
from seamline.firmware_bridge.emulator import serve

WITHIN_S = 90

JOB = """
mode = "split-v2"
seed = 3
out = "{out}"
model = {{ name = "watch", seam = 2 }}
data = {{ source = "{folder}/{{id}}.npz" }}
train = {{ batch = 16, edge_rounds = 4, cloud_rounds = 3, arithmetic = "{arithmetic}" }}
round = {{ wait = "all" }}
keys = {{ folder = "{folder}/keys" }}
cloud = {{ address = "tcp://127.0.0.1:{cloud}" }}
zones = [{{ name = "A", address = "tcp://127.0.0.1:{host}" }}]
devices = [{{ id = "d0", zone = "A" }}, {{ id = "d1", zone = "A"{line} }}]
"""


def seamline(*words: str) -> list[str]:
    return [sys.executable, "-m", "seamline", *words]


def write_job(folder: Path, arithmetic: str, line: str = "") -> Path:
    line = line and f', link = "{line}", host_link = "{line}"'
    path = folder / ("board.toml" if line else "linux.toml")
    path.write_text(
        JOB.format(
            out=folder / path.stem,
            folder=folder,
            arithmetic=arithmetic,
            line=line,
            cloud=free_port(),
            host=free_port(),
        )
    )
    return path


def model_hash(folder: Path) -> str:
    arrays = np.load(folder / "model.npz", allow_pickle=False)
    digest = hashlib.sha256()
    for name in sorted(arrays.files):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    for number, name in enumerate(("d0", "d1")):
        write_waves(folder / f"{name}.npz", seed=number)
    path = write_job(folder, "q8")
    subprocess.run(seamline("keys", "new", str(path)), check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def linux(folder: Path) -> dict[str, str]:
    """By arithmetic, the model's hash when all devices are Linux ones."""
    found = {}
    for arithmetic in ("q8", "f32"):
        done = subprocess.run(
            seamline("run", str(write_job(folder, arithmetic)), "--format", "json"),
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[arithmetic] = model_hash(folder / "linux")
        (folder / "linux").rename(folder / f"linux-{arithmetic}")
    return found


@contextmanager
def tiers(path: Path, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The job's other tiers: cloud, edge host, the first device."""
    started = []
    for number, words in enumerate((["cloud"], ["host", "--zone", "A"], ["device", "--id", "d0"])):
        log = (folder / f"tier-{number}.log").open("wb")
        command = seamline(words[0], str(path), *words[1:])
        started.append(subprocess.Popen(command, stdout=log, stderr=log))
        log.close()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def build(path: Path, board: str, out: Path) -> Path:
    command = seamline("firmware", "build", str(path), "--id", "d1", "--board", board)
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "holds the secret key of d1" in done.stdout
    return out / f"{image.BOARDS[board].machine}.elf"


BOARDS = [("an385", "q8"), ("an386", "q8"), ("an500", "q8"), ("an547", "q8")]
BOARDS += [("an386", "f32"), ("an500", "f32")]


@pytest.mark.parametrize(("name", "arithmetic"), BOARDS)
def test_a_board_trains_to_the_bits_of_a_linux_device(
    tools, folder, linux, tmp_path, name, arithmetic
):
    port = free_port()
    path = write_job(folder, arithmetic, f"socket://127.0.0.1:{port}")
    built = build(path, name, tmp_path)
    assert built.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob("*.bin"))  # the key is in the image only
    out = folder / "board"
    with serve(image.BOARDS[name], built, port) as running, tiers(path, tmp_path) as others:
        assert running.wait(WITHIN_S) == 0, running.said()  # the host said BYE
        assert others[0].wait(30) == 0
    assert model_hash(out) == linux[arithmetic]
    status = json.loads((out / "status" / "host-A.json").read_text())
    board = next(peer for peer in status["peers"] if peer["peer"] == "d1")
    assert board["link"] == "serial" and board["messages_received"] > 12
    assert board["frames_forged"] == 0
    out.rename(tmp_path / "out")


def test_what_is_wrong_with_a_build_is_one_line(folder, tools, tmp_path):
    path = str(folder / "linux.toml")
    cases = {
        ("--id", "d1", "--board", "uno"): (2, "--board uno: there are an385"),
        ("--id", "nobody", "--board", "an386"): (2, "nobody"),
    }
    for words, (code, text) in cases.items():
        done = subprocess.run(
            seamline("firmware", "build", path, *words),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code and text in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    (tmp_path / "text.elf").write_text("no image")
    for name, text in (("none.elf", "there is no image"), ("text.elf", "ended with")):
        done = subprocess.run(
            seamline("firmware", "run", str(tmp_path / name), "--board", "an386"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3 and text in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
