"""`seamline relay`: what it says while it carries bytes, and its counters at the end."""

from __future__ import annotations

import argparse
from typing import Any

from .events import emitter
from .runtime.relay import LISTEN, run_relay
from .table import print_table


def run_relay_command(args: argparse.Namespace) -> int:
    """Carries until Ctrl-C. Raises LinkError."""
    emit = emitter(args.format)
    to = args.to or f"{LISTEN}//{args.listen.removeprefix(LISTEN).removeprefix('//')}"

    def tell(event: dict[str, Any]) -> None:
        if args.format == "json":
            emit(event)
        elif event["event"] == "listening":
            [(line, other)] = event["lines"]
            emit({"event": "note", "text": f"carrying {line} to {other}; Ctrl-C ends it"})
        elif "counters" in event:
            rows = event["counters"]
            print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows], 1)
        else:
            emit(event)

    return run_relay(args.line, to, emit=tell)
