# cython: language_level=3
"""The arithmetic of the core on NumPy arrays: checks what comes in, calls C without the GIL."""
cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cimport _seam

import os

import numpy as np

from .errors import SeamError

cdef extern from *:  # the face is large and never hot: the kernels are files of their own
    """
    #if defined(__GNUC__) && !defined(__clang__)
    #pragma GCC optimize ("Os")
    #endif
    """

WIRE_VERSION = _seam.SEAM_WIRE_VERSION
ARITHMETIC_VERSION = _seam.SEAM_ARITHMETIC_VERSION

cdef object _empty = np.empty
cdef object _zeros = np.zeros
cdef object _float32 = np.dtype(np.float32)
cdef object _NO_PADDING = ((0, 0), (0, 0))


# ---- Arrays from outside ----

@cython.final
cdef class Array:
    """Somebody's contiguous memory, held while a kernel works on it."""

    cdef Py_buffer view
    cdef bint held
    cdef str name

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef inline float *floats(self) noexcept nogil:
        return <float *>self.view.buf

    cdef inline Py_ssize_t size(self) noexcept nogil:
        return self.view.len // self.view.itemsize

    cdef inline int32_t dim(self, int d) noexcept:
        return <int32_t>self.view.shape[d]

    cdef tuple shape(self):
        return tuple([self.view.shape[d] for d in range(self.view.ndim)])

    cdef int expect(self, tuple shape) except -1:
        if self.shape() != shape:
            raise ValueError(f"{self.name}: expected shape {shape}, got {self.shape()}")
        return 0


cdef str _dtype_name(object x):
    return str(getattr(x, "dtype", type(x).__name__))


cdef Array _hold(object x, str name, const char *code, str dtype, bint writable):
    """A view of `x` if it is a contiguous, aligned, non-empty array of that type."""
    cdef Array array = Array.__new__(Array)
    cdef int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
    array.name = name
    if not PyObject_CheckBuffer(x):
        raise TypeError(f"{name}: expected a {dtype} array, got {type(x).__name__}")
    try:
        PyObject_GetBuffer(x, &array.view, flags)
    except (BufferError, ValueError):
        kind = "a writable, C-contiguous" if writable else "a C-contiguous"
        raise ValueError(
            f"{name}: expected {kind} array, got strides {getattr(x, 'strides', '?')} of shape "
            f"{getattr(x, 'shape', '?')}; numpy.ascontiguousarray makes one"
        ) from None
    array.held = True
    if <uintptr_t>array.view.buf % 4 != 0:
        raise ValueError(f"{name}: expected memory aligned to 4 bytes; a copy has it")
    if array.view.format == NULL or array.view.format[0] != code[0] or array.view.format[1] != 0:
        raise TypeError(f"{name}: expected dtype {dtype}, got {_dtype_name(x)}")
    if array.view.len == 0:
        raise ValueError(f"{name}: expected a non-empty array, got shape {array.shape()}")
    for d in range(array.view.ndim):
        if array.view.shape[d] > 0x7FFFFFFF:
            raise ValueError(f"{name}: expected fewer than 2**31 per axis, got {array.shape()}")
    return array


cdef Array _floats(object x, str name, int ndim, bint writable=False):
    """float32 with `ndim` axes; -1: any number."""
    cdef Array array = _hold(x, name, b"f", "float32", writable)
    if ndim >= 0 and array.view.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got shape {array.shape()}")
    return array


cdef int _apart(Array a, Array b) except -1:
    """Outputs must not share memory with anything else."""
    cdef uintptr_t a0 = <uintptr_t>a.view.buf
    cdef uintptr_t b0 = <uintptr_t>b.view.buf
    if a0 < b0 + <uintptr_t>b.view.len and b0 < a0 + <uintptr_t>a.view.len:
        raise ValueError(f"{a.name}: expected memory of its own, got some shared with {b.name}")
    return 0


cdef int _all_apart(list outputs, list inputs) except -1:
    cdef Py_ssize_t i
    for i in range(len(outputs)):
        if outputs[i] is None:
            continue
        for other in outputs[i + 1:] + inputs:
            if other is not None:
                _apart(<Array>outputs[i], <Array>other)
    return 0


cdef Array _bias(object b, int32_t channels):
    if b is None:
        return None
    cdef Array bias = _floats(b, "b", 1)
    bias.expect((channels,))
    return bias


cdef inline float *_pointer(Array array) noexcept nogil:
    return NULL if array is None else array.floats()


# ---- Numbers from outside ----

cdef int32_t _count(object value, str name, int32_t least) except -1:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= 65535:
        raise ValueError(f"{name}: expected {least} to 65535, got {value!r}")
    return <int32_t>value


cdef int _pair(object value, str name, int32_t least, int32_t *first, int32_t *second) except -1:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name}: expected (height, width), got {value!r}")
    first[0] = _count(value[0], name, least)
    second[0] = _count(value[1], name, least)
    return 0


cdef uint32_t _u32(object value, str name) except? 0xFFFFFFFF:
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{name}: expected 0 to 2**32 - 1, got {value!r}")
    return <uint32_t>value


cdef int32_t _outputs(int32_t size, int32_t pads, int32_t kernel, int32_t stride,
                      int32_t dilation) noexcept:
    cdef int64_t room = <int64_t>size + pads - (<int64_t>(kernel - 1) * dilation + 1)
    return 0 if room < 0 else <int32_t>(room // stride) + 1


cdef int _window(_seam.seam_window *p, tuple x, int32_t kernel_h, int32_t kernel_w, int32_t out_c,
                 object stride, object padding, object dilation) except -1:
    """Fill and check the window over an input of shape x = (n, h, w, c)."""
    cdef int status
    if max(x) > 65535:
        raise ValueError(f"x: expected at most 65535 along each axis, got {x}")
    p.batch, p.in_h, p.in_w, p.in_c = x
    p.out_c = out_c
    p.kernel_h = kernel_h
    p.kernel_w = kernel_w
    _pair(stride, "stride", 1, &p.stride_h, &p.stride_w)
    _pair(dilation, "dilation", 1, &p.dilation_h, &p.dilation_w)
    if not isinstance(padding, (tuple, list)) or len(padding) != 2:
        raise ValueError(f"padding: expected ((top, bottom), (left, right)), got {padding!r}")
    _pair(padding[0], "padding", 0, &p.pad_top, &p.pad_bottom)
    _pair(padding[1], "padding", 0, &p.pad_left, &p.pad_right)
    p.out_h = _outputs(p.in_h, p.pad_top + p.pad_bottom, kernel_h, p.stride_h, p.dilation_h)
    p.out_w = _outputs(p.in_w, p.pad_left + p.pad_right, kernel_w, p.stride_w, p.dilation_w)
    if p.out_h == 0 or p.out_w == 0:
        raise ValueError(
            f"kernel: expected one that fits the padded input, got {kernel_h}x{kernel_w} with "
            f"dilation {dilation} on {p.in_h}x{p.in_w} with padding {padding}"
        )
    status = _seam.seam_window_check(p)
    if status != 0:
        raise ValueError(
            f"shape: {_seam.seam_status_text(status).decode()}; got input {x}, kernel "
            f"{kernel_h}x{kernel_w}, {out_c} channels out"
        )
    return 0


cdef inline tuple _output_shape(const _seam.seam_window *p):
    return (p.batch, p.out_h, p.out_w, p.out_c)


cdef void *_scratch(size_t size) except? NULL:
    cdef void *scratch = malloc(size + 16)
    if scratch == NULL:
        raise MemoryError(f"no {size} bytes of scratch memory")
    return scratch


cdef tuple _gradients(object into, tuple names, list shapes):
    """Arrays to add to: new zeros, or the caller's `into` (None: not wanted; only the first may be
    None, and the bias)."""
    if into is None:
        return tuple([_zeros(shape, _float32) for shape in shapes])
    if not isinstance(into, (tuple, list)) or len(into) != len(names):
        raise ValueError(f"into: expected ({', '.join(names)}), got {into!r}")
    return tuple(into)


cdef list _targets(tuple arrays, tuple names, list shapes, tuple optional):
    cdef list held = []
    cdef Array array
    for value, name, shape, may_miss in zip(arrays, names, shapes, optional, strict=True):
        if value is None and may_miss:
            held.append(None)
            continue
        array = _floats(value, name, len(shape), True)
        array.expect(shape)
        held.append(array)
    return held


# ---- Convolutions and dense ----

def conv2d(x, w, b=None, stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1)):
    """2-D convolution. x: [n, h, w, c]; w: [out, kernel h, kernel w, c]; b: [out] or None.

    padding: ((top, bottom), (left, right)); padded taps are left out of the sum. A 1-D signal has
    h = 1. Returns y: [n, out h, out w, out].
    Raises ValueError or TypeError for arrays that do not fit, saying expected and got.
    """
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ws = _floats(w, "w", 4)
    cdef Array bs, ys
    cdef _seam.seam_window p
    cdef void *scratch
    if ws.dim(3) != xs.dim(3):
        raise ValueError(f"w: expected {xs.dim(3)} input channels as in x, got shape {ws.shape()}")
    _window(&p, xs.shape(), ws.dim(1), ws.dim(2), ws.dim(0), stride, padding, dilation)
    bs = _bias(b, p.out_c)
    y = _empty(_output_shape(&p), _float32)
    ys = _floats(y, "y", 4, True)
    scratch = _scratch(_seam.seam_f32_conv2d_scratch(&p))
    with nogil:
        _seam.seam_f32_conv2d(ys.floats(), xs.floats(), ws.floats(), _pointer(bs), &p, scratch)
    free(scratch)
    return y


def conv2d_backward(dy, x, w, stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1), *, into=None):
    """Gradients of conv2d for dy: [n, out h, out w, out]. Returns (dx, dw, db), shaped as x, w, b.

    into: arrays (dx, dw, db) to add to; None for dx or db: not computed.
    """
    cdef Array dys = _floats(dy, "dy", 4)
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ws = _floats(w, "w", 4)
    cdef Array dxs, dws, dbs
    cdef _seam.seam_window p
    cdef void *scratch
    if ws.dim(3) != xs.dim(3):
        raise ValueError(f"w: expected {xs.dim(3)} input channels as in x, got shape {ws.shape()}")
    _window(&p, xs.shape(), ws.dim(1), ws.dim(2), ws.dim(0), stride, padding, dilation)
    dys.expect(_output_shape(&p))
    shapes = [xs.shape(), ws.shape(), (p.out_c,)]
    result = _gradients(into, ("dx", "dw", "db"), shapes)
    targets = _targets(result, ("dx", "dw", "db"), shapes, (True, False, True))
    _all_apart(targets, [dys, xs, ws])
    dxs, dws, dbs = targets
    scratch = _scratch(_seam.seam_f32_conv2d_scratch(&p))
    with nogil:
        _seam.seam_f32_conv2d_backward(_pointer(dxs), dws.floats(), _pointer(dbs), dys.floats(),
                                       xs.floats(), ws.floats(), &p, scratch)
    free(scratch)
    return result


cdef int _depthwise_window(_seam.seam_window *p, Array xs, Array ws, object stride,
                           object padding, object dilation) except -1:
    if ws.dim(0) != 1:
        raise ValueError(f"w: expected (1, kernel h, kernel w, channels), got {ws.shape()}")
    if ws.dim(3) % xs.dim(3) != 0:
        raise ValueError(
            f"w: expected a multiple of the {xs.dim(3)} channels of x, got shape {ws.shape()}"
        )
    return _window(p, xs.shape(), ws.dim(1), ws.dim(2), ws.dim(3), stride, padding, dilation)


def depthwise_conv2d(x, w, b=None, stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1)):
    """Depthwise convolution. x: [n, h, w, c]; w: [1, kernel h, kernel w, c m]; b: [c m] or None.

    Output channel i m + j reads input channel i. Returns y: [n, out h, out w, c m].
    """
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ws = _floats(w, "w", 4)
    cdef Array bs, ys
    cdef _seam.seam_window p
    cdef void *scratch
    _depthwise_window(&p, xs, ws, stride, padding, dilation)
    bs = _bias(b, p.out_c)
    y = _empty(_output_shape(&p), _float32)
    ys = _floats(y, "y", 4, True)
    scratch = _scratch(_seam.seam_f32_depthwise_scratch(&p))
    with nogil:
        _seam.seam_f32_depthwise(ys.floats(), xs.floats(), ws.floats(), _pointer(bs), &p, scratch)
    free(scratch)
    return y


def depthwise_conv2d_backward(dy, x, w, stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1), *,
                              into=None):
    """Gradients of depthwise_conv2d: (dx, dw, db), shaped as x, w, b; into: see conv2d_backward."""
    cdef Array dys = _floats(dy, "dy", 4)
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ws = _floats(w, "w", 4)
    cdef Array dxs, dws, dbs
    cdef _seam.seam_window p
    cdef void *scratch
    _depthwise_window(&p, xs, ws, stride, padding, dilation)
    dys.expect(_output_shape(&p))
    shapes = [xs.shape(), ws.shape(), (p.out_c,)]
    result = _gradients(into, ("dx", "dw", "db"), shapes)
    targets = _targets(result, ("dx", "dw", "db"), shapes, (True, False, True))
    _all_apart(targets, [dys, xs, ws])
    dxs, dws, dbs = targets
    scratch = _scratch(_seam.seam_f32_depthwise_scratch(&p))
    with nogil:
        _seam.seam_f32_depthwise_backward(_pointer(dxs), dws.floats(), _pointer(dbs),
                                          dys.floats(), xs.floats(), ws.floats(), &p, scratch)
    free(scratch)
    return result


cdef int _dense_check(Array xs, Array ws) except -1:
    cdef _seam.seam_window p
    if ws.dim(1) != xs.dim(1):
        raise ValueError(f"w: expected (out, {xs.dim(1)}) as in x, got shape {ws.shape()}")
    return _window(&p, (xs.dim(0), 1, 1, xs.dim(1)), 1, 1, ws.dim(0), (1, 1), _NO_PADDING, (1, 1))


def dense(x, w, b=None):
    """y[n, o] = b[o] + sum_k w[o, k] x[n, k]. x: [n, in]; w: [out, in]; b: [out] or None."""
    cdef Array xs = _floats(x, "x", 2)
    cdef Array ws = _floats(w, "w", 2)
    cdef Array bs, ys
    cdef void *scratch
    cdef int32_t n = xs.dim(0), in_ = xs.dim(1), out = ws.dim(0)
    _dense_check(xs, ws)
    bs = _bias(b, out)
    y = _empty((n, out), _float32)
    ys = _floats(y, "y", 2, True)
    scratch = _scratch(_seam.seam_f32_dense_scratch(n, in_, out))
    with nogil:
        _seam.seam_f32_dense(ys.floats(), xs.floats(), ws.floats(), _pointer(bs), n, in_, out,
                             scratch)
    free(scratch)
    return y


def dense_backward(dy, x, w, *, into=None):
    """Gradients of dense for dy: [n, out]. Returns (dx, dw, db); into: see conv2d_backward."""
    cdef Array dys = _floats(dy, "dy", 2)
    cdef Array xs = _floats(x, "x", 2)
    cdef Array ws = _floats(w, "w", 2)
    cdef Array dxs, dws, dbs
    cdef void *scratch
    cdef int32_t n = xs.dim(0), in_ = xs.dim(1), out = ws.dim(0)
    _dense_check(xs, ws)
    dys.expect((n, out))
    shapes = [xs.shape(), ws.shape(), (out,)]
    result = _gradients(into, ("dx", "dw", "db"), shapes)
    targets = _targets(result, ("dx", "dw", "db"), shapes, (True, False, True))
    _all_apart(targets, [dys, xs, ws])
    dxs, dws, dbs = targets
    scratch = _scratch(_seam.seam_f32_dense_scratch(n, in_, out))
    with nogil:
        _seam.seam_f32_dense_backward(_pointer(dxs), dws.floats(), _pointer(dbs), dys.floats(),
                                      xs.floats(), ws.floats(), n, in_, out, scratch)
    free(scratch)
    return result


# ---- Pools ----

cdef int _pool_window(_seam.seam_window *p, tuple shape, object kernel, object stride,
                      object padding, object dilation) except -1:
    cdef int32_t kernel_h, kernel_w
    _pair(kernel, "kernel", 1, &kernel_h, &kernel_w)
    if stride is None:
        stride = kernel
    return _window(p, shape, kernel_h, kernel_w, shape[3], stride, padding, dilation)


def max_pool2d(x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1)):
    """Largest value of each window. x: [n, h, w, c] -> [n, out h, out w, c].

    stride: default the kernel. Taps in the padding do not count.
    """
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ys
    cdef _seam.seam_window p
    _pool_window(&p, xs.shape(), kernel, stride, padding, dilation)
    y = _empty(_output_shape(&p), _float32)
    ys = _floats(y, "y", 4, True)
    with nogil:
        _seam.seam_f32_max_pool2d(ys.floats(), xs.floats(), &p)
    return y


def max_pool2d_backward(dy, x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1), *,
                        into=None):
    """dx of max_pool2d, shaped as x: the first of equal maxima takes the gradient.

    into: add to this dx.
    """
    cdef Array dys = _floats(dy, "dy", 4)
    cdef Array xs = _floats(x, "x", 4)
    cdef Array dxs
    cdef _seam.seam_window p
    _pool_window(&p, xs.shape(), kernel, stride, padding, dilation)
    dys.expect(_output_shape(&p))
    dx = _zeros(xs.shape(), _float32) if into is None else into
    dxs = _floats(dx, "dx", 4, True)
    dxs.expect(xs.shape())
    _all_apart([dxs], [dys, xs])
    with nogil:
        _seam.seam_f32_max_pool2d_backward(dxs.floats(), dys.floats(), xs.floats(), &p)
    return dx


def average_pool2d(x, kernel=(2, 2), stride=None, padding=_NO_PADDING, dilation=(1, 1)):
    """Mean of the taps of each window that lie inside. x: [n, h, w, c] -> [n, out h, out w, c]."""
    cdef Array xs = _floats(x, "x", 4)
    cdef Array ys
    cdef _seam.seam_window p
    _pool_window(&p, xs.shape(), kernel, stride, padding, dilation)
    y = _empty(_output_shape(&p), _float32)
    ys = _floats(y, "y", 4, True)
    with nogil:
        _seam.seam_f32_average_pool2d(ys.floats(), xs.floats(), &p)
    return y


def average_pool2d_backward(dy, input_shape, kernel=(2, 2), stride=None, padding=_NO_PADDING,
                            dilation=(1, 1), *, into=None):
    """dx of average_pool2d for an input of shape (n, h, w, c). into: add to this dx."""
    cdef Array dys = _floats(dy, "dy", 4)
    cdef Array dxs
    cdef _seam.seam_window p
    shape = tuple(input_shape)
    if len(shape) != 4:
        raise ValueError(f"input_shape: expected (n, h, w, c), got {shape}")
    for size in shape:
        _count(size, "input_shape", 1)
    _pool_window(&p, shape, kernel, stride, padding, dilation)
    dys.expect(_output_shape(&p))
    dx = _zeros(shape, _float32) if into is None else into
    dxs = _floats(dx, "dx", 4, True)
    dxs.expect(shape)
    _all_apart([dxs], [dys])
    with nogil:
        _seam.seam_f32_average_pool2d_backward(dxs.floats(), dys.floats(), &p)
    return dx


# ---- Element by element ----

cdef float _ceiling(object value) except? -1:
    if not value > 0:
        raise ValueError(f"ceiling: expected a number above 0, got {value!r}")
    return <float>value


def relu(x, ceiling=float("inf")):
    """min(max(x, 0), ceiling) of an array of any shape; ceiling 6 is ReLU6. NaN stays NaN."""
    cdef Array xs = _floats(x, "x", -1)
    cdef float top = _ceiling(ceiling)
    y = _empty(xs.shape(), _float32)
    cdef Array ys = _floats(y, "y", -1, True)
    with nogil:
        _seam.seam_f32_relu(ys.floats(), xs.floats(), top, <size_t>xs.size())
    return y


def relu_backward(dy, y, ceiling=float("inf"), *, into=None):
    """dx of relu from its output y: dy where 0 < y < ceiling.

    into: add to this dx; dy itself: mask it in place.
    """
    cdef Array dys = _floats(dy, "dy", -1)
    cdef Array ys = _floats(y, "y", -1)
    cdef float top = _ceiling(ceiling)
    ys.expect(dys.shape())
    dx = _zeros(dys.shape(), _float32) if into is None else into
    cdef Array dxs = _floats(dx, "dx", -1, True)
    dxs.expect(dys.shape())
    _apart(dxs, ys)
    if dxs.view.buf != dys.view.buf:
        _apart(dxs, dys)
    with nogil:
        _seam.seam_f32_relu_backward(dxs.floats(), dys.floats(), ys.floats(), top,
                                     <size_t>dys.size())
    return dx


def add(a, b):
    """a + b, two arrays of one shape."""
    cdef Array left = _floats(a, "a", -1)
    cdef Array right = _floats(b, "b", -1)
    right.expect(left.shape())
    y = _empty(left.shape(), _float32)
    cdef Array ys = _floats(y, "y", -1, True)
    with nogil:
        _seam.seam_f32_add(ys.floats(), left.floats(), right.floats(), <size_t>left.size())
    return y


# ---- Normalisation, loss, update ----

cdef int _norm_sizes(Array xs, int32_t groups, int32_t *n, int32_t *pixels,
                     int32_t *channels) except -1:
    cdef Py_ssize_t total = xs.size()
    if xs.view.ndim < 2:
        raise ValueError(f"x: expected (n, ..., channels), got shape {xs.shape()}")
    if total > 1 << 28:
        raise ValueError(f"x: expected at most 2**28 values, got shape {xs.shape()}")
    n[0] = xs.dim(0)
    channels[0] = xs.dim(xs.view.ndim - 1)
    pixels[0] = <int32_t>(total // n[0] // channels[0])
    if groups < 1 or channels[0] % groups != 0:
        raise ValueError(f"groups: expected a divisor of {channels[0]} channels, got {groups}")
    return 0


def group_norm(x, gamma, beta, groups, epsilon=1e-5):
    """Group normalisation (Wu and He, arXiv:1803.08494). x: [n, ..., c]; gamma, beta: [c].

    Returns (y, saved); saved: [n, groups, 2] holds mean and 1 / deviation for the backward.
    """
    cdef Array xs = _floats(x, "x", -1)
    cdef Array gammas = _floats(gamma, "gamma", 1)
    cdef Array betas = _floats(beta, "beta", 1)
    cdef Array ys, saves
    cdef int32_t n, pixels, channels
    cdef int32_t parts = _count(groups, "groups", 1)
    cdef float small = epsilon
    _norm_sizes(xs, parts, &n, &pixels, &channels)
    gammas.expect((channels,))
    betas.expect((channels,))
    y = _empty(xs.shape(), _float32)
    saved = _empty((n, parts, 2), _float32)
    ys = _floats(y, "y", -1, True)
    saves = _floats(saved, "saved", 3, True)
    with nogil:
        _seam.seam_f32_group_norm(ys.floats(), saves.floats(), xs.floats(), gammas.floats(),
                                  betas.floats(), n, pixels, channels, parts, small)
    return y, saved


def group_norm_backward(dy, x, saved, gamma, *, into=None):
    """Gradients of group_norm: (dx, dgamma, dbeta).

    into: arrays to add to; None for dx: not computed.
    """
    cdef Array dys = _floats(dy, "dy", -1)
    cdef Array xs = _floats(x, "x", -1)
    cdef Array saves = _floats(saved, "saved", 3)
    cdef Array gammas = _floats(gamma, "gamma", 1)
    cdef Array dxs, dgs, dbs
    cdef int32_t n, pixels, channels
    cdef int32_t parts = saves.dim(1)
    _norm_sizes(xs, parts, &n, &pixels, &channels)
    dys.expect(xs.shape())
    saves.expect((n, parts, 2))
    gammas.expect((channels,))
    names = ("dx", "dgamma", "dbeta")
    shapes = [xs.shape(), (channels,), (channels,)]
    result = _gradients(into, names, shapes)
    targets = _targets(result, names, shapes, (True, False, False))
    _all_apart(targets, [dys, xs, saves, gammas])
    dxs, dgs, dbs = targets
    with nogil:
        _seam.seam_f32_group_norm_backward(_pointer(dxs), dgs.floats(), dbs.floats(),
                                           dys.floats(), xs.floats(), saves.floats(),
                                           gammas.floats(), n, pixels, channels, parts)
    return result


def softmax_cross_entropy(logits, labels, scale=None):
    """Loss of each sample and the gradient. logits: [n, classes]; labels: int32 [n].

    Returns (loss [n], dlogits [n, classes] = (softmax - one hot) * scale); scale: default 1 / n.
    A label outside [0, classes) is a ValueError.
    """
    cdef Array xs = _floats(logits, "logits", 2)
    cdef Array label = _hold(labels, "labels", b"i", "int32", False)
    cdef Array losses, grads
    cdef int32_t n = xs.dim(0), classes = xs.dim(1)
    cdef float factor = 1.0 / n if scale is None else scale
    cdef const int32_t *values = <const int32_t *>label.view.buf
    label.expect((n,))
    for i in range(n):
        if not 0 <= values[i] < classes:
            raise ValueError(f"labels: expected 0 to {classes - 1}, got {values[i]} at {i}")
    loss = _empty((n,), _float32)
    dlogits = _empty((n, classes), _float32)
    losses = _floats(loss, "loss", 1, True)
    grads = _floats(dlogits, "dlogits", 2, True)
    with nogil:
        _seam.seam_f32_softmax_cross_entropy(losses.floats(), grads.floats(), xs.floats(), values,
                                             n, classes, factor)
    return loss, dlogits


def sgd(w, v, dw, rate, momentum=0.0, decay=0.0):
    """One step in place on arrays of one shape.

    g = dw + decay w; v = momentum v + g; w = w - rate v, each one fused multiply-add.
    """
    cdef Array ws = _floats(w, "w", -1, True)
    cdef Array vs = _floats(v, "v", -1, True)
    cdef Array dws = _floats(dw, "dw", -1)
    cdef float a = rate, b = momentum, c = decay
    vs.expect(ws.shape())
    dws.expect(ws.shape())
    _all_apart([ws, vs], [dws])
    with nogil:
        _seam.seam_f32_sgd(ws.floats(), vs.floats(), dws.floats(), a, b, c, <size_t>ws.size())


# ---- Random bits and parcels ----

cdef object _seam_error(int status):
    return SeamError(status, _seam.seam_status_text(status).decode())


def random_bits(seed, stream, first, count):
    """uint32 [count]: random(seed, stream, first + i), the same on any machine."""
    cdef uint32_t a = _u32(seed, "seed"), b = _u32(stream, "stream"), c = _u32(first, "first")
    if not 1 <= count <= 1 << 28:
        raise ValueError(f"count: expected 1 to 2**28, got {count!r}")
    out = _empty((count,), np.uint32)
    cdef Array bits = _hold(out, "out", b"I", "uint32", True)
    with nogil:
        _seam.seam_random_fill(<uint32_t *>bits.view.buf, a, b, c, <size_t>bits.size())
    return out


def parcel_pack(x, int codec, int rounding, seed):
    """The bytes of a parcel; see parcel.pack."""
    cdef Array xs = _floats(x, "x", -1)
    cdef uint32_t shape[4]
    cdef uint32_t draw = _u32(seed, "seed")
    cdef int ndim = xs.view.ndim
    cdef int64_t written
    if not 1 <= ndim <= 4:
        raise ValueError(f"x: expected 1 to 4 axes, got shape {xs.shape()}")
    for d in range(ndim):
        shape[d] = <uint32_t>xs.view.shape[d]
    cdef size_t size = _seam.seam_parcel_size(codec, <uint32_t>ndim, shape)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(out)
    with nogil:
        written = _seam.seam_parcel_pack(place, size, xs.floats(), codec, rounding, draw,
                                         <uint32_t>ndim, shape)
    if written < 0:
        raise _seam_error(<int>written)
    return out


cdef Array _parse(_seam.seam_parcel *parcel, data, Py_ssize_t offset):
    """The parcel at `offset`; it points into `data`, which what is returned holds."""
    cdef Array source = Array.__new__(Array)
    cdef int status
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"data: expected bytes, got {type(data).__name__}")
    PyObject_GetBuffer(data, &source.view, PyBUF_SIMPLE)
    source.held = True
    if not 0 <= offset <= source.view.len:
        raise ValueError(f"offset: expected 0 to {source.view.len}, got {offset}")
    status = _seam.seam_parcel_parse(parcel, <const uint8_t *>source.view.buf + offset,
                                     <size_t>(source.view.len - offset))
    if status != 0:
        raise _seam_error(status)
    return source


def parcel_end(data, Py_ssize_t offset=0):
    """Next offset; see parcel.end."""
    cdef _seam.seam_parcel parcel
    _parse(&parcel, data, offset)
    return offset + <Py_ssize_t>parcel.size


def parcel_unpack(data, Py_ssize_t offset=0):
    """(array, next offset); see parcel.unpack."""
    cdef Array xs
    cdef _seam.seam_parcel parcel
    cdef int status
    cdef Array source = _parse(&parcel, data, offset)
    x = _empty(tuple([parcel.shape[d] for d in range(parcel.ndim)]), _float32)
    xs = _floats(x, "x", -1, True)
    with nogil:
        status = _seam.seam_parcel_unpack(xs.floats(), parcel.values, &parcel)
    if status != 0:
        raise _seam_error(status)
    del source
    return x, offset + <Py_ssize_t>parcel.size


def parcel_pack_kept(x, at, Py_ssize_t at_offset, int rounding, seed):
    """The bytes of a parcel on the places of the one in `at`; see parcel.pack_kept."""
    cdef Array xs = _floats(x, "x", -1)
    cdef _seam.seam_parcel places
    cdef uint32_t draw = _u32(seed, "seed")
    cdef Array source = _parse(&places, at, at_offset)
    cdef int64_t written
    wanted = tuple([places.shape[d] for d in range(places.ndim)])
    if xs.shape() != wanted:
        raise ValueError(f"x: expected shape {wanted}, as the parcel whose places it takes, got "
                         f"{xs.shape()}")
    cdef size_t size = _seam.seam_parcel_size(10, places.ndim, places.shape)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(out)
    with nogil:
        written = _seam.seam_parcel_pack_kept(place, size, xs.floats(), &places, rounding, draw)
    del source
    if written < 0:
        raise _seam_error(<int>written)
    return out


def parcel_unpack_kept(data, Py_ssize_t offset, at, Py_ssize_t at_offset):
    """(array, next offset); see parcel.unpack_kept."""
    cdef Array xs
    cdef _seam.seam_parcel parcel, places
    cdef int status
    cdef Array source = _parse(&parcel, data, offset), other = _parse(&places, at, at_offset)
    x = _empty(tuple([parcel.shape[d] for d in range(parcel.ndim)]), _float32)
    xs = _floats(x, "x", -1, True)
    with nogil:
        status = _seam.seam_parcel_unpack_kept(xs.floats(), parcel.values, &parcel, &places)
    del source, other
    if status != 0:
        raise _seam_error(status)
    return x, offset + <Py_ssize_t>parcel.size


include "_q8.pxi"
include "_q8_train.pxi"
include "_q8_chain.pxi"


# ---- Variants ----

def variant():
    """Name of the micro-kernels in use: "generic", "avx2", "neon", ..."""
    return _seam.seam_kernels_variant().decode()


def choose_variant(name=None):
    """Use the micro-kernels of that name (None: the best here). All give the same bits.

    Not while another thread computes. Raises ValueError for a variant that does not run here.
    """
    cdef bytes text
    cdef int status
    if name is None:
        status = _seam.seam_kernels_choose(NULL)
    else:
        text = name.encode()
        status = _seam.seam_kernels_choose(text)
    if status != 0:
        raise ValueError(f"kernel variant: expected one of {', '.join(variants())}, got {name!r}")


def variants():
    """Names of all variants that run on this machine, slowest first."""
    cdef bytes now = variant().encode()
    cdef const char *name
    cdef int index = 0
    found = []
    while (name := _seam.seam_kernels_name(index)) != NULL:
        if _seam.seam_kernels_choose(name) == 0:
            found.append(name.decode())
        index += 1
    if _seam.seam_kernels_choose(now) != 0:
        raise RuntimeError("the variant in use is gone")
    return found


def peak_work(uint32_t rounds):
    """Does nothing but float32 multiply-adds; returns how many. Timed: what one core can do."""
    cdef float result = 0
    with nogil:
        count = _seam.seam_kernels_peak(&result, rounds)
    return count


def q8_peak_work(uint32_t rounds):
    """The same with int8 multiply-adds into int32 sums."""
    cdef int32_t result = 0
    with nogil:
        count = _seam.seam_q8_peak(&result, rounds)
    return count


choose_variant(os.environ.get("SEAMLINE_KERNELS") or None)
