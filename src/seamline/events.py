"""Events in words: one line for a person, or one JSON document a line for a program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Emit = Callable[[Event], None]

_WORDS = {
    "listening": "listening on {address}",
    "joined": "{device} has joined",
    "left": "{device} has left: {reason}",
    "resumed": "{device} is back at round {round}, step {step}, {seconds:.1f} s after it was lost",
    "late": "{device} missed the round's deadline",
    "waiting": "zone {zone} waits for devices: {ready} ready, {needed} needed",
    "restored": "zone {zone} goes on with cloud round {cloud_round}",
    "round": "edge round {round}: loss {loss:.3f}",
    "zone_joined": "zone {zone} has joined",
    "zone_left": "zone {zone} has left",
    "cloud_lost": "the cloud is gone: {reason}",
    "cloud_round": "cloud round {round} done in {seconds:.1f} s",
    "saved": "wrote {path}",
    "lost": "{device} lost its edge host: {reason}",
    "stats": "{device}: {vmhwm_mb} MB at most, {steps} steps, {compute_s} s of computing",
    "restarted": "{tier} died ({reason}) and was started again ({number} of {most})",
    "refused": "{tier} refuses the other end of the line of {peer}: {text} ({count} times)",
    "answered": "zone {zone} has answered {exits}, in {compute_s} s of computing",
    "moved": "{device}: seam {from} -> {to} in edge round {round}, {reason}",
    "note": "{text}",
    "done": "done",
}


def describe(event: Event) -> str:
    """One line for a person."""
    kind = str(event.get("event", "?"))
    if kind == "evaluated":
        return _describe_evaluation(event)
    if kind == "link":
        return _describe_link(event)
    if kind == "bytes":
        return _describe_bytes(event)
    if kind == "inferred":
        return _describe_inference(event)
    try:
        return _WORDS[kind].format(**event)
    except (KeyError, ValueError, TypeError):  # an event of another version, or with a gap
        rest = ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
        return f"{kind}: {rest}" if rest else kind


def _describe_evaluation(event: Event) -> str:
    devices = event.get("devices", {})
    correct = sum(device["correct"] for device in devices.values())
    total = sum(device["total"] for device in devices.values())
    share = f"{100 * correct / total:.1f} %" if total else "no held-out samples"
    return f"zone {event.get('zone')} after cloud round {event.get('cloud_round')}: {share} right"


def _describe_inference(event: Event) -> str:
    rows = [
        f"{name}: {row['share']:.1%} of the samples, {row['accuracy']:.1%} right, "
        f"{row['median_ms']} ms (95 % within {row['p95_ms']} ms)"
        for name, row in event.get("exits", {}).items()
    ]
    traffic = f"{event.get('bytes_up')} bytes up, {event.get('bytes_down')} down"
    return "\n".join([f"{event.get('device')}, {event.get('samples')} samples; {traffic}", *rows])


def _describe_bytes(event: Event) -> str:
    """Sums; a program reads the rows."""
    sums = [
        f"{hop} {way} {sum(rows.values())}"
        for hop, ways in event.get("bytes", {}).items()
        for way, rows in ways.items()
    ]
    return f"bytes by cloud round {event.get('cloud_round')}: {', '.join(sums)}"


def _describe_link(event: Event) -> str:
    """The figures that this kind of link has."""
    names = {
        "bytes_sent": "bytes out",
        "bytes_received": "in",
        "retransmits": "sent again",
        "frames_damaged": "damaged",
        "frames_forged": "forged",
        "replayed": "replayed",
        "credit_stalls": "stalls",
        "losses": "losses",
    }
    found = [f"{event[key]} {name}" for key, name in names.items() if event.get(key) is not None]
    if event.get("rtt_us"):
        found.append(f"round trip {event['rtt_us'] / 1000:.1f} ms")
    if event.get("goodput_sent") is not None:
        found.append(f"goodput {event['goodput_sent']} B/s out, {event['goodput_received']} in")
    return (
        f"link to {event.get('peer')} ({event.get('link')}), {event.get('state')}: "
        f"{', '.join(found)}"
    )


def json_emit(event: Event) -> None:
    """One JSON document on a line of its own, at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def text_emit(event: Event) -> None:
    """The time of day and the words of the event."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {describe(event)}\n")
    sys.stdout.flush()


def emitter(format_: str) -> Emit:
    """format_: `json` or `text`."""
    return json_emit if format_ == "json" else text_emit
