"""The errors a person can mend: each says what to do and has an exit code."""

from __future__ import annotations

EXIT_CODES = {
    0: "done",
    1: "a defect of seamline: the traceback says where; please report it",
    2: "wrong command line or job file",
    3: "data or keys are missing or damaged",
    4: "an address or port cannot be used",
    5: "the model cannot be cut there, or does not fit the board",
    6: "the peer refused, or is not there",
    7: "an extra is not installed; the message says which",
    130: "ended by Ctrl-C",
}


class UserError(Exception):
    """A mistake in what the user gave or in the surroundings; printed as one line, no traceback.

    exit_code: a key of EXIT_CODES.
    """

    def __init__(self, text: str, exit_code: int = 2) -> None:
        super().__init__(text)
        self.exit_code = exit_code
