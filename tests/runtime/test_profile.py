"""Profiles as files: what was written is read, what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime.budget import CODECS, Candidate, wire
from seamline.runtime.layer_time import codec_profile
from seamline.runtime.plan import LayerSpec
from seamline.runtime.profile import (
    Codec,
    Energy,
    Exit,
    Features,
    Link,
    Profile,
    ProfileError,
    Seam,
    Times,
    Unit,
    check_profile,
    load_profile,
    read_profile,
    save_profile,
)

TIMES = Times(0.001, 0.002, 0.003)


def small() -> Profile:
    features = Features((8, 8, 1), (4, 4, 4), (3, 3), (2, 2))
    units = (
        Unit("a", "conv2d", (0,), 64, 40, 576, TIMES, TIMES, features),
        Unit("b", "dense", (1,), 5, 325, 320, TIMES),
    )
    head = Unit("head", "dense", (1,), 5, 325, 320, TIMES, TIMES)
    return Profile(
        "net", "d", "e", 16, 64, units, (Seam(1, 1, "a", 900, 300, 160, 200, 200),),
        (Exit("early", 0, head, 0.9),), (Codec("int8", 60, 8, 1e-9, 1e-9, 1e-9, 1e-9),),
        Link(1e6, 2e6, 0.01, 0.02), Energy(1e-9, 1e-7, 1e-7, 0.1), ram=1000,
    )  # fmt: skip


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    save_profile(small(), path)
    assert load_profile(path) == small()
    assert json.loads(path.read_text())["format"] == 1


def changed(change: Callable[[Any], object]) -> bytes:
    document = json.loads(msgspec.json.encode(small()))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(format=2), "format"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.pop("units"), "units"),
        (lambda d: d.update(units=[]), "expected 1 to 4096 units"),
        (lambda d: d["units"][0].update(macs=-1), "macs"),
        (lambda d: d["units"][0].update(inputs=[1]), "expected inputs up to 0"),
        (lambda d: d["units"][0].update(inputs=[]), "expected inputs up to 0"),
        (lambda d: d["units"][1].update(inputs=[0]), "nothing reads what it makes"),
        (lambda d: d["units"][0]["device"].update(infer=-1.0), "infer"),
        (lambda d: d["units"][0]["device"].update(infer="now"), "infer"),
        (lambda d: d["seams"][0].update(units=3), "expected at most 2 units"),
        (lambda d: d["exits"][0].update(behind=2), "no unit 2"),
        (lambda d: d["exits"][0]["head"].update(inputs=[0]), "reads tensor 1 and nothing else"),
        (lambda d: d["exits"].append(d["exits"][0]), "two exits have one name"),
        (lambda d: d["codecs"].append(d["codecs"][0]), "two codecs have one name"),
        (lambda d: d["codecs"][0].update(bits=0), "bits"),
        (lambda d: d["link"].update(up=-1), "up"),
        (lambda d: d["link"].update(loss=1), "loss"),
        (lambda d: d.update(batch=0), "batch"),
    ],
)
def test_every_field_is_checked(change: Callable[[Any], object], text: str) -> None:
    with pytest.raises(ProfileError, match=text):
        read_profile(changed(change))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b"\x80\x04N."]
)
def test_what_is_no_profile_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ProfileError, match="seamline profile"):
        read_profile(data)


@pytest.mark.parametrize("name", ["infer", "forward", "backward"])
def test_a_time_that_is_not_finite_is_refused(name: str) -> None:
    wrong = msgspec.structs.replace(TIMES, **{name: float("inf")})
    units = (small().units[0], msgspec.structs.replace(small().units[1], edge=wrong))
    with pytest.raises(ProfileError, match="not finite"):
        check_profile(msgspec.structs.replace(small(), units=units))


def test_a_missing_and_an_endless_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "none.json")
    monkeypatch.setattr("seamline.runtime.profile.MOST_BYTES", 100)
    save_profile(small(), tmp_path / "p.json")
    with pytest.raises(ProfileError, match="at most 100 bytes"):
        load_profile(tmp_path / "p.json")


@pytest.mark.parametrize("name", CODECS["f32"])
def test_a_codec_knows_the_bytes_of_real_messages(name: str) -> None:
    codec = codec_profile(name, 1)
    for channels in (1, 7, 33):
        dense = LayerSpec("dense", 0, (1, 1, channels))
        sent = wire(Candidate(1, "x", [dense], (1, 1, 4)), 5, name)
        assert codec.size(5 * channels) + 2 * 5 == sent.up
        assert codec.size(5 * channels) + 4 == sent.down
    assert min(codec.device_pack, codec.device_unpack) > 0
    assert len(parcel.pack(np.zeros((1, 1, 1, 9), np.float32), name)) + 28 == codec.size(9)


def test_a_link_without_bandwidth_carries_nothing_forever() -> None:
    assert Link(0, 1e3).seconds(1) == float("inf")
    assert Link(0, 1e3).seconds(0) == 0
    assert Link(0, 1e3).seconds(1, down=True) == pytest.approx(0.008)
    assert Link(1e3, 1e3, 0.1, 0.5).seconds(1) == pytest.approx(0.016)
    assert Link(1e3, 1e3, 0.1, 0.5).turn == pytest.approx(0.2)
