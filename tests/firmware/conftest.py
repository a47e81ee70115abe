"""Boards in the emulator; without the tools, one line says what to install."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from seamline.firmware_bridge import image

Build = Callable[[image.Board, Sequence[Path]], Path]


@pytest.fixture(scope="session")
def tools() -> None:
    """SEAMLINE_BOARDS=required: tests of boards must not be skipped."""
    lacking = image.missing()
    if lacking and os.environ.get("SEAMLINE_BOARDS") == "required":
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(params=list(image.BOARDS))
def board(request: pytest.FixtureRequest, tools: None) -> image.Board:
    return image.BOARDS[request.param]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles an image for a board, once."""
    made: dict[tuple[str, Path], Path] = {}

    def compiled(board: image.Board, sources: Sequence[Path]) -> Path:
        key = (board.machine, sources[0])
        if key not in made:
            made[key] = image.build(board, sources, tmp_path_factory.mktemp("image"))
        return made[key]

    return compiled


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What images of a kind have in common, compiled once."""
    return tmp_path_factory.mktemp("objects")
