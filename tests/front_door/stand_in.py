"""A tier for the tests of local runs: speaks the events and behaves as told, needs nothing else.

The environment's STAND_IN is a JSON object: name of the tier -> what it does (`die`, `die once`,
`refuse`, `hang`, `stubborn`; else it ends well). It writes its process id into STAND_IN_LIVES.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from seamline.lifeline import tie_to_parent


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def name_of(words: list[str]) -> str:
    if words[0] == "link-proxy":
        return "lines"
    if words[0] == "host":
        return f"host-{words[words.index('--zone') + 1]}"
    return words[words.index("--id") + 1] if words[0] == "device" else words[0]


def main() -> int:
    tie_to_parent()
    name = name_of(sys.argv[1:])
    behaviour = json.loads(os.environ.get("STAND_IN", "{}")).get(name, "")
    lives = Path(os.environ["STAND_IN_LIVES"]) / name
    with lives.open("a") as file:
        file.write(f"{os.getpid()}\n")
    say(event="listening", address="tcp://127.0.0.1:1")
    if behaviour == "refuse":
        sys.stderr.write("error: port 5 is in use\n")
        return 4
    if behaviour == "die":
        sys.stderr.write("something odd\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "die once" and len(lives.read_text().split()) == 1:
        return 1
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour in ("hang", "stubborn") or name == "lines":
        threading.Event().wait(300)
    say(event="done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
