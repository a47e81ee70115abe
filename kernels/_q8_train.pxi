# int8 training on NumPy arrays; a part of _core.pyx, whose checks of arrays and windows it uses.

_MODES = {"nearest": 0, "stochastic": 1, "truncate": 2}


cdef int _noise(_seam.seam_q8_noise *noise, object mode, object seed, object stream) except -1:
    if mode not in _MODES:
        raise ValueError(f"mode: expected one of {', '.join(_MODES)}, got {mode!r}")
    noise.mode = _MODES[mode]
    noise.seed = <uint32_t>(int(seed) & 0xFFFFFFFF)
    noise.stream = <uint32_t>(int(stream) & 0xFFFFFFFF)
    return 0


cdef Array _sums(object x, str name, int ndim, bint writable=False):
    """int32 with `ndim` axes; -1: any number."""
    cdef Array array = _hold(x, name, b"i", "int32", writable)
    if ndim >= 0 and array.view.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got shape {array.shape()}")
    return array


cdef int32_t _exponent(object value, str name) except? -1:
    return _within(value, name, -1000, 1000)


cdef int _out_matches(Array dys, const _seam.seam_window *p) except -1:
    dys.expect(_output_shape(p))
    return 0


cdef int _few(int64_t terms, int64_t most, str name) except -1:
    if terms > most:
        raise ValueError(f"{name}: expected at most {most} products in a sum, got {terms}")
    return 0


cdef tuple _size_of(object size, int32_t n, int32_t channels):
    cdef int32_t h, w
    _pair(size, "size", 1, &h, &w)
    return (n, h, w, channels)


# ---- Gradients ----

def q8_mask(dy, y, y_min=-128, y_max=127):
    """dy, int8 of any shape, with 0 where not y_min < y < y_max: there the clamp held y."""
    cdef Array ys = _bytes(y, "y", -1)
    cdef Array outs
    cdef int32_t least, most
    _range(y_min, y_max, &least, &most)
    out = np.array(dy, order="C")
    outs = _bytes(out, "dy", -1, True)
    outs.expect(ys.shape())
    with nogil:
        _seam.seam_q8_mask(_int8(outs), _int8(ys), least, most, outs.view.len)
    return out


def q8_weigh(dy, ratios, *, seed=0, stream=0, mode="stochastic"):
    """dy, int8 [.., c], times ratios / 32768, rounded; ratios: uint16 [c], at most 32768."""
    cdef Array dys = _bytes(dy, "dy", -1)
    cdef Array rs = _hold(ratios, "ratios", b"H", "uint16", False)
    cdef Array outs
    cdef _seam.seam_q8_noise noise
    cdef int32_t channels = dys.dim(dys.view.ndim - 1)
    rs.expect((channels,))
    _noise(&noise, mode, seed, stream)
    if np.max(ratios) > 32768:
        raise ValueError(f"ratios: expected at most 32768, got {np.max(ratios)}")
    out = _empty(dys.shape(), np.int8)
    outs = _bytes(out, "out", -1, True)
    with nogil:
        _seam.seam_q8_weigh(_int8(outs), _int8(dys), <const uint16_t *>rs.view.buf, channels,
                            dys.view.len // channels, 0, &noise)
    return out


def q8_settle(sums, exponent, *, multiplier=0, shift=0, seed=0, stream=0, mode="stochastic"):
    """(g, exponent): int32 sums of any shape as int8, with as many of their bits as fit.

    multiplier: not 0: sums = round(sums * multiplier / 2^31) first, and the exponent goes up by
    shift.
    """
    cdef Array xs = _sums(sums, "sums", -1)
    cdef Array gs
    cdef _seam.seam_q8_noise noise
    cdef int32_t factor = _within(multiplier, "multiplier", 0, 0x7FFFFFFF)
    cdef int32_t bits
    cdef size_t count = xs.view.len // 4
    cdef int32_t raised = _exponent(exponent, "exponent") + _exponent(shift, "shift")
    _noise(&noise, mode, seed, stream)
    g = _empty(xs.shape(), np.int8)
    gs = _bytes(g, "g", -1, True)
    with nogil:
        bits = _seam.seam_q8_settle_bits(_seam.seam_q8_largest(_int32(xs), count), factor)
        _seam.seam_q8_settle(_int8(gs), _int32(xs), factor, bits, 0, count, &noise)
    return g, raised + bits


def q8_join(a, a_exponent, b, b_exponent, *, seed=0, stream=0, mode="stochastic"):
    """(g, exponent): the sum of two gradients a and b, int8 of one shape."""
    cdef Array left = _bytes(a, "a", -1)
    cdef Array right = _bytes(b, "b", -1)
    cdef Array xs
    cdef int32_t first = _exponent(a_exponent, "a_exponent")
    cdef int32_t second = _exponent(b_exponent, "b_exponent")
    cdef int32_t exponent
    right.expect(left.shape())
    sums = _empty(left.shape(), np.int32)
    xs = _sums(sums, "sums", -1, True)
    with nogil:
        exponent = _seam.seam_q8_join_sums(_int32(xs), _int8(left), first, _int8(right), second,
                                           left.view.len)
    return q8_settle(sums, exponent, seed=seed, stream=stream, mode=mode)


def q8_add_gradient(dy, exponent, ratio, *, seed=0, stream=0, mode="stochastic"):
    """(g, exponent) of one input of a residual sum. ratio: its scale over that of y, positive."""
    cdef Array dys = _bytes(dy, "dy", -1)
    cdef Array xs
    cdef float factor = ratio
    cdef int32_t raised
    if not 0 < factor < 3.4e38:
        raise ValueError(f"ratio: expected a positive number, got {ratio!r}")
    sums = _empty(dys.shape(), np.int32)
    xs = _sums(sums, "sums", -1, True)
    with nogil:
        raised = _seam.seam_q8_add_sums(_int32(xs), _int8(dys), factor, dys.view.len)
    raised += _exponent(exponent, "exponent")
    return q8_settle(sums, raised, seed=seed, stream=stream, mode=mode)


# ---- Sums of the layers ----

def q8_conv2d_input_sums(dy, w, size, *, stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1),
                         groups=1):
    """For each input of q8.conv2d the sum of w dy: int32 [n, *size, c]. dy: int8 [n, out h, out w,
    out], weighed; w: int8 [out, kernel h, kernel w, c / groups]; size: (h, w) of the input.
    """
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array ws = _bytes(w, "w", 4)
    cdef Array xs
    cdef _seam.seam_window p
    cdef void *scratch
    cdef int32_t parts = _count(groups, "groups", 1)
    if ws.dim(0) % parts != 0:
        raise ValueError(f"groups: expected a divisor of {ws.dim(0)} channels out, got {parts}")
    shape = _size_of(size, dys.dim(0), ws.dim(3) * parts)
    _window(&p, shape, ws.dim(1), ws.dim(2), ws.dim(0), stride, padding, dilation)
    _out_matches(dys, &p)
    _few(<int64_t>p.kernel_h * p.kernel_w * (p.out_c // parts), _seam.SEAM_Q8_INPUT_TERMS_MAX, "w")
    sums = _empty(shape, np.int32)
    xs = _sums(sums, "sums", 4, True)
    scratch = _scratch(_seam.seam_q8_conv2d_input_scratch(&p, parts))
    with nogil:
        _seam.seam_q8_conv2d_input_sums(_int32(xs), _int8(dys), _int8(ws), &p, parts, 0,
                                        p.batch * p.in_h, scratch)
    free(scratch)
    return sums


def q8_conv2d_weight_sums(dy, x, kernel, *, x_zero, stride=(1, 1), padding=_NO_PADDING,
                          dilation=(1, 1), groups=1):
    """For each weight of q8.conv2d the sum of dy (x - x_zero): int32 [out, *kernel, c / groups].
    dy: int8 [n, out h, out w, out]; x: int8 [n, h, w, c].
    """
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ss
    cdef _seam.seam_window p
    cdef void *scratch
    cdef int32_t parts = _count(groups, "groups", 1)
    cdef int32_t zero = _int8_value(x_zero, "x_zero")
    cdef int32_t g, each, kernel_h, kernel_w
    _pair(kernel, "kernel", 1, &kernel_h, &kernel_w)
    if xs.dim(3) % parts != 0 or dys.dim(3) % parts != 0:
        raise ValueError(
            f"groups: expected a divisor of {xs.dim(3)} channels in and {dys.dim(3)} out, "
            f"got {parts}"
        )
    _window(&p, xs.shape(), kernel_h, kernel_w, dys.dim(3), stride, padding, dilation)
    _out_matches(dys, &p)
    _few(<int64_t>p.batch * p.out_h * p.out_w, _seam.SEAM_Q8_WEIGHT_TERMS_MAX, "dy")
    sums = _empty((p.out_c, kernel_h, kernel_w, p.in_c // parts), np.int32)
    ss = _sums(sums, "sums", 4, True)
    each = p.out_c // parts
    scratch = _scratch(_seam.seam_q8_conv2d_weight_scratch(&p, parts, each))
    with nogil:
        for g in range(parts):
            _seam.seam_q8_conv2d_weight_sums(
                _int32(ss) + <size_t>g * each * (p.in_c // parts) * kernel_h * kernel_w,
                _int8(dys), _int8(xs), zero, &p, parts, g * each, each, scratch)
    free(scratch)
    return sums


def q8_depthwise_input_sums(dy, w, size, channels, *, stride=(1, 1), padding=_NO_PADDING,
                            dilation=(1, 1)):
    """As q8_conv2d_input_sums for q8.depthwise_conv2d; w: int8 [1, kernel h, kernel w, out];
    channels: of the input."""
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array ws = _bytes(w, "w", 4)
    cdef Array ss
    cdef _seam.seam_window p
    shape = _size_of(size, dys.dim(0), _count(channels, "channels", 1))
    if ws.dim(0) != 1 or ws.dim(3) % shape[3] != 0:
        raise ValueError(
            f"w: expected (1, kernel h, kernel w, a multiple of {channels}), got {ws.shape()}"
        )
    _window(&p, shape, ws.dim(1), ws.dim(2), ws.dim(3), stride, padding, dilation)
    _out_matches(dys, &p)
    sums = _empty(shape, np.int32)
    ss = _sums(sums, "sums", 4, True)
    with nogil:
        _seam.seam_q8_depthwise_input_sums(_int32(ss), _int8(dys), _int8(ws), &p, 0,
                                           p.batch * p.in_h)
    return sums


def q8_depthwise_weight_sums(dy, x, kernel, *, x_zero, stride=(1, 1), padding=_NO_PADDING,
                             dilation=(1, 1)):
    """As q8_conv2d_weight_sums for q8.depthwise_conv2d: int32 [1, *kernel, out]."""
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ss
    cdef _seam.seam_window p
    cdef int32_t zero = _int8_value(x_zero, "x_zero")
    cdef int32_t kernel_h, kernel_w
    _pair(kernel, "kernel", 1, &kernel_h, &kernel_w)
    if dys.dim(3) % xs.dim(3) != 0:
        raise ValueError(
            f"dy: expected a multiple of the {xs.dim(3)} channels of x, got {dys.shape()}"
        )
    _window(&p, xs.shape(), kernel_h, kernel_w, dys.dim(3), stride, padding, dilation)
    _out_matches(dys, &p)
    _few(<int64_t>p.batch * p.out_h * p.out_w, _seam.SEAM_Q8_WEIGHT_TERMS_MAX, "dy")
    sums = _empty((1, kernel_h, kernel_w, p.out_c), np.int32)
    ss = _sums(sums, "sums", 4, True)
    with nogil:
        _seam.seam_q8_depthwise_weight_sums(_int32(ss), _int8(dys), _int8(xs), zero, &p, 0,
                                            p.out_c)
    return sums


def q8_bias_sums(dy):
    """int32 [c]: the sum of dy, int8 [.., c], over samples and pixels."""
    cdef Array dys = _bytes(dy, "dy", -1)
    cdef Array ss
    cdef int32_t channels = dys.dim(dys.view.ndim - 1)
    _few(dys.view.len // channels, 0x7FFFFFFF // 127, "dy")
    sums = _empty((channels,), np.int32)
    ss = _sums(sums, "sums", 1, True)
    with nogil:
        _seam.seam_q8_bias_sums(_int32(ss), _int8(dys), channels, dys.view.len // channels)
    return sums


def q8_max_pool2d_sums(dy, x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1)):
    """int32, shaped as x: the first of equal maxima takes the gradient of its window."""
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ss
    cdef _seam.seam_window p
    _q8_pool_window(&p, xs, kernel, stride, padding, dilation)
    _out_matches(dys, &p)
    sums = _empty(xs.shape(), np.int32)
    ss = _sums(sums, "sums", 4, True)
    with nogil:
        _seam.seam_q8_max_pool2d_sums(_int32(ss), _int8(dys), _int8(xs), &p, 0, p.batch * p.in_h)
    return sums


def q8_average_pool2d_sums(dy, size, kernel=(2, 2), stride=None, padding=_NO_PADDING,
                           dilation=(1, 1)):
    """int32 [n, *size, c] with an exponent 15 below that of dy: each of the n taps inside a window
    takes round(2^15 / n) of its gradient."""
    cdef Array dys = _bytes(dy, "dy", 4)
    cdef Array ss
    cdef _seam.seam_window p
    shape = _size_of(size, dys.dim(0), dys.dim(3))
    _pool_window(&p, shape, kernel, stride, padding, dilation)
    _out_matches(dys, &p)
    if _seam.seam_q8_pool_sums_check(&p) != 0:
        raise ValueError(f"kernel: expected at most 515 windows over an input, got {kernel}")
    sums = _empty(shape, np.int32)
    ss = _sums(sums, "sums", 4, True)
    with nogil:
        _seam.seam_q8_average_pool2d_sums(_int32(ss), _int8(dys), &p, 0, p.batch * p.in_h)
    return sums


# ---- The update ----

cdef int _rates(_seam.seam_q8_rates *rates, object exponent, object rate, object momentum,
                object decay) except -1:
    rates.dw_exponent = _exponent(exponent, "exponent")
    rates.rate, rates.momentum, rates.decay = rate, momentum, decay
    if not 0 <= rates.rate < 2**20:
        raise ValueError(f"rate: expected 0 to 2**20, got {rate!r}")
    if not 0 <= rates.momentum < 1:
        raise ValueError(f"momentum: expected 0 <= momentum < 1, got {momentum!r}")
    if not 0 <= rates.decay < 2**20:
        raise ValueError(f"decay: expected 0 to 2**20, got {decay!r}")
    return 0


cdef Array _steps(object steps, int32_t channels):
    cdef Array held = _hold(steps, "steps", b"f", "float32", False)
    held.expect((channels,))
    if not (np.isfinite(steps).all() and np.min(steps) >= 0):
        raise ValueError("steps: expected finite numbers, none below 0")
    return held


def q8_update(w, v, v_exponent, dw, exponent, steps, *, rate, momentum=0.0, decay=0.0,
              depthwise=False, seed=0, stream=0, mode="stochastic"):
    """v = momentum v + dw 2^exponent steps + decay w, w -= rate v, in place; returns v's exponent.

    w, v: int8 [out, ..], or with `depthwise` [.., out]; v may be None; dw: int32, shaped as w;
    steps: float32 [out], a sum's gradient in steps of its weight (x scale / (y scale * w scale)).
    """
    cdef Array ws = _bytes(w, "w", -1, True)
    cdef Array vs = None
    cdef Array ds = _sums(dw, "dw", -1)
    cdef Array ss
    cdef _seam.seam_q8_noise noise
    cdef _seam.seam_q8_rates rates
    cdef _seam.seam_q8_order order
    cdef _seam.seam_q8_bound bound
    cdef int32_t old = _exponent(v_exponent, "v_exponent"), new
    cdef int moves = 0
    cdef int8_t *velocity = NULL
    order.channels = ws.dim(ws.view.ndim - 1 if depthwise else 0)
    order.terms = <int32_t>(ws.view.len // order.channels)
    order.channel_step = 1 if depthwise else order.terms
    order.term_step = order.channels if depthwise else 1
    ds.expect(ws.shape())
    if v is not None:
        vs = _bytes(v, "v", -1, True)
        vs.expect(ws.shape())
        _apart(vs, ws)
        velocity = _int8(vs)
    ss = _steps(steps, order.channels)
    _noise(&noise, mode, seed, stream)
    _rates(&rates, exponent, rate, momentum, decay)
    rates.steps = ss.floats()
    bound.mantissa = bound.peak = 0
    bound.exponent = 0
    with nogil:
        _seam.seam_q8_bound_take(&bound, _int32(ds), &order, 0, rates.steps)
        new = _seam.seam_q8_velocity_exponent(&moves, &bound, _int8(ws), velocity, old,
                                              ws.view.len, &rates)
        if moves:
            _seam.seam_q8_update(_int8(ws), velocity, _int32(ds), &order, &order, 0, &bound, old,
                                 new, &rates, &noise)
    return new


def q8_update_float(w, v, dw, exponent, steps, *, rate, momentum=0.0, decay=0.0, depthwise=False,
                    seed=0, stream=0, mode="stochastic"):
    """As q8_update with velocities in float32, in place: v float32, shaped as w; what is beyond
    2^30 in it, or no number, counts as 0."""
    cdef Array ws = _bytes(w, "w", -1, True)
    cdef Array vs = _hold(v, "v", b"f", "float32", True)
    cdef Array ds = _sums(dw, "dw", -1)
    cdef Array ss
    cdef _seam.seam_q8_noise noise
    cdef _seam.seam_q8_rates rates
    cdef _seam.seam_q8_order order
    order.channels = ws.dim(ws.view.ndim - 1 if depthwise else 0)
    order.terms = <int32_t>(ws.view.len // order.channels)
    order.channel_step = 1 if depthwise else order.terms
    order.term_step = order.channels if depthwise else 1
    ds.expect(ws.shape())
    vs.expect(ws.shape())
    _apart(vs, ws)
    ss = _steps(steps, order.channels)
    _noise(&noise, mode, seed, stream)
    _rates(&rates, exponent, rate, momentum, decay)
    rates.steps = ss.floats()
    with nogil:
        _seam.seam_q8_update_float(_int8(ws), vs.floats(), _int32(ds), &order, &order, 0, &rates,
                                   &noise)


def q8_update_bias(b, v, db, exponent, steps, per_input, *, most, rate, momentum=0.0, seed=0,
                   stream=0, mode="stochastic"):
    """As q8_update, in place, for biases b, int32 [out] within `most`; v, int32 [out], in 2^-8 of
    b's unit, may be None; db: int32 [out]; per_input: 1 / x scale^2."""
    cdef Array bs = _sums(b, "b", 1, True)
    cdef Array vs = None
    cdef Array ds = _sums(db, "db", 1)
    cdef Array ss
    cdef _seam.seam_q8_noise noise
    cdef _seam.seam_q8_rates rates
    cdef int32_t *velocity = NULL
    cdef int32_t channels = bs.dim(0), limit = _within(most, "most", 0, 0x7FFFFFFF)
    cdef float factor = per_input
    ds.expect((channels,))
    if v is not None:
        vs = _sums(v, "v", 1, True)
        vs.expect((channels,))
        _apart(vs, bs)
        velocity = _int32(vs)
    if not 0 <= factor < 3.4e38:
        raise ValueError(f"per_input: expected a number of at least 0, got {per_input!r}")
    ss = _steps(steps, channels)
    _noise(&noise, mode, seed, stream)
    _rates(&rates, exponent, rate, momentum, 0.0)
    rates.steps = ss.floats()
    with nogil:
        _seam.seam_q8_update_bias(_int32(bs), velocity, _int32(ds), channels, factor, limit,
                                  &rates, &noise)
