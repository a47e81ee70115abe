"""The core stays within the bytes of firmware_bridge/budget.toml on every board."""

from __future__ import annotations

import copy

import pytest
from seamline.firmware_bridge import image, size_budget

SIZES = {part: {"text": 100, "data": 0, "bss": 8} for part in size_budget.PARTS}
BUDGET = {"compiler": "12.2", "board": SIZES}


def test_no_part_has_grown_beyond_its_budget(board):
    name = next(name for name, known in image.BOARDS.items() if known is board)
    found = size_budget.measure(board)
    over = size_budget.exceeded(name, found, size_budget.read_budget(), size_budget.compiler())
    assert not over, "\n".join([*over, size_budget.HOW])
    assert all(sum(row.values()) > 0 for row in found.values())


def grown(part: str, kind: str, by: int) -> size_budget.Sizes:
    sizes = copy.deepcopy(SIZES)
    sizes[part][kind] += by
    return sizes


@pytest.mark.parametrize("kind", size_budget.KINDS)
def test_a_byte_too_many_is_said(kind):
    own = SIZES["plans"][kind]
    assert size_budget.exceeded("board", grown("plans", kind, 1), BUDGET, "12.2") == [
        f"board, plans, {kind}: expected at most {own}, got {own + 1}"
    ]
    assert size_budget.exceeded("board", SIZES, BUDGET, "12.2") == []


def test_another_compiler_has_a_tenth_more_room():
    assert size_budget.exceeded("board", grown("plans", "text", 10), BUDGET, "13.2") == []
    assert len(size_budget.exceeded("board", grown("plans", "text", 11), BUDGET, "13.2")) == 1


def test_a_board_or_part_without_figures_is_said():
    assert len(size_budget.exceeded("other", SIZES, BUDGET, "12.2")) == 3 * len(SIZES)
    more = {**BUDGET, "board": {**SIZES, "magic": SIZES["plans"]}}
    assert size_budget.exceeded("board", SIZES, more, "12.2") == [
        "board, magic: there is no such part"
    ]


def test_a_file_that_is_in_no_part_is_said(tools, monkeypatch):
    monkeypatch.delitem(size_budget.PART_OF, "plan")
    with pytest.raises(RuntimeError, match=r"plan\.c is in no part: add it to PARTS"):
        size_budget.measure(image.BOARDS["an386"])


def test_every_board_has_a_budget():
    assert set(size_budget.read_budget()) == {"compiler", *image.BOARDS}
