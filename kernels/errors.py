"""The error behind every status the C core returns."""


class SeamError(ValueError):
    """The core refused something. `status` is the negative number of the table in `seam.h`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.status, str(self))
