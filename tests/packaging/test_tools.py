"""`.ci/tools` says in one line what a build lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A Python that answers as the real one, but for one question.
STUB = """#!/bin/sh
case "$*" in *'{question}'*) {answer};; *) exec "{python}" "$@";; esac
"""


def check(root: Path, python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(root / ".ci" / "tools"), python],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_machine_with_everything_passes(root: Path) -> None:
    result = check(root, sys.executable)
    assert (result.returncode, result.stderr) == (0, "")


def test_no_python_is_said(root: Path) -> None:
    result = check(root, "no-such-python")
    assert result.returncode == 1
    assert "there is no 'no-such-python'. Install Python 3.10 or newer" in result.stderr


def test_no_compiler_is_said(root: Path) -> None:
    result = check(root, sys.executable, CC="no-such-cc")
    assert result.returncode == 1
    assert "there is no C compiler ('no-such-cc'). Debian: apt-get install gcc" in result.stderr


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("version_info <", "exit 1", "Python 3.10 or newer is needed"),
        ("import venv", "exit 1", "has no venv module. Debian: apt-get install python3-venv"),
        ("include", "echo /nowhere", "are missing (/nowhere/Python.h)"),
    ],
)
def test_what_a_python_lacks_is_said(
    root: Path, tmp_path: Path, question: str, answer: str, said: str
) -> None:
    stub = tmp_path / "python3"
    stub.write_text(STUB.format(question=question, answer=answer, python=sys.executable))
    stub.chmod(0o755)
    result = check(root, str(stub))
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_compiler_without_the_c_library_is_said(root: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    result = check(root, sys.executable, CC=str(compiler))
    assert result.returncode == 1
    assert "finds no C library headers. Debian: apt-get install libc6-dev" in result.stderr
