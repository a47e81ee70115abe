"""`seamline pair`, both ends as processes on a cable: what they write is what a link then takes,
and whatever goes wrong is one line and an exit code.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from seamline.runtime.keys import fingerprint, load_keys
from seamline.runtime.link import Received, open_link, open_listener
from seamline.runtime.link_proxy import run_link_proxy

from seamline.cli import main

SECONDS = 30
CODE = re.compile(r"^code +((?:[A-Z2-7]{4}-){4}[A-Z2-7]{4})$", re.MULTILINE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


class Place:
    """Two machines: a folder of keys and an end of the cable for each, and perhaps a secret."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.keys = {"host-A": folder / "host", "watch-1": folder / "device"}
        self.lines = {name: f"serial:{folder / name}:921600" for name in self.keys}
        ready, stop = threading.Event(), threading.Event()
        ends = [(str(folder / "host-A"), str(folder / "watch-1"))]
        cable = threading.Thread(
            target=run_link_proxy, args=(ends, lambda _: ready.set(), stop), daemon=True
        )
        cable.start()
        stack.callback(cable.join, 5)
        stack.callback(stop.set)
        assert ready.wait(5)

    def secret(self, name: str = "secret") -> Path:
        path = self.folder / name
        if not path.exists():
            assert main(["pair", "--new-secret", str(path)]) == 0
        return path

    def start(self, end: str, options: list[str], own: str = "", stdin: int = subprocess.DEVNULL):
        """end: whose folder and line; own: the name it says, when that is another."""
        arguments = ["pair", str(self.keys[end]), "--as", own or end, "--line", self.lines[end]]
        process = subprocess.Popen(
            [sys.executable, "-m", "seamline", *arguments, "--wait", "20", *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(end_of, process)
        return process

    def run(self, *options: str, **secrets: Path) -> dict[str, tuple[int, str, str]]:
        """Both ends with a secret each, to their end: exit code, output, errors."""
        default = None if secrets else self.secret()
        started = {
            end: self.start(end, ["--secret-file", str(secrets.get(side, default)), *options])
            for end, side in (("host-A", "host"), ("watch-1", "device"))
        }
        return {end: ended(process) for end, process in started.items()}


def end_of(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def place(tmp_path: Path, stack: ExitStack) -> Place:
    return Place(tmp_path, stack)


def assert_paired(place: Place) -> None:
    host = load_keys(place.keys["host-A"], "host-A")
    device = load_keys(place.keys["watch-1"], "watch-1")
    assert host.peers == {"watch-1": device.public}
    assert device.peers == {"host-A": host.public}


def assert_nothing_written(place: Place) -> None:
    for own, folder in place.keys.items():
        assert {path.stem for path in folder.glob("*.public")} <= {own}


# ---- with a secret ----


def test_a_secret_pairs_both_ends_and_the_network_takes_the_keys(place, stack):
    found = place.run()
    secret = place.secret().read_text().splitlines()[1]
    for code, out, err in found.values():
        assert code == 0 and not errors(err), err
        for text in (secret, secret.replace("-", "")):
            assert text not in out + err
    assert_paired(place)
    host = load_keys(place.keys["host-A"], "host-A")
    assert fingerprint(host.public) in found["watch-1"][1]
    assert stat.S_IMODE((place.keys["watch-1"] / "watch-1.secret").stat().st_mode) == 0o600

    listener = open_listener("tcp://127.0.0.1:*", {}, name="host-A", keys=host)
    stack.callback(listener.close)
    keys = load_keys(place.keys["watch-1"], "watch-1")
    link = open_link(listener.address(), name="watch-1", keys=keys)
    stack.callback(link.close)
    link.send(b"over the network, with the key of the cable")
    until = time.monotonic() + SECONDS
    heard = []
    while not heard and time.monotonic() < until:
        heard = listener.poll(0.5)
    assert heard == [Received("watch-1", b"over the network, with the key of the cable")]


def test_pairing_again_changes_nothing(place):
    place.run()
    before = {p: p.read_bytes() for keys in place.keys.values() for p in keys.iterdir()}
    found = place.run("--format", "json", "--yes")
    for end, (code, out, err) in found.items():
        assert code == 0, err
        told = json.loads(out)
        assert (told["own"], told["confirmed"]) == (end, True)
    assert {p: p.read_bytes() for keys in place.keys.values() for p in keys.iterdir()} == before


def test_different_secrets_pair_nobody(place):
    found = place.run(host=place.secret("one"), device=place.secret("other"))
    for end, (code, out, err) in found.items():
        assert (code, out) == (6, ""), (end, err)
        assert len(errors(err)) == 1 and "secret" in errors(err)[0]
    assert_nothing_written(place)


def test_a_changed_key_is_refused_and_says_how_to_forget_the_old_one(place):
    place.run()
    for path in place.keys["watch-1"].glob("watch-1.*"):
        path.unlink()
    old = (place.keys["host-A"] / "watch-1.public").read_bytes()
    found = place.run()
    code, _, err = found["host-A"]
    assert code == 3 and len(errors(err)) == 1
    assert f"seamline keys forget {place.keys['host-A']} watch-1" in err
    code, _, err = found["watch-1"]
    assert code == 6 and "has another key for watch-1" in errors(err)[0]
    assert (place.keys["host-A"] / "watch-1.public").read_bytes() == old
    assert main(["keys", "forget", str(place.keys["host-A"]), "watch-1", "--yes"]) == 0
    assert [code for code, _, _ in place.run().values()] == [0, 0]
    assert_paired(place)


def test_another_name_than_the_expected_one_is_refused(place):
    secret = str(place.secret())
    host = place.start("host-A", ["--secret-file", secret, "--with", "watch-2"])
    device = place.start("watch-1", ["--secret-file", secret])
    code, _, err = ended(host)
    assert code == 6 and "the other end is watch-1, and host-A expects watch-2" in errors(err)[0]
    code, _, err = ended(device)
    assert code == 6 and "host-A does not expect watch-1" in errors(err)[0]
    assert_nothing_written(place)


def test_two_devices_say_so(place):
    secret = str(place.secret())
    ends = [
        place.start(end, ["--secret-file", secret], own=own)
        for end, own in (("host-A", "watch-2"), ("watch-1", "watch-1"))
    ]
    for code, _, err in (ended(end) for end in ends):
        assert code == 6 and "the other end is a device, too" in errors(err)[0]


def test_two_hosts_find_nobody(place):
    """A host only answers, so each of two can but say that no device has called."""
    secret = str(place.secret())
    ends = [
        place.start(end, ["--secret-file", secret, "--wait", "1"], own=own)
        for end, own in (("host-A", "host-A"), ("watch-1", "host-B"))
    ]
    for code, _, err in (ended(end) for end in ends):
        assert code == 6 and "nobody answered" in errors(err)[0]


def test_a_secret_at_one_end_only_is_told(place, stack):
    host = Person(place.start, "host-A", [], stack)
    device = place.start("watch-1", ["--secret-file", str(place.secret())])
    for process in (host.process, device):
        code, _, err = ended(process)
        assert code == 6 and "one end has --secret-file" in errors(err)[0], err


@pytest.mark.parametrize("end", ["host-A", "watch-1"])
def test_a_program_that_speaks_clear_text_on_the_line_is_told(place, stack, end):
    other = "watch-1" if end == "host-A" else "host-A"
    link = open_link(place.lines[other], name=other, keys=None)
    stack.callback(link.close)
    code, _, err = ended(place.start(end, ["--secret-file", str(place.secret())]))
    assert code == 6 and "speaks clear text: stop it there" in errors(err)[0]


def test_two_ends_pair_over_sockets(place, stack):
    """As behind terminal servers: both connect, something between them passes bytes on."""
    servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
    place.lines = {
        name: f"socket://127.0.0.1:{server.getsockname()[1]}"
        for name, server in zip(place.lines, servers, strict=True)
    }

    def carry():
        ends = [server.accept()[0] for server in servers]
        both = dict(zip(ends, ends[::-1], strict=True))
        while both:
            for one in select.select(list(both), [], [])[0]:
                data = one.recv(4096)
                if not data:
                    both.clear()
                    break
                both[one].sendall(data)
        for one in ends:
            one.close()

    relay = threading.Thread(target=carry, daemon=True)
    relay.start()
    assert [code for code, _, _ in place.run().values()] == [0, 0]
    assert_paired(place)
    relay.join(SECONDS)
    assert not relay.is_alive()


def test_a_cable_that_is_pulled_out_is_told(tmp_path, stack):
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    secret = tmp_path / "secret"
    assert main(["pair", "--new-secret", str(secret)]) == 0
    arguments = [str(tmp_path / "keys"), "--as", "watch-1", "--secret-file", str(secret)]
    line = f"socket://127.0.0.1:{server.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "seamline", "pair", *arguments, "--line", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(end_of, process)
    server.accept()[0].close()
    code, out, err = ended(process)
    assert (code, out) == (4, "") and "the line hung up" in errors(err)[0]


# ---- by comparing codes ----


class Person:
    """Somebody at a terminal of one end."""

    def __init__(self, start, end: str, arguments: list[str], stack: ExitStack) -> None:
        """start: of Place, or alike."""
        self._ours, terminal = pty.openpty()
        stack.callback(os.close, self._ours)
        self.process = start(end, arguments, stdin=terminal)
        os.close(terminal)
        self.seen = ""

    def reads_the_code(self) -> str:
        """What is on the screen when the question is there."""
        assert self.process.stderr is not None
        while "Type yes or no" not in self.seen:
            piece = os.read(self.process.stderr.fileno(), 4096).decode()
            assert piece, f"it ended: {self.seen}"
            self.seen += piece
        found = CODE.search(self.seen)
        assert found is not None, self.seen
        return found[1]

    def types(self, text: str) -> None:
        os.write(self._ours, f"{text}\n".encode())


def test_two_people_compare_codes_and_pair(place, stack):
    people = [Person(place.start, end, [], stack) for end in ("host-A", "watch-1")]
    codes = [person.reads_the_code() for person in people]
    assert codes[0] == codes[1]
    for person, end in zip(people, ("host-A", "watch-1"), strict=True):
        own = load_keys(place.keys[end], end).public
        assert all(fingerprint(own) in one.seen for one in people)
        assert_nothing_written(place)  # one yes is not enough
        person.types("yes")
    for person in people:
        code, out, err = ended(person.process)
        assert code == 0 and "paired" in out and not errors(err)
    assert_paired(place)


@pytest.mark.parametrize("answer", ["no", "", "N6WQ"])
def test_one_no_is_enough(place, stack, answer):
    host, device = (Person(place.start, end, [], stack) for end in ("host-A", "watch-1"))
    for person in (host, device):
        person.reads_the_code()
    device.types("yes")
    host.types(answer)
    code, _, err = ended(host.process)
    assert code == 6 and "you did not confirm" in errors(err)[0]
    code, _, err = ended(device.process)
    assert code == 6 and "host-A did not confirm" in errors(err)[0]
    assert_nothing_written(place)


def test_ctrl_c_at_the_question_ends_both_ends(place, stack):
    host, device = (Person(place.start, end, [], stack) for end in ("host-A", "watch-1"))
    for person in (host, device):
        person.reads_the_code()
    host.process.send_signal(signal.SIGINT)
    code, _, err = ended(host.process)
    assert code == 130 and "ended by Ctrl-C" in errors(err)[0]
    code, _, err = ended(device.process)
    assert code == 6 and "host-A did not confirm" in errors(err)[0]
    assert_nothing_written(place)


def test_a_killed_end_is_noticed(place, stack):
    host, device = (Person(place.start, end, [], stack) for end in ("host-A", "watch-1"))
    for person in (host, device):
        person.reads_the_code()
    host.process.kill()
    code, _, err = ended(device.process)
    assert code == 6 and "host-A is gone" in errors(err)[0]
    assert_nothing_written(place)


# ---- the page ----


def commands(page: str) -> list[list[str]]:
    """What the page tells a reader to type, in order."""
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.split(r"  +", line)[0].split()[1:] for line in lines if line.startswith("seamline ")]


def test_the_page_can_be_followed_to_the_letter(place, stack, tmp_path):
    """With a person at both ends, then a new secret and both ends with it, then the list."""
    page = (Path(__file__).parents[2] / "docs" / "pairing.md").read_text(encoding="utf-8")
    machines = {"host-A": tmp_path / "at-host", "watch-3": tmp_path / "at-device"}
    for machine in machines.values():
        machine.mkdir()
    job = machines["host-A"] / "job.toml"
    job.write_text(JOB.replace('"watch-1"', '"watch-3"'))
    ports = {
        "serial:/dev/ttyACM0:921600": place.lines["host-A"],
        "serial:/dev/ttyAMA0:921600": place.lines["watch-1"],
    }

    def type_in(where: str, arguments: list[str], stdin: int = subprocess.DEVNULL):
        process = subprocess.Popen(
            [sys.executable, "-m", "seamline", *(ports.get(one, one) for one in arguments)],
            cwd=machines[where],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(end_of, process)
        return process

    told = commands(page)
    by_hand = [Person(type_in, where, told[at], stack) for at, where in enumerate(machines)]
    assert len({person.reads_the_code() for person in by_hand}) == 1
    for person in by_hand:
        person.types("yes")
    assert [ended(person.process)[0] for person in by_hand] == [0, 0]

    assert ended(type_in("host-A", told[2]))[0] == 0
    name = told[2][-1]
    shutil.copy(machines["host-A"] / name, machines["watch-3"] / name)
    pair = [type_in(where, told[3 + at]) for at, where in enumerate(machines)]
    assert [ended(process)[0] for process in pair] == [0, 0]
    code, out, _ = ended(type_in("host-A", told[5]))
    assert code == 0 and re.search(r"^watch-3 .* join host-A as watch-3, by network", out, re.M)
    assert told[6] == ["device", "job.toml", "--id", "watch-3"] and len(told) == 7


# ---- alone, and mistakes ----


@pytest.mark.parametrize("end", ["host-A", "watch-1"])
def test_nobody_there_is_told_when_the_wait_is_over(place, end):
    process = place.start(end, ["--secret-file", str(place.secret()), "--wait", "1"])
    code, out, err = ended(process)
    assert (code, out) == (6, "") and "nobody answered" in errors(err)[0]


def test_ctrl_c_while_waiting_is_one_line(place):
    process = place.start("host-A", ["--secret-file", str(place.secret())])
    assert process.stderr is not None and "waiting for" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out) == (130, "") and errors(err) == ["error: ended by Ctrl-C"]


def test_a_new_secret_is_private_and_never_replaced(tmp_path, capsys):
    path = tmp_path / "secret"
    assert main(["pair", "--new-secret", str(path)]) == 0
    text = path.read_text()
    digits = text.splitlines()[1].replace("-", "")
    assert re.fullmatch(r"[0-9a-f]{32}", digits)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["pair", "--new-secret", str(path)]) == 3
    out, err = capsys.readouterr()
    assert path.read_text() == text and "is there already" in err
    assert text.splitlines()[1] not in out + err and digits not in out + err


SECRETS = {
    # name: (text, mode, words of the line)
    "readable by others": ("ab" * 16, 0o640, "chmod 600"),
    "too short": ("ab" * 15, 0o600, "expected 32 hex digits"),
    "too long": ("ab" * 17, 0o600, "expected 32 hex digits"),
    "no digits": ("only words\n", 0o600, "expected 32 hex digits"),
    "empty": ("", 0o600, "expected 32 hex digits"),
}


@pytest.mark.parametrize("case", SECRETS.values(), ids=SECRETS.keys())
def test_a_wrong_secret_file_is_refused_without_a_word_of_it(tmp_path, capsys, case):
    text, mode, words = case
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    arguments = ["pair", str(tmp_path), "--as", "host-A", "--line", "serial:/no/port:9600"]
    assert main([*arguments, "--secret-file", str(path)]) == 3
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and (not text or text.strip() not in err)


MISTAKES = {
    # name: (arguments after `pair`, exit code, words of the line)
    "nothing": ([], 2, "a job file or a key folder is needed"),
    "no name": (["{keys}"], 2, "--as NAME is needed"),
    "no line": (["{keys}", "--as", "watch-1"], 2, "--line is needed"),
    "no line in the job": (["{job}", "--as", "host-A"], 2, "or --with DEVICE"),
    "no such device": (["{job}", "--as", "watch-9", "{line}"], 2, "no device 'watch-9'"),
    "no such zone": (["{job}", "--as", "host-Z", "{line}"], 2, "no zone 'Z'"),
    "another zone's device": (
        ["{job}", "--as", "host-A", "--with", "watch-2", "{line}"],
        2,
        "joins watch-1 only",
    ),
    "two devices": (
        ["{keys}", "--as", "watch-1", "--with", "watch-2", "{line}"],
        2,
        "both devices",
    ),
    "the cloud": (["{keys}", "--as", "cloud", "{line}"], 2, "the cloud has none"),
    "a path as a name": (["{keys}", "--as", "../x", "{line}"], 3, "cannot be the name"),
    "nobody to ask": (["{keys}", "--as", "watch-1", "{line}"], 2, "--secret-file"),
    "yes to anybody": (["{keys}", "--as", "watch-1", "{line}", "--yes"], 2, "would trust"),
    "no secret file": (
        ["{keys}", "--as", "watch-1", "{line}", "--secret-file", "/no/file"],
        3,
        "/no/file",
    ),
    "no port": (
        ["{keys}", "--as", "watch-1", "{line}", "--secret-file", "{secret}"],
        4,
        "no serial port /no/port",
    ),
    "no line address": (
        ["{keys}", "--as", "watch-1", "--line", "tcp://a:1", "--secret-file", "{secret}"],
        2,
        "serial:PATH:BAUD",
    ),
    "no wait": (["{keys}", "--wait", "0"], 2, "a whole number from 1"),
    "no such job": (["none.toml", "--as", "watch-1"], 2, "no job file"),
}

JOB = """
[[zones]]
name = "A"
address = "tcp://127.0.0.1:5710"
[[zones]]
name = "B"
address = "tcp://127.0.0.1:5711"
[[devices]]
id = "watch-1"
zone = "A"
[[devices]]
id = "watch-2"
zone = "B"
link = "serial:/no/device:9600"
host_link = "serial:/no/host:9600"
"""


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(tmp_path, capsys, monkeypatch, case):
    arguments, code, words = case
    job, secret = tmp_path / "job.toml", tmp_path / "secret"
    job.write_text(JOB)
    secret.write_text("ab" * 16)
    secret.chmod(0o600)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 the test ends first
    monkeypatch.chdir(tmp_path)
    names = {"job": job, "keys": tmp_path / "keys", "secret": secret}
    given: list[str] = []
    for one in arguments:
        line = ["--line", "serial:/no/port:9600"]
        given += line if one == "{line}" else [one.format(**names)]
    try:
        found = main(["pair", *given])
    except SystemExit as end:  # how argparse leaves
        found = int(end.code or 0)
    err = capsys.readouterr().err
    assert found == code and words in err and err.startswith("error: ") and err.count("\n") == 1


def test_the_job_knows_lines_and_names(tmp_path, capsys):
    """Neither --line nor --with is needed where the job has one line of that end."""
    job, secret = tmp_path / "job.toml", tmp_path / "secret"
    job.write_text(JOB)
    secret.write_text("ab" * 16)
    secret.chmod(0o600)
    for own, port in (("host-B", "/no/host"), ("watch-2", "/no/device")):
        assert main(["pair", str(job), "--as", own, "--secret-file", str(secret)]) == 4
        assert f"no serial port {port}" in capsys.readouterr().err
