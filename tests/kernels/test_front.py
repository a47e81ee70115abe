"""The front against torch, and plans from outside against everything they can get wrong."""

from __future__ import annotations

import struct
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels import SeamError
from seamline.kernels.front import Front, check_plan
from seamline.runtime.plan import LayerSpec, PlanError, build_plan, read_plan

F = torch.nn.functional
PAD = ((1, 1), (1, 1))

RESIDUAL = [
    LayerSpec("conv2d", 0, (8, 8, 8), kernel=(3, 3), padding=PAD),
    LayerSpec("group_norm", 1, (8, 8, 8), groups=2),
    LayerSpec("relu", 2, (8, 8, 8)),
    LayerSpec("depthwise", 3, (8, 8, 8), kernel=(3, 3), padding=PAD),
    LayerSpec("conv2d", 4, (8, 8, 8), has_bias=False),
    LayerSpec("add", 5, (8, 8, 8), second_input=3),
    LayerSpec("relu", 6, (8, 8, 8), ceiling=6.0),
    LayerSpec("max_pool", 7, (4, 4, 8), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("average_pool", 8, (2, 2, 8), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("flatten", 9, (1, 1, 32)),
    LayerSpec("dense", 10, (1, 1, 5)),
]


def filled(layers, shape, batch, seed=0):
    front = Front(build_plan(layers, shape, batch))
    rng = np.random.default_rng(seed)
    front.params[:] = rng.normal(0, 0.3, len(front.params)).astype(np.float32)
    return front, rng


def torch_residual(p, x):
    """The same network in torch, reading the plan's flat parameters."""
    at = 0

    def take(*shape):
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return p[at - size : at].reshape(shape)

    y = F.conv2d(x, take(8, 3, 3, 3).permute(0, 3, 1, 2), take(8), padding=1)
    y = F.relu(F.group_norm(y, 2, take(8), take(8)))
    z = F.conv2d(y, take(3, 3, 8).permute(2, 0, 1)[:, None], take(8), padding=1, groups=8)
    z = F.conv2d(z, take(8, 1, 1, 8).permute(0, 3, 1, 2)) + y
    z = F.avg_pool2d(F.max_pool2d(F.relu6(z), 2), 2)
    return F.linear(z.permute(0, 2, 3, 1).flatten(1), take(5, 32), take(5))


def test_a_residual_network_has_torchs_outputs_losses_and_gradients():
    front, rng = filled(RESIDUAL, (8, 8, 3), 4)
    for n in (4, 3):
        x = rng.normal(size=(n, 8, 8, 3)).astype(np.float32)
        labels = rng.integers(0, 5, n)
        y = front.forward(x)
        loss, _ = front.loss(labels)
        front.backward()
        p = torch.tensor(front.params.copy(), requires_grad=True)
        out = torch_residual(p, torch.tensor(x).permute(0, 3, 1, 2))
        want = F.cross_entropy(out, torch.tensor(labels))
        want.backward()
        np.testing.assert_allclose(y.reshape(n, 5), out.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert loss == pytest.approx(want.item(), rel=1e-5)
        np.testing.assert_allclose(front.gradients, p.grad.numpy(), rtol=2e-4, atol=2e-6)


def test_momentum_and_decay_follow_torchs_sgd():
    front, rng = filled(RESIDUAL, (8, 8, 3), 4)
    p = torch.tensor(front.params.copy(), requires_grad=True)
    sgd = torch.optim.SGD([p], 0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(10):
        x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
        labels = rng.integers(0, 5, 4)
        front.forward(x)
        front.loss(labels)
        front.backward()
        front.update(0.05, 0.9, 1e-3)
        sgd.zero_grad()
        F.cross_entropy(
            torch_residual(p, torch.tensor(x).permute(0, 3, 1, 2)), torch.tensor(labels)
        ).backward()
        sgd.step()
    np.testing.assert_allclose(front.params, p.detach().numpy(), rtol=2e-3, atol=2e-5)


def test_nothing_of_a_poisoned_arena_reaches_a_result():
    clean, rng = filled(RESIDUAL, (8, 8, 3), 4)
    dirty, _ = filled(RESIDUAL, (8, 8, 3), 4)
    dirty.arena[2 * ((4 * len(dirty.params) + 15) & ~15) :] = (
        0xFF  # all but weights and momentum: NaN
    )
    x = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    results = []
    for front in (clean, dirty):
        y = front.forward(x)
        front.loss(np.zeros(3))
        front.backward()
        results.append((y.tobytes(), front.gradients.tobytes()))
    assert results[0] == results[1]


def test_the_printed_ram_is_the_ram_used():
    plan = build_plan(RESIDUAL, (8, 8, 3), 4)
    front = Front(plan)
    assert sum(read_plan(plan).sections().values()) == front.arena_size == len(front.arena)


def test_the_arena_is_smaller_than_all_arrays_side_by_side():
    plan = read_plan(build_plan(RESIDUAL, (8, 8, 3), 4))
    apart = 2 * sum(4 * 4 * int(np.prod(shape)) for shape in plan.shapes)
    assert plan.sections()["activations"] < 0.75 * apart


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (LayerSpec("lstm", 0, (1, 1, 5)), "expected one of"),
        (LayerSpec("relu", 3, (8, 8, 3)), "not made before"),
        (LayerSpec("relu", 0, (8, 8, 4)), "shapes do not fit"),
        (LayerSpec("conv2d", 0, (9, 8, 4), kernel=(3, 3), padding=PAD), "shapes do not fit"),
        (LayerSpec("conv2d", 0, (8, 8, 4), kernel=(300, 3)), "1 to 255"),
        (LayerSpec("conv2d", 0, (8, 8, 4), stride=(0, 1)), "1 to 255"),
        (LayerSpec("max_pool", 0, (8, 8, 3), padding=((-1, 1), (0, 0))), "0 to 255"),
        (LayerSpec("depthwise", 0, (8, 8, 4)), "a multiple of 3 channels, got 4"),
        (LayerSpec("dense", 0, (1, 1, 70000)), "each 1 to 65535"),
        (LayerSpec("dense", 0, (1, 1, 60000)), "over its limit"),
        (LayerSpec("add", 0, (8, 8, 3), second_input=None), "two tensors of one shape"),
        (LayerSpec("group_norm", 0, (8, 8, 3), groups=2), "2 groups do not divide 3"),
    ],
)
def test_layers_that_fit_nowhere_are_refused_in_words(layer, words):
    with pytest.raises(PlanError, match=words):
        build_plan([layer], (8, 8, 3), 2)


@pytest.mark.parametrize(
    ("shape", "batch", "words"),
    [
        ((8, 8, 0), 2, "the input: expected"),
        ((8, 8), 2, "the input: expected"),
        ((8, 8, 3), 0, "1 to 4096"),
        ((8, 8, 3), 70000, "1 to 4096"),
    ],
)
def test_an_impossible_input_or_batch_is_refused_in_words(shape, batch, words):
    with pytest.raises(PlanError, match=words):
        build_plan(RESIDUAL, shape, batch)


def test_a_layer_that_nothing_reads_is_refused():
    layers = [LayerSpec("dense", 0, (1, 1, 4)), LayerSpec("dense", 0, (1, 1, 3))]
    with pytest.raises(PlanError, match=r"layer 0 \(dense\): nothing reads"):
        build_plan(layers, (1, 1, 5), 2)


# ---- random networks: against torch, and against a plan that shares no memory ----


@st.composite
def networks(draw):
    """(layers, input shape): a chain with pools, norms and residual additions anywhere."""
    shapes = [(draw(st.integers(1, 7)), draw(st.integers(2, 8)), draw(st.sampled_from([2, 4])))]
    layers = []
    spatial, flat = draw(st.sampled_from([(1, 0), (3, 1), (5, 2), (7, 3), (0, 3)]))
    for i in range(spatial + flat):
        spec = draw_layer(draw, layers, shapes, i >= spatial)
        layers.append(spec)
        shapes.append(spec.output_shape)
    return layers, shapes[0]


def draw_layer(draw, layers, shapes, flat):
    at = len(layers)
    h, w, c = here = shapes[at]
    alike = [t for t in range(at) if shapes[t] == here]
    kinds = ["relu", "relu6", *(["add"] if alike else [])]
    if flat:
        kinds += ["dense", "flatten"]
    else:
        kinds += ["conv2d", "depthwise", "max_pool", "average_pool"]
        kinds += ["group_norm"] if h * w > 1 else []  # torch norms no single value
    kind = draw(st.sampled_from(kinds))
    simple = {
        "relu": LayerSpec("relu", at, here),
        "relu6": LayerSpec("relu", at, here, ceiling=6.0),
        "flatten": LayerSpec("flatten", at, (1, 1, h * w * c)),
    }
    if kind in simple:
        spec = simple[kind]
    elif kind == "add":
        spec = LayerSpec("add", at, here, second_input=draw(st.sampled_from(alike)))
    elif kind == "group_norm":
        spec = LayerSpec("group_norm", at, here, groups=draw(st.sampled_from([1, 2, c])))
    elif kind == "dense":
        made = (1, 1, draw(st.integers(1, 6)))
        spec = LayerSpec("dense", at, made, has_bias=draw(st.booleans()))
    else:
        spec = draw_window(draw, kind, at, here)
    return spec


def draw_window(draw, kind, at, here):
    kernel = tuple(draw(st.integers(1, min(3, here[axis]))) for axis in (0, 1))
    stride = tuple(draw(st.integers(1, 2)) for _ in (0, 1))
    pads = tuple((0, 0) if kind.endswith("pool") else (k // 2, k // 2) for k in kernel)
    made = [(here[a] + sum(pads[a]) - kernel[a]) // stride[a] + 1 for a in (0, 1)]
    channels = draw(st.sampled_from([2, 4])) if kind == "conv2d" else here[2]
    bias = draw(st.booleans())
    return LayerSpec(
        kind, at, (*made, channels), kernel=kernel, stride=stride, padding=pads, has_bias=bias
    )


def torch_network(layers, p, x):
    """The layers in torch, reading the flat parameters p; x and the result are NHWC."""
    tensors, at = [x], 0

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return p[at - int(np.prod(shape)) : at].reshape(shape)

    for spec in layers:
        y = tensors[spec.input]
        n, c, out = len(y), y.shape[3], spec.output_shape[2]
        planes = y.permute(0, 3, 1, 2)
        how = {"stride": spec.stride, "padding": (spec.padding[0][0], spec.padding[1][0])}
        if spec.kind == "conv2d":
            weights = take(out, *spec.kernel, c).permute(0, 3, 1, 2)
            bias = take(out) if spec.has_bias else None
            y = F.conv2d(planes, weights, bias, **how).permute(0, 2, 3, 1)
        elif spec.kind == "depthwise":
            weights = take(*spec.kernel, c).permute(2, 0, 1)[:, None]
            bias = take(c) if spec.has_bias else None
            y = F.conv2d(planes, weights, bias, groups=c, **how).permute(0, 2, 3, 1)
        elif spec.kind == "dense":
            weights = take(out, y[0].numel())
            y = F.linear(y.reshape(n, -1), weights, take(out) if spec.has_bias else None)
            y = y.reshape(n, 1, 1, out)
        elif spec.kind == "relu":
            y = y.clamp(0, spec.ceiling)
        elif spec.kind == "add":
            y = y + tensors[spec.second_input]
        elif spec.kind == "group_norm":
            y = F.group_norm(planes, spec.groups, take(c), take(c)).permute(0, 2, 3, 1)
        elif spec.kind == "flatten":
            y = y.reshape(n, 1, 1, -1)
        else:
            pool = F.max_pool2d if spec.kind == "max_pool" else F.avg_pool2d
            y = pool(planes, spec.kernel, spec.stride).permute(0, 2, 3, 1)
        tensors.append(y)
    return tensors[-1]


def apart(plan: bytes) -> bytes:
    """The same plan with a place of its own for every array: nothing shared, nothing in place."""
    out = bytearray(plan)
    tensors, layers = struct.unpack_from("<HH", plan, 10)[0], struct.unpack_from("<H", plan, 8)[0]
    batch, end = struct.unpack_from("<H", plan, 12)[0], struct.unpack_from("<I", plan, 24)[0]
    for t in range(tensors):
        at = 48 + 20 * t
        size = -(-4 * batch * struct.unpack_from("<I", plan, at + 16)[0] // 16) * 16
        gradient = 0xFFFFFFFF if t == 0 else end + size
        struct.pack_into("<II", out, at + 8, end, gradient)
        end += 2 * size
    for i in range(layers):
        at = 48 + 20 * tensors + 48 * i
        groups = struct.unpack_from("<H", plan, at + 18)[0]
        if plan[at] == 8:
            struct.pack_into("<I", out, at + 28, end)
            end += -(-8 * batch * groups // 16) * 16
    struct.pack_into("<I", out, 24, end)
    return with_crc(out)


def poisoned(plan: bytes, params) -> Front:
    """A front whose working memory is NaN, with canaries on both sides of its arena."""
    front = Front(plan)
    front.params[:] = params
    front.arena[2 * ((4 * len(params) + 15) & ~15) :] = 0xFF
    start = front.arena.ctypes.data - front.arena.base.ctypes.data
    front.arena.base[:start] = 0xA5
    front.arena.base[start + front.arena_size :] = 0xA5
    return front


def canaries_sing(front: Front) -> bool:
    start = front.arena.ctypes.data - front.arena.base.ctypes.data
    raw = front.arena.base
    return bool((raw[:start] == 0xA5).all() and (raw[start + front.arena_size :] == 0xA5).all())


@settings(max_examples=300)
@given(networks(), st.integers(1, 3), st.integers(0, 2**16), st.data())
def test_any_network_has_torchs_gradients_in_shared_and_unshared_memory(network, n, seed, data):
    layers, shape = network
    again = data.draw(st.sets(st.integers(0, max(len(layers) - 2, 0)), max_size=len(layers) - 1))
    rng = np.random.default_rng(seed)
    plan = build_plan(layers, shape, 3)
    remade = build_plan(layers, shape, 3, again=again)
    params = rng.normal(0, 0.5, read_plan(plan).parameters).astype(np.float32)
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    dy = rng.normal(size=(n, *layers[-1].output_shape)).astype(np.float32)
    results = []
    for made in (plan, apart(plan), remade):
        front = poisoned(made, params)
        y = front.forward(x)
        front.backward(dy)
        assert canaries_sing(front)
        results.append((y, front.gradients.copy()))
    assert results[0][0].tobytes() == results[1][0].tobytes() == results[2][0].tobytes()
    for _, gradients in results[1:]:
        assert results[0][1].tobytes() == gradients.tobytes(), "memory was reused too early"
    p = torch.tensor(params, dtype=torch.float64, requires_grad=True)
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = torch_network(layers, p, inputs)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    gradient = np.zeros(0) if p.grad is None else p.grad.numpy()
    y, found = results[0]
    scale = 1 + np.abs(want.detach().numpy()).max()
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-3, atol=1e-4 * scale)
    np.testing.assert_allclose(
        found, gradient, rtol=5e-3, atol=1e-3 * (1 + np.abs(gradient).max(initial=0))
    )


def test_a_flatten_behind_a_relu_takes_no_memory():
    layers = [
        LayerSpec("conv2d", 0, (4, 4, 8)),
        LayerSpec("relu", 1, (4, 4, 8)),
        LayerSpec("flatten", 2, (1, 1, 128)),
    ]
    with_flatten = read_plan(build_plan([*layers, LayerSpec("dense", 3, (1, 1, 2))], (4, 4, 3), 4))
    without = read_plan(build_plan([*layers[:2], LayerSpec("dense", 2, (1, 1, 2))], (4, 4, 3), 4))
    assert with_flatten.arena_bytes == without.arena_bytes


def test_backward_needs_a_forward_of_its_own():
    front, rng = filled(RESIDUAL, (8, 8, 3), 2)
    front.forward(rng.normal(size=(2, 8, 8, 3)).astype(np.float32))
    front.loss([0, 1])
    front.backward()
    with pytest.raises(ValueError, match="forward of its own"):
        front.backward()
    with pytest.raises(ValueError, match="forward of its own"):
        front.loss([0, 1])


def with_crc(plan: bytearray) -> bytes:
    plan[44:48] = bytes(4)
    plan[44:48] = struct.pack("<I", crc32(plan))
    return bytes(plan)


def test_a_flipped_bit_is_seen_by_the_checksum():
    plan = bytearray(build_plan(RESIDUAL, (8, 8, 3), 4))
    plan[100] ^= 4
    with pytest.raises(SeamError) as caught:
        check_plan(bytes(plan))
    assert caught.value.status == -6


@settings(max_examples=600)
@given(st.data())
def test_a_hostile_plan_with_a_good_checksum_is_refused_or_runs_inside_its_arena(data):
    plan = bytearray(build_plan(RESIDUAL, (8, 8, 3), 2))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(plan) - 1))
        plan[at] = data.draw(st.integers(0, 255))
    hostile = with_crc(plan)
    try:
        check_plan(hostile)
    except SeamError:
        return
    front = poisoned(hostile, np.zeros(read_plan(hostile).parameters, np.float32))
    front.forward(np.ones((1, *front.input_shape), np.float32))
    front.backward(np.ones((1, *front.output_shape), np.float32))
    front.update(0.1)
    assert canaries_sing(front)


LAYERS_AT = 48 + 20 * (len(RESIDUAL) + 1)


VALUE, GRADIENT = 8, 12  # where a tensor's row says so


@pytest.mark.parametrize(
    ("name", "offset", "layout", "value", "status"),
    [
        ("another version", 4, "<H", 2, -5),
        ("integers, which this version does not know", 6, "<B", 1, -8),
        ("no batch", 12, "<H", 0, -7),
        ("another input tensor", 14, "<H", 1, -1),
        ("another output tensor", 16, "<H", 3, -1),
        ("reserved bytes in the header", 40, "<I", 1, -1),
        ("an arena that ends too soon", 24, "<I", 64, -7),
        ("scratch over the parameters", 28, "<I", 0, -7),
        ("a tensor without values", 48 + 20, "<H", 0, -9),
        ("a tensor's flags", 48 + 6, "<H", 1, -1),
        ("a tensor over the parameters", 48 + 8, "<I", 0, -7),
        ("a tensor that is not aligned", 48 + 8, "<I", 100004, -7),
        ("a tensor at the very end", 48 + 8, "<I", 0xFFFFFFF0, -7),
        ("no gradient for a layer's output", 48 + 20 + 12, "<I", 0xFFFFFFFF, -1),
        ("an unknown layer", LAYERS_AT, "<B", 77, -8),
        ("a layer that reads its own output", LAYERS_AT + 2, "<H", 1, -1),
        ("a layer that writes elsewhere", LAYERS_AT + 6, "<H", 2, -1),
        ("no stride", LAYERS_AT + 10, "<B", 0, -9),
        ("parameters behind the last", LAYERS_AT + 20, "<I", 0xFFFFFFF0, -7),
        ("fewer parameters", LAYERS_AT + 24, "<I", 3, -9),
        ("reserved bytes in a layer", LAYERS_AT + 40, "<I", 1, -1),
        ("an unknown flag of a layer", LAYERS_AT + 1, "<B", 2, -1),
        ("a last layer that is made again", LAYERS_AT + 10 * 48 + 1, "<B", 1, -1),
        ("statistics over the parameters", LAYERS_AT + 48 + 28, "<I", 0, -7),
        ("no groups", LAYERS_AT + 48 + 18, "<H", 0, -9),
        ("a ceiling that is NaN", LAYERS_AT + 96 + 32, "<f", float("nan"), -9),
        ("a second input of what reads one", LAYERS_AT + 4, "<H", 0, -1),
        ("a bias that is neither there nor not", LAYERS_AT + 36, "<B", 2, -1),
        ("an addition of what is not there yet", LAYERS_AT + 5 * 48 + 4, "<H", 9, -1),
        ("a layer that nothing reads", LAYERS_AT + 4 * 48 + 2, "<H", 3, -1),
    ],
)
def test_a_plan_with_one_lie_is_refused(name, offset, layout, value, status):
    plan = bytearray(apart(build_plan(RESIDUAL, (8, 8, 3), 4)))
    struct.pack_into(layout, plan, offset, value)
    with pytest.raises(SeamError) as caught:
        check_plan(with_crc(plan))
    assert caught.value.status == status, name


@pytest.mark.parametrize(
    ("name", "tensor", "field", "onto", "shift"),
    [
        ("a convolution in place", 0, VALUE, (1, VALUE), 0),
        ("a convolution over a part of its input", 0, VALUE, (1, VALUE), 16),
        ("a ReLU over a part of its input", 3, VALUE, (2, VALUE), -16),
        ("an addition over a part of its input", 6, VALUE, (5, VALUE), -16),
        ("gradients of a convolution in place", 5, GRADIENT, (4, GRADIENT), 0),
        ("gradients of a ReLU over a part", 7, GRADIENT, (6, GRADIENT), -16),
        ("a gradient over the values it needs", 4, GRADIENT, (4, VALUE), 0),
        ("a gradient of a ReLU over its output", 2, GRADIENT, (3, VALUE), 0),
        ("gradients of a pool in place", 9, GRADIENT, (8, GRADIENT), 16),
        ("an input in the scratch memory", 0, VALUE, None, 0),
    ],
)
def test_a_plan_whose_kernels_would_write_what_they_read_is_refused(
    name, tensor, field, onto, shift
):
    plan = bytearray(build_plan(RESIDUAL, (8, 8, 3), 4))
    arena = struct.unpack_from("<I", plan, 24)[0]
    target = 28 if onto is None else 48 + 20 * onto[0] + onto[1]
    struct.pack_into("<I", plan, 24, 4 * arena)  # room enough: only the overlap is wrong
    check_plan(with_crc(plan))
    place = struct.unpack_from("<I", plan, target)[0] + shift
    struct.pack_into("<I", plan, 48 + 20 * tensor + field, place)
    with pytest.raises(SeamError) as caught:
        check_plan(with_crc(plan))
    assert caught.value.status == -7, name


@pytest.mark.parametrize("cut", [0, 10, 47, 48, 300])
def test_a_plan_cut_short_is_refused(cut):
    with pytest.raises(SeamError):
        check_plan(build_plan(RESIDUAL, (8, 8, 3), 2)[:cut])
