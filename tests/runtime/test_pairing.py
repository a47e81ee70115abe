"""The agreement of a pairing in virtual time: over lossy lines, with every answer, both ends end
alike.
"""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest
from seamline.kernels._link import FrameDecoder
from seamline.runtime import pairing as module
from seamline.runtime.handshake import DEVICE, HOST
from seamline.runtime.keys import load_keys, make_keys
from seamline.runtime.pairing import NOT_WRITTEN, OTHER_KEY, Pairing

SECRET = bytes(range(16))
WAIT_MS = 60_000
ROLES = {"device": DEVICE, "host": HOST}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {"device": tmp_path / "device", "host": tmp_path / "host"}
    make_keys(found["device"], ["watch-1"])
    make_keys(found["host"], ["host-A"])
    return found


class Ends:
    """Both ends on a line that loses frames, and users who answer in time."""

    def __init__(self, folders, *, secret=(SECRET, SECRET), loss=0.0, seed=0, checks=(None, None)):
        names = {"device": "watch-1", "host": "host-A"}
        self.now, self._random, self._loss = 0, random.Random(seed), loss
        self.keys = {role: load_keys(folders[role], name) for role, name in names.items()}
        self.ends = {
            role: Pairing(
                self.keys[role], ROLES[role], check or (lambda name, public: None), psk, WAIT_MS
            )
            for role, psk, check in zip(names, secret, checks, strict=True)
        }
        self.answers: dict[str, bool | None] = {"device": True, "host": True}
        self.written: dict[str, tuple[str, str]] = {}
        self.cut = False
        self.said = b""

    def run(self, until_ms: int = WAIT_MS + 10_000) -> None:
        while self.now < until_ms and not all(end.over for end in self.ends.values()):
            for role, other in (("device", "host"), ("host", "device")):
                end = self.ends[role]
                if end.over:
                    continue
                self._carry(end.output(self.now), self.ends[other])
                if end.asking and self.answers[role] is not None:
                    end.answer(self.answers[role])
                if end.may_store:
                    self._write(role, end)
            waits = [end.wait(self.now) for end in self.ends.values() if not end.over]
            self.now += max(1, min([*waits, 10]))

    def _write(self, role: str, end: Pairing) -> None:
        assert end.peer is not None
        self.written[role] = (end.peer.name, end.peer.public)
        end.has_stored(self.now)

    def _carry(self, data: bytes, other: Pairing) -> None:
        self.said += data
        for frame in data.split(b"\0")[:-1]:
            if not self.cut and self._random.random() >= self._loss and not other.over:
                other.feed(frame + b"\0", self.now)

    def troubles(self) -> dict[str, str]:
        return {role: end.trouble for role, end in self.ends.items()}


def assert_paired(ends: Ends) -> None:
    assert ends.troubles() == {"device": "", "host": ""}
    assert ends.written == {
        "device": ("host-A", ends.keys["host"].public),
        "host": ("watch-1", ends.keys["device"].public),
    }


@pytest.mark.parametrize("secret", [(SECRET, SECRET), (None, None)], ids=["secret", "codes"])
@pytest.mark.parametrize("seed", range(6))
def test_two_ends_pair_over_a_line_that_loses_frames(folders, secret, seed):
    ends = Ends(folders, secret=secret, loss=0.15 if seed else 0.0, seed=seed)
    ends.run()
    assert_paired(ends)
    codes = {end.peer.code for end in ends.ends.values() if end.peer}
    assert len(codes) == 1
    assert all(end.over and end.exit_code == 0 for end in ends.ends.values())


def test_codes_differ_every_time(folders):
    codes = set()
    for _ in range(5):
        ends = Ends(folders, secret=(None, None))
        ends.run()
        codes |= {end.peer.code for end in ends.ends.values() if end.peer}
    assert len(codes) == 5


def test_nothing_is_written_before_both_have_said_yes(folders):
    ends = Ends(folders, secret=(None, None))
    ends.answers["host"] = None
    ends.run(20_000)
    assert ends.written == {} and not any(end.over for end in ends.ends.values())
    ends.answers["host"] = True
    ends.run()
    assert_paired(ends)


@pytest.mark.parametrize("refuser", ["device", "host"])
def test_a_no_ends_both(folders, refuser):
    ends = Ends(folders, secret=(None, None))
    ends.answers[refuser] = False
    ends.run()
    other = "host" if refuser == "device" else "device"
    assert ends.written == {}
    assert "you did not confirm" in ends.troubles()[refuser]
    assert "did not confirm: start again" in ends.troubles()[other]
    assert [end.exit_code for end in ends.ends.values()] == [6, 6]


def test_an_end_that_starts_again_at_the_question_ends_the_other(folders):
    """The code it showed was of the handshake before."""
    ends = Ends(folders, secret=(None, None))
    ends.answers = {"device": None, "host": None}
    ends.run(3000)
    assert all(end.asking for end in ends.ends.values())
    ends.ends["device"] = Ends(folders, secret=(None, None)).ends["device"]
    ends.answers["device"] = True
    ends.run()
    assert ends.written == {}
    assert "watch-1 has started again" in ends.troubles()["host"]
    assert "host-A did not confirm" in ends.troubles()["device"]


@pytest.mark.parametrize("end", ["device", "host"])
def test_a_changed_hello_pairs_nobody(folders, end):
    """Somebody on the line who rewrites what was offered: here it is only the random bytes."""
    ends = Ends(folders)
    carry = ends._carry

    def change(data, other):
        if other is not ends.ends[end]:
            body = FrameDecoder(600, raw=True).feed(data)
            data = b"".join(module.encode_body(rewrite(one)) for one in body)
        carry(data, other)

    def rewrite(body):
        if body[:2] != b"\x14\0":
            return body
        body = body[:10] + bytes([body[10] ^ 1]) + body[11:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    ends._carry = change
    ends.run()
    assert ends.written == {} and all(end.exit_code == 6 for end in ends.ends.values())


def test_somebody_in_the_middle_makes_the_codes_differ(folders, tmp_path):
    """She finishes a handshake with each end, with a key of her own under the other's name."""
    for role, name in (("device", "watch-1"), ("host", "host-A")):
        make_keys(tmp_path / f"her-{role}", [name])
    left = Ends({"device": folders["device"], "host": tmp_path / "her-host"}, secret=(None, None))
    right = Ends({"device": tmp_path / "her-device", "host": folders["host"]}, secret=(None, None))
    for ends in (left, right):
        ends.answers = {"device": None, "host": None}
        ends.run(3000)
    peers = left.ends["device"].peer, right.ends["host"].peer
    assert peers[0].code != peers[1].code
    assert [peer.name for peer in peers] == ["host-A", "watch-1"]


def test_secrets_that_differ_are_told_at_both_ends_and_soon(folders):
    ends = Ends(folders, secret=(SECRET, bytes(16)))
    ends.run()
    assert ends.written == {} and ends.now < 15_000
    assert all("secret" in text for text in ends.troubles().values()), ends.troubles()


def test_a_check_that_fails_tells_both_why(folders):
    def check(name, public):
        return OTHER_KEY, f"{name} has another key"

    ends = Ends(folders, checks=(None, check))
    ends.run()
    assert ends.written == {}
    assert ends.troubles()["host"] == "watch-1 has another key"
    assert "host-A has another key for watch-1" in ends.troubles()["device"]
    assert (ends.ends["host"].exit_code, ends.ends["device"].exit_code) == (3, 6)


def test_an_end_that_cannot_write_tells_the_other(folders):
    ends = Ends(folders)

    def refuse(role, end):
        if role == "device":
            end.stop("the disk is full", exit_code=3, reason=NOT_WRITTEN)
        else:
            Ends._write(ends, role, end)

    ends._write = refuse
    ends.run()
    assert ends.troubles()["device"] == "the disk is full"
    assert "watch-1 could not keep the key" in ends.troubles()["host"]


@pytest.mark.parametrize("secret", [(SECRET, SECRET), (None, None)], ids=["secret", "codes"])
def test_a_line_cut_at_any_time_ends_both_in_time(folders, secret):
    """What one end wrote may then be missing at the other, never a wrong key; nobody hangs."""
    for at in range(0, 1200, 60):
        ends = Ends(folders, secret=secret)
        ends.run(at)
        ends.cut = True
        ends.run()
        assert all(end.over for end in ends.ends.values()), at
        for role, kept in ends.written.items():
            other = "host" if role == "device" else "device"
            assert kept == (ends.keys[other].name, ends.keys[other].public)
            assert ends.ends[role].exit_code == 0


def test_nobody_is_told_when_the_wait_is_over(folders):
    ends = Ends(folders)
    ends.cut = True
    ends.run()
    assert ends.now >= WAIT_MS
    assert all("nobody answered" in text for text in ends.troubles().values())


def test_a_line_that_sends_back_what_we_send_is_told(folders):
    for role in ("device", "host"):
        end, now = Ends(folders).ends[role], 0
        while not end.over and now < 2 * WAIT_MS:
            end.feed(end.output(now), now)
            now += 50
        expected = "sends back what we send" if role == "device" else "nobody answered"
        assert expected in end.trouble and end.exit_code == 6


def test_clear_text_is_told_if_it_goes_on_and_not_if_it_was_in_a_buffer(folders):
    from seamline.kernels._link import encode_frame

    frame = encode_frame(b"\x11" + bytes(27))
    ends = Ends(folders)
    ends.ends["host"].feed(frame, 0)
    ends.run()
    assert_paired(ends)
    lonely, now = Ends(folders).ends["host"], 0
    while not lonely.over and now < WAIT_MS:
        lonely.feed(frame, now)
        lonely.output(now)
        now += 500
    assert "speaks clear text" in lonely.trouble and now < 5_000


@pytest.mark.parametrize("later", range(0, 3000, 300))
def test_two_devices_both_end_soon_though_one_sees_it_first(folders, later):
    first, second = (Ends(folders, seed=seed).ends["device"] for seed in range(2))
    for now in range(0, 20_000, 10):
        for end, other in ((first, second), (second, first)):
            if end.over or (end is second and now < later):
                continue
            data = end.output(now)
            if not other.over and now >= later:
                other.feed(data, now)
        if first.over and second.over:
            break
    assert now < 6000
    assert all("the other end is a device, too" in end.trouble for end in (first, second))


def test_bytes_of_any_kind_pair_nobody_and_break_nothing(folders):
    ends, rng = Ends(folders), random.Random(3)
    for end in ends.ends.values():
        for _ in range(300):
            end.feed(rng.randbytes(rng.randrange(1, 80)) + b"\0", 0)
            end.feed(module.encode_body(b"\x14" + rng.randbytes(rng.randrange(40))), 0)
            end.feed(module.encode_body(b"\x18" + rng.randbytes(rng.randrange(40))), 0)
    ends.run()
    assert_paired(ends)


def test_no_secret_goes_over_the_line(folders):
    ends = Ends(folders)
    ends.run()
    assert SECRET not in ends.said
    for keys in ends.keys.values():
        assert module.raw_key(keys.secret) not in ends.said
        assert module.raw_key(keys.public) not in ends.said  # nor who is who
