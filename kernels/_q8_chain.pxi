# int8 layers one after another without Python between them; a part of _core.pyx. It stays beside
# Q8Front because an inference plan of that took 2.6 to 7 times as long on the five networks.

ctypedef enum _ChainKind:
    _CONV2D
    _DEPTHWISE
    _MAX_POOL
    _AVERAGE_POOL
    _ADD
    _COPY


cdef struct _ChainStep:
    _ChainKind kind
    int32_t x, second, y
    _seam.seam_window window
    _seam.seam_q8_scaling how
    _seam.seam_q8_sum sums
    int8_t *w
    int32_t *bias
    void *packed
    size_t count


cdef class Q8Chain:
    """int8 layers one after another, in memory of their own, with weights packed once.

    Tensor 0 is the input, [n, h, w, c]; each method adds a layer behind what there is and returns
    the number of its output. Arguments are those of the functions in q8, checked as there.
    """

    cdef list arrays, held
    cdef int8_t *places[257]
    cdef _ChainStep steps[256]
    cdef int32_t count
    cdef void *scratch
    cdef size_t scratch_size

    def __init__(self, shape):
        self.arrays = []
        self.held = []
        self._add_array(shape)

    def __dealloc__(self):
        for i in range(self.count):
            free(self.steps[i].packed)
        free(self.scratch)

    cdef int _add_array(self, tuple shape) except -1:
        cdef Array array = _bytes(_zeros(shape, np.int8), "shape", 4, True)
        self.places[len(self.arrays)] = _int8(array)
        self.arrays.append(array)
        return 0

    cdef Array _tensor(self, object number):
        cdef int32_t index = _within(number, "tensor", 0, <int32_t>len(self.arrays) - 1)
        return <Array>self.arrays[index]

    cdef _ChainStep *_open(self, _ChainKind kind, int32_t x, tuple shape) except NULL:
        """A step that is in the chain only when `_close` has counted it."""
        cdef _ChainStep *step = &self.steps[self.count]
        if self.count == 256:
            raise ValueError("layers: expected at most 256, got more")
        step.kind = kind
        step.x = x
        step.y = <int32_t>len(self.arrays)
        step.packed = NULL
        self._add_array(shape)
        step.count = <size_t>(<Array>self.arrays[step.y]).size()
        return step

    cdef int32_t _close(self, _ChainStep *step, object held, size_t scratch) except -1:
        cdef void *more
        if scratch > self.scratch_size:
            more = _scratch(scratch)
            free(self.scratch)
            self.scratch = more
            self.scratch_size = scratch
        self.held.append(held)
        self.count += 1
        return step.y

    cdef int32_t _convolution(self, int32_t source, Array ws, object bias, Scaling scaling,
                              const _seam.seam_window *p, tuple shape) except -1:
        cdef Array bs = _q8_bias(bias, p.out_c, <int64_t>p.kernel_h * p.kernel_w * p.in_c)
        cdef _ChainStep *step = self._open(_CONV2D, source, shape)
        cdef size_t size = _seam.seam_q8_conv2d_packed_size(p, 1)
        step.window = p[0]
        step.how = scaling.how
        step.w = _int8(ws)
        step.bias = _int32(bs)
        if size:
            step.packed = _scratch(size)
            _seam.seam_q8_conv2d_pack(step.packed, step.w, p, 1)
        return self._close(step, (ws, bs, scaling), _seam.seam_q8_conv2d_scratch(p, 1))

    def conv2d(self, source, w, bias=None, *, x_zero, y_zero, multiplier, shift, stride=(1, 1),
               padding=_NO_PADDING, dilation=(1, 1), y_min=-128, y_max=127):
        """Convolution of one group."""
        cdef Array xs = self._tensor(source)
        cdef Array ws = _bytes(w, "w", 4)
        cdef _seam.seam_window p
        if ws.dim(3) != xs.dim(3):
            raise ValueError(f"w: expected {xs.dim(3)} input channels, got shape {ws.shape()}")
        _window(&p, xs.shape(), ws.dim(1), ws.dim(2), ws.dim(0), stride, padding, dilation)
        scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, p.out_c)
        return self._convolution(source, ws, bias, scaling, &p, _output_shape(&p))

    def depthwise_conv2d(self, source, w, bias=None, *, x_zero, y_zero, multiplier, shift,
                         stride=(1, 1), padding=_NO_PADDING, dilation=(1, 1), y_min=-128,
                         y_max=127):
        """Depthwise convolution."""
        cdef Array xs = self._tensor(source)
        cdef Array ws = _bytes(w, "w", 4)
        cdef Array bs
        cdef Scaling scaling
        cdef _ChainStep *step
        cdef _seam.seam_window p
        _depthwise_window(&p, xs, ws, stride, padding, dilation)
        scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, p.out_c)
        bs = _q8_bias(bias, p.out_c, <int64_t>p.kernel_h * p.kernel_w)
        step = self._open(_DEPTHWISE, source, _output_shape(&p))
        step.window = p
        step.how = scaling.how
        step.w = _int8(ws)
        step.bias = _int32(bs)
        return self._close(step, (ws, bs, scaling), 0)

    def dense(self, source, w, bias=None, *, x_zero, y_zero, multiplier, shift, y_min=-128,
              y_max=127):
        """Dense layer of all values of a sample; w: int8 [out, in]."""
        cdef Array xs = self._tensor(source)
        cdef Array ws = _bytes(w, "w", 2)
        cdef int32_t n = xs.dim(0), in_ = <int32_t>(xs.size() // xs.dim(0))
        cdef _seam.seam_window p
        if ws.dim(1) != in_:
            raise ValueError(f"w: expected {in_} inputs, got shape {ws.shape()}")
        if max(ws.shape()) > 65535:
            raise ValueError(f"w: expected at most 65535 along each axis, got {ws.shape()}")
        scaling = _scaling(x_zero, y_zero, multiplier, shift, y_min, y_max, ws.dim(0))
        p = _seam.seam_dense_window(n, in_, ws.dim(0))
        return self._convolution(source, ws, bias, scaling, &p, (n, 1, 1, ws.dim(0)))

    cdef int32_t _pool(self, _ChainKind kind, object source, object kernel, object stride,
                       object padding, object y_min, object y_max) except -1:
        cdef Array xs = self._tensor(source)
        cdef _ChainStep *step
        cdef _seam.seam_window p
        cdef int32_t least, most
        _q8_pool_window(&p, xs, kernel, stride, padding, (1, 1))
        _range(y_min, y_max, &least, &most)
        step = self._open(kind, source, _output_shape(&p))
        step.window = p
        step.how.y_min = least
        step.how.y_max = most
        return self._close(step, None, 0)

    def max_pool2d(self, source, kernel, stride, padding=_NO_PADDING, *, y_min=-128, y_max=127):
        """Largest value of each window."""
        return self._pool(_MAX_POOL, source, kernel, stride, padding, y_min, y_max)

    def average_pool2d(self, source, kernel, stride, padding=_NO_PADDING, *, y_min=-128,
                       y_max=127):
        """Mean of each window."""
        return self._pool(_AVERAGE_POOL, source, kernel, stride, padding, y_min, y_max)

    def add(self, a, b, *, a_zero, a_multiplier, a_shift, b_zero, b_multiplier, b_shift, y_zero,
            y_multiplier, y_shift, y_min=-128, y_max=127):
        """Residual sum."""
        cdef Array left = self._tensor(a)
        cdef Array right = self._tensor(b)
        cdef _seam.seam_q8_sum sums
        cdef _ChainStep *step
        right.expect(left.shape())
        _sum_scaling(&sums, a_zero, a_multiplier, a_shift, b_zero, b_multiplier, b_shift, y_zero,
                     y_multiplier, y_shift, y_min, y_max)
        step = self._open(_ADD, a, left.shape())
        step.second = b
        step.sums = sums
        return self._close(step, None, 0)

    def flatten(self, source):
        """The same values as one line of channels."""
        cdef Array xs = self._tensor(source)
        cdef _ChainStep *step = self._open(
            _COPY, source, (xs.dim(0), 1, 1, xs.size() // xs.dim(0))
        )
        return self._close(step, None, 0)

    def forward(self, x):
        """Runs all layers; x like tensor 0. Returns the output, valid until the next call."""
        cdef Array xs = _bytes(x, "x", 4)
        cdef int32_t i
        xs.expect((<Array>self.arrays[0]).shape())
        with nogil:
            memcpy(self.places[0], xs.view.buf, <size_t>xs.view.len)
            for i in range(self.count):
                _chain_run(&self.steps[i], self.places, self.scratch)
        return np.asarray((<Array>self.arrays[self.count]).view.obj)


cdef void _chain_run(const _ChainStep *s, int8_t **places, void *scratch) noexcept nogil:
    cdef int8_t *x = places[s.x]
    cdef int8_t *y = places[s.y]
    if s.kind == _CONV2D:
        _seam.seam_q8_conv2d(y, x, s.w, s.bias, &s.how, &s.window, 1, s.packed, scratch)
    elif s.kind == _DEPTHWISE:
        _seam.seam_q8_depthwise(y, x, s.w, s.bias, &s.how, &s.window)
    elif s.kind == _MAX_POOL:
        _seam.seam_q8_max_pool2d(y, x, &s.window, s.how.y_min, s.how.y_max)
    elif s.kind == _AVERAGE_POOL:
        _seam.seam_q8_average_pool2d(y, x, &s.window, s.how.y_min, s.how.y_max)
    elif s.kind == _ADD:
        _seam.seam_q8_add(y, x, places[s.second], &s.sums, s.count)
    else:
        memcpy(y, x, s.count)
