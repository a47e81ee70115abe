"""Every gradient agrees with torch autograd (in float64) and with differences of the forward."""

import math

import numpy as np
import pytest
import torch
from seamline.kernels import f32
from torch.nn import functional

torch.set_num_threads(1)
COUNT = 40  # random shapes a test


def close(got, want, what):
    """Within 2e-5 of the largest value, for sums of some hundred float32 terms."""
    want = want.detach().numpy()
    scale = max(float(np.abs(want).max()), 1e-6)
    assert got.shape == want.shape, what
    assert float(np.abs(got - want).max()) <= 2e-5 * scale, what


def leaf(x):
    return torch.from_numpy(x).double().requires_grad_()


def pad(x, padding, value=0.0):
    """NHWC to NCHW with padding."""
    (top, bottom), (left, right) = padding
    return functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), value=value)


def nhwc(y):
    return y.permute(0, 2, 3, 1)


def differences(forward, moved, gradient, dy, *, step=0.25):
    """<dy, forward(moved + t d) - forward(moved - t d)> / 2t = <gradient, d> for a random d.

    A convolution is linear in each of its arguments, so the step may be large.
    """
    d = np.random.default_rng(7).standard_normal(moved.shape).astype(np.float32)
    high, low = forward(moved + step * d), forward(moved - step * d)
    slope = float(((high.astype(np.float64) - low) * dy).sum()) / (2 * step)
    want = float((gradient.astype(np.float64) * d).sum())
    size = float(np.sqrt(((gradient.astype(np.float64) * d) ** 2).sum()))
    assert abs(slope - want) <= 1e-3 * max(size, 1e-2), (slope, want)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_convolution_agrees_with_autograd(depthwise, rng, window):
    for _ in range(COUNT):
        shape, args = window()
        kernel = args.pop("kernel")
        out = shape[3] * int(rng.integers(1, 4)) if depthwise else int(rng.integers(1, 24))
        w_shape = (1, *kernel, out) if depthwise else (out, *kernel, shape[3])
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in (shape, w_shape, (out,)))
        xt, wt, bt = leaf(x), leaf(w), leaf(b)
        yt = nhwc(
            functional.conv2d(
                pad(xt, args["padding"]),
                wt.permute(3, 0, 1, 2) if depthwise else wt.permute(0, 3, 1, 2),
                bt,
                args["stride"],
                0,
                args["dilation"],
                groups=shape[3] if depthwise else 1,
            )
        )
        forward = f32.depthwise_conv2d if depthwise else f32.conv2d
        backward = f32.depthwise_conv2d_backward if depthwise else f32.conv2d_backward
        what = f"{shape} {w_shape} {args}"
        close(forward(x, w, b, **args), yt, what)
        dy = rng.standard_normal(yt.shape).astype(np.float32)
        yt.backward(torch.from_numpy(dy).double())
        dx, dw, db = backward(dy, x, w, **args)
        for got, tensor in ((dx, xt), (dw, wt), (db, bt)):
            close(got, tensor.grad, what)
        differences(lambda v, f=forward, w=w, a=args: f(v, w, **a), x, dx, dy)
        differences(lambda v, f=forward, x=x, a=args: f(x, v, **a), w, dw, dy)


def test_dense_agrees_with_autograd(rng):
    for _ in range(COUNT):
        n, wide, out = (int(v) for v in rng.integers(1, 40, 3))
        shapes = ((n, wide), (out, wide), (out,), (n, out))
        x, w, b, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
        xt, wt, bt = leaf(x), leaf(w), leaf(b)
        yt = functional.linear(xt, wt, bt)
        close(f32.dense(x, w, b), yt, shapes)
        yt.backward(torch.from_numpy(dy).double())
        dx, dw, db = f32.dense_backward(dy, x, w)
        for got, tensor in ((dx, xt), (dw, wt), (db, bt)):
            close(got, tensor.grad, shapes)
        differences(lambda v, w=w: f32.dense(v, w), x, dx, dy)
        differences(lambda v, x=x: f32.dense(x, v), w, dw, dy)


def test_max_pool_agrees_with_autograd(rng, window):
    for _ in range(COUNT):
        shape, args = window()
        x = rng.standard_normal(shape).astype(np.float32)
        xt = leaf(x)
        padded = pad(xt, args["padding"], -math.inf)
        yt = nhwc(
            functional.max_pool2d(padded, args["kernel"], args["stride"], 0, args["dilation"])
        )
        if torch.isinf(yt).any():  # a window of padding alone: torch has no answer, ours is 0
            continue
        close(f32.max_pool2d(x, **args), yt, f"{shape} {args}")
        dy = rng.standard_normal(yt.shape).astype(np.float32)
        yt.backward(torch.from_numpy(dy).double())
        close(f32.max_pool2d_backward(dy, x, **args), xt.grad, f"{shape} {args}")


def test_average_pool_agrees_with_autograd(rng, window):
    for _ in range(COUNT):
        shape, args = window()
        args["dilation"] = (1, 1)  # torch has no other
        x = rng.standard_normal(shape).astype(np.float32)
        xt = leaf(x)
        pool = (args["kernel"], args["stride"])
        ones = torch.ones(shape, dtype=torch.float64)
        inside = functional.avg_pool2d(pad(ones, args["padding"]), *pool)
        mean = functional.avg_pool2d(pad(xt, args["padding"]), *pool)
        yt = nhwc(torch.where(inside > 0, mean / inside.clamp(min=1e-9), 0.0))
        close(f32.average_pool2d(x, **args), yt, f"{shape} {args}")
        dy = rng.standard_normal(yt.shape).astype(np.float32)
        yt.backward(torch.from_numpy(dy).double())
        dx = f32.average_pool2d_backward(dy, shape, **args)
        close(dx, xt.grad, f"{shape} {args}")
        differences(lambda v, args=args: f32.average_pool2d(v, **args), x, dx, dy)


@pytest.mark.parametrize("ceiling", [math.inf, 6.0])
def test_relu_agrees_with_autograd(ceiling, rng):
    x = (rng.standard_normal((7, 33)) * 6).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    xt = leaf(x)
    yt = functional.relu6(xt) if ceiling == 6 else functional.relu(xt)
    y = f32.relu(x, ceiling)
    close(y, yt, "relu")
    yt.backward(torch.from_numpy(dy).double())
    close(f32.relu_backward(dy, y, ceiling), xt.grad, "relu backward")


def test_group_norm_agrees_with_autograd(rng):
    for _ in range(COUNT):
        groups, size = int(rng.integers(1, 5)), int(rng.integers(1, 20))
        n, h, w = (int(v) for v in rng.integers(1, 7, 3))
        if h * w * size < 4:  # the deviation of a few values is badly conditioned
            continue
        c = groups * size
        shapes = ((n, h, w, c), (c,), (c,), (n, h, w, c))
        x, gamma, beta, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
        xt, gt, bt = leaf(x), leaf(gamma), leaf(beta)
        yt = nhwc(functional.group_norm(xt.permute(0, 3, 1, 2), groups, gt, bt))
        y, saved = f32.group_norm(x, gamma, beta, groups)
        close(y, yt, shapes)
        yt.backward(torch.from_numpy(dy).double())
        gradients = f32.group_norm_backward(dy, x, saved, gamma)
        for got, tensor in zip(gradients, (xt, gt, bt), strict=True):
            close(got, tensor.grad, shapes)
        if h * w * size > 40:  # smooth enough for a step that float32 can see
            args = (gamma, beta, groups)
            norm = lambda v, args=args: f32.group_norm(v, *args)[0]  # noqa: E731
            differences(norm, x, gradients[0], dy, step=1e-3)


def test_the_loss_agrees_with_autograd(rng):
    for _ in range(COUNT):
        n, classes = int(rng.integers(1, 20)), int(rng.integers(2, 30))
        logits = (rng.standard_normal((n, classes)) * 5).astype(np.float32)
        labels = rng.integers(0, classes, n).astype(np.int32)
        xt = leaf(logits)
        want = functional.cross_entropy(xt, torch.from_numpy(labels).long(), reduction="none")
        loss, gradient = f32.softmax_cross_entropy(logits, labels)
        assert np.allclose(loss, want.detach().numpy(), rtol=1e-5, atol=1e-6)
        want.mean().backward()
        close(gradient, xt.grad, (n, classes))


def test_the_update_agrees_with_torch(rng):
    w = rng.standard_normal(50).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    v = np.zeros_like(w)
    for _ in range(5):
        dw = rng.standard_normal(50).astype(np.float32)
        parameter.grad = torch.from_numpy(dw)
        optimiser.step()
        f32.sgd(w, v, dw, 0.1, 0.9, 0.01)
    assert np.allclose(w, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
