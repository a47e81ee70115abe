"""The errors a person can mend: each says what to do and has an exit code."""


class UserError(Exception):
    """A mistake in what the user gave or in the surroundings; printed as one line, no traceback.

    Exit codes: 2 bad command line or job file, 3 missing data or keys, 4 address or port not usable,
    5 the model cannot be cut there, 6 the peer refused or was not found, 7 an extra is not installed.
    """

    def __init__(self, text: str, exit_code: int = 2) -> None:
        super().__init__(text)
        self.exit_code = exit_code
