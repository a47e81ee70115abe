"""EF21: both ends have the same bits, what is lost is sent later, descent converges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from seamline.kernels import parcel
from seamline.kernels.errors import SeamError
from seamline.runtime.feedback import merge, packer, receive, send

F32 = NDArray[np.float32]


def largest(lacking: F32) -> bytes:
    """A biased compressor: the largest tenth, the rest lost."""
    kept = np.zeros_like(lacking)
    top = np.argsort(-np.abs(lacking))[: max(1, lacking.size // 10)]
    kept[top] = lacking[top]
    return parcel.pack(kept, "f32")


@pytest.mark.parametrize("codec", ["int8", "int4", "largest"])
def test_the_estimate_reaches_what_stands_still(codec: str) -> None:
    target = np.random.default_rng(1).normal(0, 1, 300).astype(np.float32)
    pack = largest if codec == "largest" else packer(codec)
    here = there = np.zeros(300, np.float32)
    errors = []
    for _ in range(15):
        data, here = send(here, target, pack)
        there = receive(there, data)
        assert here.tobytes() == there.tobytes()
        errors.append(float(np.linalg.norm(here - target)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5 * float(np.linalg.norm(target))


@pytest.mark.parametrize("feedback", [True, False])
def test_descent_with_a_biased_compressor_needs_the_feedback(feedback: bool) -> None:
    """Three workers whose sum is easy and whose largest entries cancel (the classic example of
    arXiv:2002.12410): the largest entry alone goes the wrong way, EF21 arrives."""
    a = np.array([[-3, 2, 2], [2, -3, 2], [2, 2, -3]], np.float64)
    x = np.ones(3)
    estimates = [np.zeros(3, np.float32) for _ in a]

    def one(lacking: F32) -> bytes:
        kept = np.zeros_like(lacking)
        at = int(np.abs(lacking).argmax())
        kept[at] = lacking[at]
        return parcel.pack(kept, "f32")

    for _ in range(3000):
        moved = np.zeros(3)
        for i, row in enumerate(a):
            gradient = (2 * row * (row @ x) + x / 2).astype(np.float32)
            start = estimates[i] if feedback else np.zeros(3, np.float32)
            _, estimates[i] = send(start, gradient, one)
            moved += estimates[i] / 3
        x = x - 0.005 * moved
        if np.linalg.norm(x) > 1e3:
            break
    assert (np.linalg.norm(x) < 1e-3) == feedback


def test_a_moving_target_is_followed() -> None:
    random = np.random.default_rng(3)
    target, estimate = np.zeros(200, np.float32), np.zeros(200, np.float32)
    for _ in range(50):
        target = target + random.normal(0, 0.1, 200).astype(np.float32)
        _, estimate = send(estimate, target, packer("int4", "stochastic", 7))
    assert np.linalg.norm(estimate - target) < 0.2 * np.linalg.norm(target)


def test_differences_are_merged_in_the_order_of_names() -> None:
    random = np.random.default_rng(4)
    children = {f"z{i}": random.normal(0, 1, 50).astype(np.float32) for i in range(5)}
    shares = dict.fromkeys(children, 0.2)
    start = random.normal(0, 1, 50).astype(np.float32)
    one = merge(start, children, shares)
    other = merge(start, dict(reversed(children.items())), dict(reversed(shares.items())))
    assert one.tobytes() == other.tobytes()
    np.testing.assert_allclose(one, start + np.mean(list(children.values()), 0), rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    estimate = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="expected shape"):
        send(estimate, np.zeros(5, np.float32), packer("int8"))
    with pytest.raises(ValueError, match="expected one parcel"):
        receive(estimate, parcel.pack(np.ones(5, np.float32), "int8"))
    with pytest.raises(ValueError, match="1 bytes behind"):
        receive(estimate, parcel.pack(np.ones(4, np.float32), "int8") + b"x")
    with pytest.raises(SeamError):
        receive(estimate, b"nothing")
    with pytest.raises(ValueError, match="adding up to 1"):
        merge(estimate, {"a": estimate}, {"a": 0.5})
