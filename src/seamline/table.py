"""A table on standard output: drawn by rich for a person, plain columns for everything else."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def print_table(head: list[str], lines: list[list[str]], words: int) -> None:
    """The first `words` columns are text, the others numbers, which stand at the right."""
    if find_spec("rich") is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*head[:words])
        for name in head[words:]:
            table.add_column(name, justify="right")
        for line in lines:
            table.add_row(*line)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in [head, *lines]:
        cells = [
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
