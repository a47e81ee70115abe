"""What holds for all tests: a process they start takes Ctrl-C, however they were started."""

import signal


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and programs they start inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
