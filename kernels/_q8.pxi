# The int8 layers on NumPy arrays; a part of _core.pyx, whose checks of arrays and windows it uses.

# ---- Arrays and numbers of the int8 layers ----

cdef Array _bytes(object x, str name, int ndim, bint writable=False):
    """int8 with `ndim` axes; -1: any number."""
    cdef Array array = _hold(x, name, b"b", "int8", writable)
    if ndim >= 0 and array.view.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got shape {array.shape()}")
    return array


cdef inline int8_t *_int8(Array array) noexcept nogil:
    return <int8_t *>array.view.buf


cdef inline int32_t *_int32(Array array) noexcept nogil:
    return NULL if array is None else <int32_t *>array.view.buf


cdef Array _int32_line(object x, str name):
    cdef Array array = _hold(x, name, b"i", "int32", False)
    if array.view.ndim != 1:
        raise ValueError(f"{name}: expected 1 axis, got shape {array.shape()}")
    return array


cdef int32_t _within(object value, str name, int32_t least, int32_t most) except? -1:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, got {value!r}")
    return <int32_t>value


cdef int32_t _int8_value(object value, str name) except? -1:
    return _within(value, name, -128, 127)


cdef int _range(object y_min, object y_max, int32_t *least, int32_t *most) except -1:
    least[0] = _int8_value(y_min, "y_min")
    most[0] = _int8_value(y_max, "y_max")
    if least[0] > most[0]:
        raise ValueError(f"y_min: expected at most y_max {y_max}, got {y_min}")
    return 0


@cython.final
cdef class Scaling:
    """Checked figures from sums to int8, and the arrays they lie in."""

    cdef _seam.seam_q8_scaling how
    cdef Array multiplier, shift


cdef Scaling _scaling(object x_zero, object y_zero, object multiplier, object shift, object y_min,
                      object y_max, int32_t channels):
    cdef Scaling scaling = Scaling.__new__(Scaling)
    cdef Array ms = _int32_line(multiplier, "multiplier")
    cdef Array ss = _int32_line(shift, "shift")
    cdef int32_t i
    if ms.dim(0) != 1 and ms.dim(0) != channels:
        expected = "(1,)" if channels == 1 else f"(1,) or ({channels},)"
        raise ValueError(f"multiplier: expected shape {expected}, got {ms.shape()}")
    ss.expect(ms.shape())
    scaling.multiplier = ms
    scaling.shift = ss
    scaling.how.multiplier = _int32(ms)
    scaling.how.shift = _int32(ss)
    scaling.how.scales = ms.dim(0)
    scaling.how.x_zero = _int8_value(x_zero, "x_zero")
    scaling.how.y_zero = _int8_value(y_zero, "y_zero")
    _range(y_min, y_max, &scaling.how.y_min, &scaling.how.y_max)
    if _seam.seam_q8_scaling_check(&scaling.how, channels) != 0:
        for i in range(ms.dim(0)):
            if scaling.how.multiplier[i] < 0:
                raise ValueError(
                    f"multiplier: expected 0 to 2**31 - 1, got {scaling.how.multiplier[i]} at {i}"
                )
            _within(scaling.how.shift[i], f"shift at {i}", -31, 30)
    return scaling


cdef Array _q8_bias(object bias, int32_t channels, int64_t terms):
    """int32 [channels] or None; no sum of that many products may leave int32."""
    cdef Array held = None
    if bias is not None:
        held = _int32_line(bias, "bias")
        held.expect((channels,))
    if _seam.seam_q8_sums_check(NULL, 0, terms) != 0:
        most = 0x7FFFFFFF // (128 * 255)
        raise ValueError(f"w: expected at most {most} products in a sum, got {terms}")
    if _seam.seam_q8_sums_check(_int32(held), channels, terms) != 0:
        room = 0x7FFFFFFF - terms * 128 * 255
        far = np.abs(np.asarray(bias, np.int64)).max()
        raise ValueError(f"bias: expected at most {room} beside {terms} products, got {far}")
    return held


cdef int _q8_convolve(Array ys, Array xs, Array ws, Array bs, Scaling scaling,
                      const _seam.seam_window *p, int32_t groups) except -1:
    cdef size_t size = _seam.seam_q8_conv2d_packed_size(p, groups)
    cdef void *packed = NULL
    cdef void *scratch = _scratch(_seam.seam_q8_conv2d_scratch(p, groups))
    if size:
        packed = malloc(size)
        if packed == NULL:
            free(scratch)
            raise MemoryError(f"no {size} bytes for packed weights")
    with nogil:
        if size:
            _seam.seam_q8_conv2d_pack(packed, _int8(ws), p, groups)
        _seam.seam_q8_conv2d(_int8(ys), _int8(xs), _int8(ws), _int32(bs), &scaling.how, p, groups,
                             packed, scratch)
    free(packed)
    free(scratch)
    return 0


# ---- Convolutions and dense ----

def q8_conv2d(x, w, bias=None, *, x_zero, y_zero, multiplier, shift, stride=(1, 1),
              padding=_NO_PADDING, dilation=(1, 1), groups=1, y_min=-128, y_max=127):
    """int8 2-D convolution. x: int8 [n, h, w, c]; w: int8 [out, kernel h, kernel w, c / groups];
    bias: int32 [out] or None. Returns int8 y: [n, out h, out w, out].

    y = clamp(rescale(bias + sum w (x - x_zero)) + y_zero, y_min, y_max); taps in the padding add
    nothing. multiplier, shift: int32 [out] or [1], as multiplier_of gives them for
    x scale * w scale / y scale. Group g reads the g-th share of the input channels and gives the
    g-th share of the output channels.
    Raises ValueError or TypeError for what does not fit, saying expected and got; also where a sum
    could leave int32.
    """
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ws = _bytes(w, "w", 4)
    cdef Array bs, ys
    cdef Scaling scaling
    cdef _seam.seam_window p
    cdef int32_t parts = _count(groups, "groups", 1)
    if xs.dim(3) % parts != 0 or ws.dim(0) % parts != 0:
        raise ValueError(
            f"groups: expected a divisor of {xs.dim(3)} channels in and {ws.dim(0)} out, "
            f"got {parts}"
        )
    if ws.dim(3) != xs.dim(3) // parts:
        raise ValueError(
            f"w: expected {xs.dim(3) // parts} input channels, those of x by group, "
            f"got shape {ws.shape()}"
        )
    _window(&p, xs.shape(), ws.dim(1), ws.dim(2), ws.dim(0), stride, padding, dilation)
    scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, p.out_c)
    bs = _q8_bias(bias, p.out_c, <int64_t>p.kernel_h * p.kernel_w * ws.dim(3))
    y = _empty(_output_shape(&p), np.int8)
    ys = _bytes(y, "y", 4, True)
    _q8_convolve(ys, xs, ws, bs, scaling, &p, parts)
    return y


def q8_depthwise_conv2d(x, w, bias=None, *, x_zero, y_zero, multiplier, shift, stride=(1, 1),
                        padding=_NO_PADDING, dilation=(1, 1), y_min=-128, y_max=127):
    """int8 depthwise convolution. x: int8 [n, h, w, c]; w: int8 [1, kernel h, kernel w, c m]; bias:
    int32 [c m] or None. Output channel i m + j reads input channel i. The rest as q8.conv2d.
    """
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ws = _bytes(w, "w", 4)
    cdef Array bs, ys
    cdef Scaling scaling
    cdef _seam.seam_window p
    _depthwise_window(&p, xs, ws, stride, padding, dilation)
    scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, p.out_c)
    bs = _q8_bias(bias, p.out_c, <int64_t>p.kernel_h * p.kernel_w)
    y = _empty(_output_shape(&p), np.int8)
    ys = _bytes(y, "y", 4, True)
    with nogil:
        _seam.seam_q8_depthwise(_int8(ys), _int8(xs), _int8(ws), _int32(bs), &scaling.how, &p)
    return y


def q8_dense(x, w, bias=None, *, x_zero, y_zero, multiplier, shift, y_min=-128, y_max=127):
    """int8 dense layer. x: int8 [n, in]; w: int8 [out, in]; bias: int32 [out] or None; multiplier,
    shift: int32 [1] (one scale for all weights) or [out]. Returns int8 y: [n, out].
    """
    cdef Array xs = _bytes(x, "x", 2)
    cdef Array ws = _bytes(w, "w", 2)
    cdef Array bs, ys
    cdef Scaling scaling
    cdef _seam.seam_window p
    cdef int32_t n = xs.dim(0), in_ = xs.dim(1), out = ws.dim(0)
    _dense_check(xs, ws)
    scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, out)
    bs = _q8_bias(bias, out, in_)
    y = _empty((n, out), np.int8)
    ys = _bytes(y, "y", 2, True)
    p = _seam.seam_dense_window(n, in_, out)
    _q8_convolve(ys, xs, ws, bs, scaling, &p, 1)
    return y


# ---- Pools, padding ----

cdef int _q8_pool_window(_seam.seam_window *p, Array xs, object kernel, object stride,
                         object padding, object dilation) except -1:
    cdef int status
    _pool_window(p, xs.shape(), kernel, stride, padding, dilation)
    status = _seam.seam_q8_pool_check(p)
    if status == _seam.SEAM_E_SHAPE:
        raise ValueError(
            f"padding: expected one that leaves every window a tap inside the input, got {padding} "
            f"with kernel {kernel} on {xs.shape()}"
        )
    if status != 0:
        raise ValueError(f"kernel: expected at most 2**23 - 1 taps, got {kernel}")
    return 0


def q8_max_pool2d(x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1), *,
                  y_min=-128, y_max=127):
    """Largest value of each window, clamped. x: int8 [n, h, w, c] -> [n, out h, out w, c].

    stride: default the kernel. Taps in the padding do not count; a window without a tap inside is
    refused. Scale and zero point stay.
    """
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ys
    cdef _seam.seam_window p
    cdef int32_t least, most
    _q8_pool_window(&p, xs, kernel, stride, padding, dilation)
    _range(y_min, y_max, &least, &most)
    y = _empty(_output_shape(&p), np.int8)
    ys = _bytes(y, "y", 4, True)
    with nogil:
        _seam.seam_q8_max_pool2d(_int8(ys), _int8(xs), &p, least, most)
    return y


def q8_average_pool2d(x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1), *,
                      y_min=-128, y_max=127):
    """Mean of the taps of each window that lie inside, halves away from zero; as q8.max_pool2d."""
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ys
    cdef _seam.seam_window p
    cdef int32_t least, most
    _q8_pool_window(&p, xs, kernel, stride, padding, dilation)
    _range(y_min, y_max, &least, &most)
    y = _empty(_output_shape(&p), np.int8)
    ys = _bytes(y, "y", 4, True)
    with nogil:
        _seam.seam_q8_average_pool2d(_int8(ys), _int8(xs), &p, least, most)
    return y


def q8_pad(x, padding, zero):
    """x: int8 [n, h, w, c] inside a border ((top, bottom), (left, right)) of its zero point."""
    cdef Array xs = _bytes(x, "x", 4)
    cdef Array ys
    cdef _seam.seam_window p
    cdef int8_t border = <int8_t>_int8_value(zero, "zero")
    _window(&p, xs.shape(), 1, 1, xs.dim(3), (1, 1), padding, (1, 1))
    y = _empty(_output_shape(&p), np.int8)
    ys = _bytes(y, "y", 4, True)
    with nogil:
        _seam.seam_q8_pad(_int8(ys), _int8(xs), &p, border)
    return y


# ---- Element by element ----

cdef int32_t _mantissa(object value, str name) except? -1:
    return _within(value, name, 0, 0x7FFFFFFF)


cdef int _sum_scaling(_seam.seam_q8_sum *how, object a_zero, object a_multiplier, object a_shift,
                      object b_zero, object b_multiplier, object b_shift, object y_zero,
                      object y_multiplier, object y_shift, object y_min, object y_max) except -1:
    how.a_zero = _int8_value(a_zero, "a_zero")
    how.b_zero = _int8_value(b_zero, "b_zero")
    how.y_zero = _int8_value(y_zero, "y_zero")
    how.a_multiplier = _mantissa(a_multiplier, "a_multiplier")
    how.b_multiplier = _mantissa(b_multiplier, "b_multiplier")
    how.y_multiplier = _mantissa(y_multiplier, "y_multiplier")
    how.a_shift = _within(a_shift, "a_shift", -31, 0)
    how.b_shift = _within(b_shift, "b_shift", -31, 0)
    how.y_shift = _within(y_shift, "y_shift", -31, 0)
    return _range(y_min, y_max, &how.y_min, &how.y_max)


def q8_add(a, b, *, a_zero, a_multiplier, a_shift, b_zero, b_multiplier, b_shift, y_zero,
           y_multiplier, y_shift, y_min=-128, y_max=127):
    """int8 sum of two arrays of one shape but with scales of their own; q8.sum_scaling gives the
    multipliers and shifts.
    """
    cdef Array left = _bytes(a, "a", -1)
    cdef Array right = _bytes(b, "b", -1)
    cdef Array ys
    cdef _seam.seam_q8_sum how
    right.expect(left.shape())
    _sum_scaling(&how, a_zero, a_multiplier, a_shift, b_zero, b_multiplier, b_shift, y_zero,
                 y_multiplier, y_shift, y_min, y_max)
    y = _empty(left.shape(), np.int8)
    ys = _bytes(y, "y", -1, True)
    with nogil:
        _seam.seam_q8_add(_int8(ys), _int8(left), _int8(right), &how, <size_t>left.size())
    return y


def q8_softmax(x, *, multiplier, shift):
    """Softmax along the last axis of an int8 array; the result has scale 1/256, zero point -128.

    multiplier, shift (0 to 31): q8.softmax_scaling gives them for the scale of x.
    """
    cdef Array xs = _bytes(x, "x", -1)
    cdef Array ys
    cdef int32_t classes, m = _mantissa(multiplier, "multiplier")
    cdef int32_t s = _within(shift, "shift", 0, 31)
    if xs.view.ndim < 1:
        raise ValueError(f"x: expected 1 axis or more, got shape {xs.shape()}")
    classes = xs.dim(xs.view.ndim - 1)
    if classes > <int32_t>_seam.SEAM_Q8_CLASSES_MAX:
        raise ValueError(
            f"x: expected at most {_seam.SEAM_Q8_CLASSES_MAX} classes, got shape {xs.shape()}"
        )
    y = _empty(xs.shape(), np.int8)
    ys = _bytes(y, "y", -1, True)
    with nogil:
        _seam.seam_q8_softmax(_int8(ys), _int8(xs), <size_t>(xs.size() // classes), classes, m, s)
    return y


cdef float _scale(object value) except? -1:
    cdef float scale = value
    if not 1.17549435e-38 <= scale <= 3.4028235e38:
        raise ValueError(f"scale: expected a normal float32 above 0, got {value!r}")
    return scale


_HALVES = {"half_away": _seam.SEAM_HALF_AWAY, "half_even": _seam.SEAM_HALF_EVEN}


def q8_quantise(x, scale, zero, rounding="half_away"):
    """int8 clamp(round(x / scale) + zero) of a float32 array of any shape.

    rounding: what becomes of halves, "half_away" from zero (TensorFlow Lite) or "half_even" (ONNX,
    PyTorch). Infinity saturates; NaN raises SeamError.
    """
    cdef Array xs = _floats(x, "x", -1)
    cdef Array ys
    cdef float step = _scale(scale)
    cdef int32_t middle = _int8_value(zero, "zero")
    cdef int status
    cdef _seam.seam_half half
    if rounding not in _HALVES:
        raise ValueError(f"rounding: expected one of {', '.join(_HALVES)}, got {rounding!r}")
    half = <_seam.seam_half>_HALVES[rounding]
    y = _empty(xs.shape(), np.int8)
    ys = _bytes(y, "y", -1, True)
    with nogil:
        status = _seam.seam_q8_quantise(_int8(ys), xs.floats(), step, middle, half,
                                        <size_t>xs.size())
    if status != 0:
        raise _seam_error(status)
    return y


def q8_dequantise(q, scale, zero):
    """float32 (q - zero) * scale of an int8 array of any shape."""
    cdef Array qs = _bytes(q, "q", -1)
    cdef Array xs
    cdef float step = _scale(scale)
    cdef int32_t middle = _int8_value(zero, "zero")
    x = _empty(qs.shape(), _float32)
    xs = _floats(x, "x", -1, True)
    with nogil:
        _seam.seam_q8_dequantise(xs.floats(), _int8(qs), step, middle, <size_t>qs.size())
    return x


def q8_requantise(x, *, x_zero, y_zero, multiplier, shift, y_min=-128, y_max=127):
    """From one scale and zero point to another: int8 of any shape; multiplier, shift: int32 [1]."""
    cdef Array xs = _bytes(x, "x", -1)
    cdef Array ys
    cdef Scaling scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, 1)
    y = _empty(xs.shape(), np.int8)
    ys = _bytes(y, "y", -1, True)
    with nogil:
        _seam.seam_q8_requantise(_int8(ys), _int8(xs), &scaling.how, <size_t>xs.size())
    return y
