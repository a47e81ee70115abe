"""For all tests: a process they start takes Ctrl-C, and what they lack is said."""

import os
import shutil
import signal
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # a change fails, not a day
settings.load_profile("same")  # --hypothesis-profile=default looks elsewhere every time


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and programs they start inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """needs(program, ..., packages="..."): skip the test where a program is missing, and say so.

    With SEAMLINE_BOARDS=required, as .ci/run has it, it fails: there nothing may be left out.
    """

    def look(*programs: str, packages: str) -> None:
        missing = [program for program in programs if shutil.which(program) is None]
        if not missing:
            return
        lacks = f"this machine lacks {', '.join(missing)}. Debian: apt-get install {packages}"
        if os.environ.get("SEAMLINE_BOARDS") == "required":
            pytest.fail(f"SEAMLINE_BOARDS=required, but {lacks}", pytrace=False)
        pytest.skip(lacks)

    return look
