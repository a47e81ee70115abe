"""Every codec at the cut: a zone trains with it, and its names are the same everywhere."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from seamline.edge_host.fronts import F32Fronts
from seamline.kernels import parcel
from seamline.runtime.config import Codec, CodecSection, Job

from seamline import cli


def test_codecs_have_the_same_names_everywhere() -> None:
    assert set(typing.get_args(Codec)) == set(parcel.CODECS) == set(cli.CODECS)
    assert sorted(parcel.CODECS.values()) == list(range(len(parcel.CODECS)))


@pytest.mark.parametrize("codec", parcel.CODECS)
def test_a_zone_trains_with_it(world: Callable[..., Any], codec: str) -> None:
    zone = world(codec=codec, cloud_rounds=2)
    zone.run()
    found = zone.named("evaluated")[-1]["devices"].values()
    assert all(np.isfinite(device["loss"]) for device in found)
    assert sum(device["total"] for device in found) > 0


def act(activation: np.ndarray, codec: str) -> bytes:
    labels = np.zeros(len(activation), "<u2").tobytes()
    return len(activation).to_bytes(4, "little") + labels + parcel.pack(activation, codec, seed=3)


@pytest.mark.parametrize("up", parcel.SPARSE)
@pytest.mark.parametrize("down", parcel.SPARSE)
def test_a_sparse_gradient_has_the_places_of_the_activation(up: str, down: str) -> None:
    rng = np.random.default_rng(2)
    activation, gradient = rng.normal(size=(2, 4, 5, 6, 7)).astype(np.float32)
    fronts = F32Fronts(Job([], [], codec=CodecSection(up, down)), 10)
    body = act(activation, up)
    back, _ = parcel.unpack(fronts.gradient(gradient, body, 5))
    kept = parcel.unpack(body, 12)[0] != 0
    assert (back[~kept] == 0).all()
    step = np.ptp(np.append(gradient[kept], 0)) / 255
    assert np.abs(back - gradient)[kept].max() <= 1.01 * step


def test_a_sparse_gradient_of_a_dense_activation_has_its_own_places() -> None:
    gradient = np.random.default_rng(2).normal(size=(4, 5, 6, 7)).astype(np.float32)
    fronts = F32Fronts(Job([], [], codec=CodecSection("int8", "top10", "nearest")), 10)
    body = act(np.ones_like(gradient), "int8")
    assert fronts.gradient(gradient, body, 5) == parcel.pack(gradient, "top10", seed=5)
