# cython: language_level=3
"""Faces of messages, plans, the front and the session: they check and call C without the GIL."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cimport _seam

import numpy as np

from . import _core
from .errors import SeamError

cdef extern from *:  # the face is large and never hot: the kernels are files of their own
    """
    #if defined(__GNUC__) && !defined(__clang__)
    #pragma GCC optimize ("Os")
    #endif
    """

cdef extern from "seam_front.h" nogil:
    enum:
        SEAM_MESSAGE_HEADER, SEAM_MESSAGE_MAX, SEAM_DEVICE_ID_MAX
        SEAM_DO_NOTHING, SEAM_DO_SEND, SEAM_DO_MEMORY, SEAM_DO_TRAIN, SEAM_DO_TEST, SEAM_DO_END
        SEAM_DO_FAIL
    ctypedef struct seam_message:
        uint8_t kind
        uint16_t flags
        uint32_t session, round, step, body_size
        const uint8_t *body
    void seam_message_header(uint8_t *out, const seam_message *message)
    int seam_message_parse(seam_message *message, const uint8_t *bytes_, size_t size)
    ctypedef struct seam_plan:
        uint8_t dtype, inference, momentum
        uint16_t layers, tensors, batch, output, seam
        uint32_t parameters, arena_size, scratch_offset, scratch_size, blob_size, velocity_size
    ctypedef struct seam_tensor:
        uint16_t h, w, c
        uint32_t value_offset, gradient_offset, values
    ctypedef struct seam_layer:
        uint8_t kind, has_bias
        uint16_t input
        uint32_t parameter_count
        _seam.seam_window window
    int seam_plan_open(seam_plan *plan, const uint8_t *bytes_, size_t size)
    void seam_plan_tensor(seam_tensor *tensor, const seam_plan *plan, uint32_t index)
    size_t seam_layer_scratch(const seam_layer *layer)
    ctypedef struct seam_q8_layer_needs:
        uint64_t fixed, sums, piece
    seam_q8_layer_needs seam_q8_layer_scratch(const seam_layer *layer, int joining, int inference)
    ctypedef struct seam_q8_front:
        seam_plan plan
        uint8_t *blob
        int8_t *velocity
        int32_t *velocity_exponents
        int8_t *extremes
        int32_t batch
    ctypedef struct seam_q8_step:
        float rate, momentum, decay
        uint32_t seed
        int mode
    int seam_q8_front_init(seam_q8_front *front, const seam_plan *plan, void *arena,
                           size_t arena_size)
    int seam_q8_front_set(seam_q8_front *front, const uint8_t *blob, size_t size)
    int8_t *seam_q8_front_input(const seam_q8_front *front)
    int8_t *seam_q8_front_value(const seam_q8_front *front, uint32_t tensor)
    int8_t *seam_q8_front_gradient(const seam_q8_front *front, uint32_t tensor)
    float seam_q8_front_scale(int32_t *zero, const seam_q8_front *front, uint32_t tensor)
    int seam_q8_front_quantise(const seam_q8_front *front, const float *x, int32_t n)
    void seam_q8_front_forward(seam_q8_front *front, int32_t n, uint32_t first, uint32_t end,
                               int note)
    void seam_q8_front_backward(seam_q8_front *front, uint32_t end, int32_t exponent,
                                const seam_q8_step *step)
    int seam_q8_front_loss(seam_q8_front *front, float *loss_sum, uint32_t *correct,
                           int32_t *exponent, const int32_t *labels, const seam_q8_step *step)
    ctypedef struct seam_front:
        seam_plan plan
        uint8_t *arena
        float *parameters
        float *momentum
        float *gradients
        int32_t batch
    int seam_front_init(seam_front *front, const seam_plan *plan, void *arena, size_t arena_size)
    float *seam_front_input(const seam_front *front)
    float *seam_front_value(const seam_front *front, uint32_t tensor)
    float *seam_front_gradient(const seam_front *front, uint32_t tensor)
    void seam_front_forward(seam_front *front, int32_t n, uint32_t first, uint32_t end)
    void seam_front_backward(seam_front *front, uint32_t end)
    void seam_front_update(seam_front *front, uint32_t end, float rate, float momentum,
                           float decay)
    int32_t seam_exit_answer(const float *logits, int32_t classes, float inverse, float most)
    int seam_front_loss(seam_front *front, float *loss_sum, uint32_t *correct,
                        const int32_t *labels)
    ctypedef struct seam_device_facts:
        const uint8_t *id
        uint8_t id_size
        uint8_t boot_id[8]
        uint32_t ram, flash, training_samples, test_samples, saved_round
        uint8_t has_checkpoint
        float least, most
    ctypedef struct seam_session:
        seam_device_facts facts
        uint32_t number, seed
        uint16_t batch
        uint8_t q8
        seam_front front
        seam_q8_front q8_front
        float *inputs
        int32_t *labels
        uint32_t round, trained_round
        uint8_t *answer
        uint32_t answer_size
        uint64_t need_bytes
        uint32_t need_first, need_count
        uint16_t failed_code, failed_size
        const uint8_t *failed_text
        const uint8_t *pending_plan
        uint32_t plan_size
    void seam_session_init(seam_session *s, const seam_device_facts *facts)
    void seam_session_hello(seam_session *s)
    int seam_session_receive(seam_session *s, const uint8_t *bytes_, size_t size)
    int seam_session_memory(seam_session *s, void *memory)
    int seam_session_batch(seam_session *s)
    int seam_session_refuse(seam_session *s, int status)

cdef extern from "seam_trace.h" nogil:
    ctypedef int seam_trace_kind
    ctypedef void seam_trace_hear(void *context, seam_trace_kind kind, uint32_t layer,
                                  uint32_t crc) noexcept nogil
    int seam_trace_run(const uint8_t *record, size_t size, void *arena, size_t arena_size,
                       seam_trace_hear *hear, void *context)

HEADER = SEAM_MESSAGE_HEADER
NOTHING, SEND, TRAIN, TEST, END, FAIL = (
    SEAM_DO_NOTHING, SEAM_DO_SEND, SEAM_DO_TRAIN, SEAM_DO_TEST, SEAM_DO_END, SEAM_DO_FAIL
)


MODES = {"nearest": 0, "stochastic": 1, "truncate": 2}


def choose_variant(str name not None):
    """This module holds its own copy of the kernels: use the variant `name` in it as well."""
    cdef bytes raw = name.encode()
    cdef int status = _seam.seam_kernels_choose(raw)
    if status != 0:
        raise _error(status)


cdef object _error(int status):
    return SeamError(status, _seam.seam_status_text(status).decode())


choose_variant(_core.variant())


@cython.final
cdef class Bytes:
    """Somebody's contiguous bytes, held while C reads them."""

    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, object source):
        PyObject_GetBuffer(source, &self.view, PyBUF_SIMPLE)
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef inline const uint8_t *data(self) noexcept nogil:
        return <const uint8_t *>self.view.buf

    cdef inline size_t size(self) noexcept nogil:
        return <size_t>self.view.len


# ---- Messages ----

def encode_message(uint8_t kind, uint32_t session, uint32_t round, uint32_t step, uint16_t flags,
                   object body):
    """Header and body as bytes. Raises SeamError if the body is over the limit."""
    cdef Bytes b = Bytes(body)
    if b.size() > SEAM_MESSAGE_MAX - SEAM_MESSAGE_HEADER:
        raise _error(-7)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, SEAM_MESSAGE_HEADER + <Py_ssize_t>b.size())
    cdef uint8_t *p = <uint8_t *>PyBytes_AS_STRING(out)
    cdef seam_message m
    m.kind, m.flags, m.session, m.round, m.step = kind, flags, session, round, step
    m.body_size = <uint32_t>b.size()
    m.body = NULL
    seam_message_header(p, &m)
    _copy(p + SEAM_MESSAGE_HEADER, b.data(), b.size())
    return out


cdef extern from "string.h" nogil:
    void *memcpy(void *to, const void *source, size_t size)


cdef inline void _copy(uint8_t *to, const uint8_t *source, size_t size) noexcept nogil:
    if size:
        memcpy(to, source, size)


def decode_message(object data):
    """(kind, flags, session, round, step, body: a memoryview). SeamError for other bytes."""
    cdef Bytes b = Bytes(data)
    cdef seam_message m
    cdef int status = seam_message_parse(&m, b.data(), b.size())
    if status != 0:
        raise _error(status)
    body = memoryview(data).cast("B")[SEAM_MESSAGE_HEADER:]
    return m.kind, m.flags, m.session, m.round, m.step, body


# ---- Plans ----

def layer_scratch(uint8_t kind, uint16_t batch, tuple in_shape, tuple out_shape, tuple window,
                  uint16_t source):
    """Scratch bytes of a layer. window: kernel, stride, dilation, pads (top to right); source: the
    tensor it reads, 0 is the front's input.
    """
    cdef seam_layer layer
    layer.input = source
    cdef _seam.seam_window *w = &layer.window
    layer.kind = kind
    w.batch = batch
    w.in_h, w.in_w, w.in_c = in_shape
    w.out_h, w.out_w, w.out_c = out_shape
    (w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w,
     w.pad_top, w.pad_bottom, w.pad_left, w.pad_right) = window
    return seam_layer_scratch(&layer)


def q8_layer_scratch(uint8_t kind, uint16_t batch, tuple in_shape, tuple out_shape, tuple window,
                     uint16_t input, uint32_t parameters, bint has_bias, bint joining,
                     bint inference):
    """(fixed, sums, piece): scratch bytes of a layer of an int8 front; of its weighed gradient and
    its int32 sums as a whole; of the least pieces they can be made in.

    parameters: how many weights and biases; joining: another layer reads an input of it, too.
    """
    cdef seam_layer layer
    cdef _seam.seam_window *w = &layer.window
    cdef seam_q8_layer_needs needs
    layer.kind, layer.input, layer.has_bias = kind, input, has_bias
    layer.parameter_count = parameters
    w.batch = batch
    w.in_h, w.in_w, w.in_c = in_shape
    w.out_h, w.out_w, w.out_c = out_shape
    (w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w,
     w.pad_top, w.pad_bottom, w.pad_left, w.pad_right) = window
    needs = seam_q8_layer_scratch(&layer, joining, inference)
    return needs.fixed, needs.sums, needs.piece


def check_plan(object data):
    """(layers, batch, parameters, arena bytes) of a plan that is whole; SeamError if it is not."""
    cdef Bytes b = Bytes(data)
    cdef seam_plan plan
    cdef int status = seam_plan_open(&plan, b.data(), b.size())
    if status != 0:
        raise _error(status)
    return plan.layers, plan.batch, plan.parameters, plan.arena_size


cdef struct Heard:
    uint32_t *rows
    size_t count, space


cdef void _hear(void *context, seam_trace_kind kind, uint32_t layer, uint32_t crc) noexcept nogil:
    cdef Heard *heard = <Heard *>context
    cdef uint32_t *row = heard.rows + 3 * heard.count
    if heard.count < heard.space:
        row[0], row[1], row[2] = <uint32_t>kind, layer, crc
        heard.count += 1


def trace(object record, size_t arena_size):
    """Runs a record (seam_trace.h) in an arena of that size: uint32 rows (kind, layer, CRC-32)."""
    cdef Bytes b = Bytes(record)
    cdef Heard heard
    rows = np.zeros((4 * 65535 + 4, 3), np.uint32)
    held, arena = _aligned(b.size()), _aligned(arena_size)
    held[:] = np.frombuffer(record, np.uint8)
    cdef const uint8_t *at = <const uint8_t *><uintptr_t>held.ctypes.data
    cdef void *memory = <void *><uintptr_t>arena.ctypes.data
    heard.rows = <uint32_t *><uintptr_t>rows.ctypes.data
    heard.count, heard.space = 0, len(rows)
    cdef int status
    with nogil:
        status = seam_trace_run(at, b.size(), memory, arena_size, _hear, &heard)
    if status != 0:
        raise _error(status)
    return rows[:heard.count].copy()


cdef object _aligned(uint64_t size):
    """A zeroed byte array whose first byte is 64-aligned."""
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + size]


cdef object _floats_at(object arena, uint8_t *base, const float *p, uint64_t count, tuple shape):
    start = <const uint8_t *>p - base
    return arena[start:start + 4 * count].view(np.float32).reshape(shape)


cdef object _bytes_at(object arena, uint8_t *base, const uint8_t *p, tuple shape):
    start = p - base
    return arena[start:start + np.prod(shape, dtype=np.int64)].view(np.int8).reshape(shape)


cdef tuple _q8_views(object arena, uint8_t *base, const seam_q8_front *front):
    """What a front has learned, its velocities as bytes (None: it has none), their exponents,
    extremes."""
    cdef uint32_t size = front.plan.parameters
    learned = _bytes_at(arena, base, front.blob, (size,))
    velocity = None
    if front.velocity != NULL:
        velocity = _bytes_at(arena, base, <uint8_t *>front.velocity,
                             (front.plan.velocity_size,))
    exponents = _bytes_at(arena, base, <uint8_t *>front.velocity_exponents,
                          (4 * front.plan.layers,)).view(np.int32)
    extremes = _bytes_at(arena, base, <uint8_t *>front.extremes, (front.plan.tensors, 2))
    return learned, velocity, exponents, extremes


cdef tuple _shape(const seam_plan *plan, uint32_t index):
    cdef seam_tensor t
    seam_plan_tensor(&t, plan, index)
    return t.h, t.w, t.c


def exit_answers(logits, float temperature, float most_entropy):
    """Of each row of float32 logits [n, classes] its class, int32, if the exit is sure: the entropy
    of softmax(logits / temperature) is at most most_entropy nats; else -1.

    BranchyNet, arXiv:1709.01686.
    """
    if not temperature > 0 or not 1 / temperature < 3.4e38:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    held = np.ascontiguousarray(logits, dtype=np.float32)
    if held.ndim != 2 or held.shape[1] == 0:
        raise ValueError(f"logits: expected [n, classes], got {held.shape}")
    found = np.empty(len(held), np.int32)
    cdef uintptr_t source = held.ctypes.data, to = found.ctypes.data
    cdef int32_t classes = held.shape[1], i, n = held.shape[0]
    cdef float inverse = 1 / temperature
    for i in range(n):
        (<int32_t *>to)[i] = seam_exit_answer(
            <const float *>source + <size_t>i * classes, classes, inverse, most_entropy)
    return found


@cython.final
cdef class Front:
    """The layers of a plan in an arena of their own.

    plan: bytes as `build_plan` makes them. Raises SeamError if the plan is damaged.
    """

    cdef seam_front front
    cdef readonly object arena, params, momentum, gradients
    cdef readonly tuple input_shape, output_shape, seam_shape
    cdef object plan, inputs, outputs, output_gradients, crossings

    def __init__(self, bytes plan not None):
        cdef Bytes b = Bytes(plan)
        cdef seam_plan opened
        cdef int status = seam_plan_open(&opened, b.data(), b.size())
        if status != 0:
            raise _error(status)
        self.plan = plan
        self.arena = _aligned(opened.arena_size)
        cdef uint8_t *base = <uint8_t *><uintptr_t>self.arena.ctypes.data
        status = seam_front_init(&self.front, &opened, base, opened.arena_size)
        if status != 0:
            raise _error(status)
        p = opened.parameters
        self.params = _floats_at(self.arena, base, self.front.parameters, p, (p,))
        self.momentum = _floats_at(self.arena, base, self.front.momentum, p, (p,))
        self.gradients = _floats_at(self.arena, base, self.front.gradients, p, (p,))
        self.input_shape = _shape(&opened, 0)
        self.output_shape = _shape(&opened, opened.output)
        n = opened.batch
        size_in = n * self.input_shape[0] * self.input_shape[1] * self.input_shape[2]
        size_out = n * self.output_shape[0] * self.output_shape[1] * self.output_shape[2]
        self.inputs = _floats_at(self.arena, base, seam_front_input(&self.front), size_in,
                                 (n, *self.input_shape))
        self.outputs = _floats_at(
            self.arena, base, seam_front_value(&self.front, opened.output), size_out,
            (n, *self.output_shape))
        self.output_gradients = _floats_at(
            self.arena, base, seam_front_gradient(&self.front, opened.output), size_out,
            (n, *self.output_shape))
        self.seam_shape = _shape(&opened, opened.seam)
        size_seam = n * self.seam_shape[0] * self.seam_shape[1] * self.seam_shape[2]
        self.crossings = _floats_at(self.arena, base, seam_front_value(&self.front, opened.seam),
                                    size_seam, (n, *self.seam_shape))

    @property
    def arena_size(self):
        """Bytes of the arena."""
        return self.front.plan.arena_size

    @property
    def batch(self):
        """The largest batch."""
        return self.front.plan.batch

    def forward(self, x):
        """x: float32 [n, h, w, c], n <= batch. Returns the output [n, h', w', c'], a copy."""
        cdef int32_t n
        shape = np.shape(x)
        if len(shape) != 4 or shape[1:] != self.input_shape or not 0 < shape[0] <= self.batch:
            raise ValueError(
                f"x: expected [1..{self.batch}, {str(self.input_shape)[1:-1]}], got {shape}")
        if getattr(x, "dtype", None) != np.float32:
            raise TypeError(f"x: expected dtype float32, got {getattr(x, 'dtype', type(x))}")
        n = shape[0]
        self.inputs[:n] = x
        with nogil:
            seam_front_forward(&self.front, n, 0, self.front.plan.layers)
        return self.outputs[:n].copy()

    def crossing(self):
        """What crosses the seam of the last `forward`, a copy; without an exit it is the output."""
        return self.crossings[:self.front.batch].copy()

    cdef int _forwarded(self) except -1:
        if self.front.batch == 0:
            raise ValueError("backward needs a forward of its own: none ran since the last one")
        return 0

    def backward(self, dy=None):
        """dy: float32 like the last output; None after `loss`. Fills `gradients`."""
        self._forwarded()
        if dy is not None:
            n = self.front.batch
            if np.shape(dy) != (n, *self.output_shape):
                raise ValueError(f"dy: expected {(n, *self.output_shape)}, got {np.shape(dy)}")
            self.output_gradients[:n] = dy
        with nogil:
            seam_front_backward(&self.front, self.front.plan.layers)

    def loss(self, labels):
        """Softmax cross-entropy of the last output, labels int [n]: (mean loss, number right)."""
        self._forwarded()
        cdef int32_t n = self.front.batch
        held = np.ascontiguousarray(labels, dtype=np.int32)
        if held.shape != (n,):
            raise ValueError(f"labels: expected shape {(n,)}, got {held.shape}")
        cdef uintptr_t address = held.ctypes.data
        cdef float total = 0
        cdef uint32_t correct = 0
        cdef int status
        with nogil:
            status = seam_front_loss(&self.front, &total, &correct, <const int32_t *>address)
        if status != 0:
            raise _error(status)
        return total / n, correct

    def update(self, float rate, float momentum=0.0, float decay=0.0):
        """One step of SGD with the gradients of the last backward."""
        with nogil:
            seam_front_update(&self.front, self.front.plan.layers, rate, momentum, decay)


@cython.final
cdef class Q8Front:
    """The int8 layers of a plan in an arena of their own.

    plan: bytes as `build_q8_plan` makes them. Raises SeamError if the plan is damaged. It has no
    parameters before `set`.
    """

    cdef seam_q8_front front
    cdef readonly object arena, learned, velocity, velocity_exponents, extremes
    cdef readonly tuple input_shape, output_shape, seam_shape
    cdef object plan, inputs, outputs, output_gradients, crossings
    cdef bint ready

    def __init__(self, bytes plan not None):
        cdef Bytes b = Bytes(plan)
        cdef seam_plan opened
        cdef int status = seam_plan_open(&opened, b.data(), b.size())
        if status != 0:
            raise _error(status)
        self.plan = plan
        self.arena = _aligned(opened.arena_size)
        cdef uint8_t *base = <uint8_t *><uintptr_t>self.arena.ctypes.data
        status = seam_q8_front_init(&self.front, &opened, base, opened.arena_size)
        if status != 0:
            raise _error(status)
        self.learned, self.velocity, self.velocity_exponents, self.extremes = _q8_views(
            self.arena, base, &self.front)
        self.input_shape = _shape(&opened, 0)
        self.output_shape = _shape(&opened, opened.output)
        n = opened.batch
        self.inputs = _bytes_at(self.arena, base, <uint8_t *>seam_q8_front_input(&self.front),
                                (n, *self.input_shape))
        self.outputs = _bytes_at(
            self.arena, base, <uint8_t *>seam_q8_front_value(&self.front, opened.output),
            (n, *self.output_shape))
        self.output_gradients = None if opened.inference else _bytes_at(
            self.arena, base, <uint8_t *>seam_q8_front_gradient(&self.front, opened.output),
            (n, *self.output_shape))
        self.seam_shape = _shape(&opened, opened.seam)
        self.crossings = _bytes_at(
            self.arena, base, <uint8_t *>seam_q8_front_value(&self.front, opened.seam),
            (n, *self.seam_shape))

    @property
    def arena_size(self):
        """Bytes of the arena."""
        return self.front.plan.arena_size

    @property
    def batch(self):
        """The largest batch."""
        return self.front.plan.batch

    def set(self, blob):
        """Takes all parameters, the bytes of `q8_parameters.blob_of`; velocities stay.

        Raises SeamError for bytes of another plan or numbers that are out of range.
        """
        cdef Bytes b = Bytes(blob)
        cdef int status = seam_q8_front_set(&self.front, b.data(), b.size())
        self.ready = status == 0
        if status != 0:
            raise _error(status)

    def forward(self, x, bint note=False):
        """x: int8, or float32 to be quantised, [n, h, w, c], n <= batch. Returns the int8 output,
        a copy. note: widen `extremes`, the least and largest value of each tensor.
        """
        cdef int32_t n
        cdef int status
        cdef uintptr_t address
        if not self.ready:
            raise ValueError("the front has no parameters: call set first")
        shape = np.shape(x)
        if len(shape) != 4 or shape[1:] != self.input_shape or not 0 < shape[0] <= self.batch:
            raise ValueError(
                f"x: expected [1..{self.batch}, {str(self.input_shape)[1:-1]}], got {shape}")
        n = shape[0]
        if x.dtype == np.float32:
            held = np.ascontiguousarray(x)
            address = held.ctypes.data
            status = seam_q8_front_quantise(&self.front, <const float *>address, n)
            if status != 0:
                raise _error(status)
        elif x.dtype == np.int8:
            self.inputs[:n] = x
        else:
            raise TypeError(f"x: expected dtype int8 or float32, got {x.dtype}")
        with nogil:
            seam_q8_front_forward(&self.front, n, 0, self.front.plan.layers, note)
        return self.outputs[:n].copy()

    def crossing(self):
        """What crosses the seam of the last `forward`, int8, a copy."""
        return self.crossings[:self.front.batch].copy()

    def backward(self, dy, int32_t exponent, *, float rate, float momentum=0.0, float decay=0.0,
                 uint32_t seed=0, mode="stochastic"):
        """Gradients and update in one, from dy: int8 like the last output, which counts
        2^exponent of the gradient with respect to the output's int8 values.
        """
        cdef seam_q8_step step = self._step(rate, momentum, decay, seed, mode)
        n = self.front.batch
        self._forwarded()
        if np.shape(dy) != (n, *self.output_shape) or dy.dtype != np.int8:
            raise ValueError(f"dy: expected int8 {(n, *self.output_shape)}, got {np.shape(dy)}")
        if not -1000 <= exponent <= 1000:
            raise ValueError(f"exponent: expected -1000 to 1000, got {exponent}")
        self.output_gradients[:n] = dy
        with nogil:
            seam_q8_front_backward(&self.front, self.front.plan.layers, exponent, &step)

    def train(self, labels, *, float rate, float momentum=0.0, float decay=0.0, uint32_t seed=0,
              mode="stochastic"):
        """Softmax cross-entropy of the last output, labels int [n], and a step of it: (mean loss,
        number right).
        """
        cdef seam_q8_step step = self._step(rate, momentum, decay, seed, mode)
        self._forwarded()
        cdef int32_t n = self.front.batch, exponent = 0
        held = np.ascontiguousarray(labels, dtype=np.int32)
        if held.shape != (n,):
            raise ValueError(f"labels: expected shape {(n,)}, got {held.shape}")
        cdef uintptr_t address = held.ctypes.data
        cdef float total = 0
        cdef uint32_t correct = 0
        cdef int status
        with nogil:
            status = seam_q8_front_loss(&self.front, &total, &correct, &exponent,
                                        <const int32_t *>address, &step)
            if status == 0:
                seam_q8_front_backward(&self.front, self.front.plan.layers, exponent, &step)
        if status != 0:
            raise _error(status)
        return total / n, correct

    cdef int _forwarded(self) except -1:
        if self.front.plan.inference:
            raise ValueError("this plan is for inference only: build it with training=True")
        if self.front.batch == 0:
            raise ValueError("backward needs a forward of its own: none ran since the last one")
        return 0

    cdef seam_q8_step _step(self, float rate, float momentum, float decay, uint32_t seed,
                            object mode) except *:
        cdef seam_q8_step step
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        for name, value, most in (("rate", rate, 2.0**20), ("momentum", momentum, 1.0),
                                  ("decay", decay, 2.0**20)):
            if not 0 <= value < most:
                raise ValueError(f"{name}: expected 0 <= {name} < {most:g}, got {value}")
        step.rate, step.momentum, step.decay, step.seed = rate, momentum, decay, seed
        step.mode = MODES[mode]
        return step


@cython.final
cdef class Session:
    """The device's side of the conversation. Feed messages to `receive`; do what it says.

    device_id: at most 63 bytes of UTF-8. boot_id: 8 random bytes. memory_limit: bytes a plan may
    take, 0: no limit. samples: the least and the largest value of the training samples.
    """

    cdef seam_session s
    cdef bytes device_id
    cdef object memory, last
    cdef bytes kept_plan
    cdef uint32_t kept_round
    cdef uint64_t memory_limit
    cdef readonly object params, momentum, learned, velocity, exponents, inputs, labels, plan

    def __init__(self, str device_id not None, bytes boot_id not None, uint32_t training_samples,
                 uint32_t test_samples, uint64_t memory_limit=0, *, samples=(0.0, 0.0)):
        cdef seam_device_facts facts
        self.device_id = device_id.encode()
        if not 0 < len(self.device_id) <= SEAM_DEVICE_ID_MAX or len(boot_id) != 8:
            raise ValueError("device_id: expected 1 to 63 bytes; boot_id: expected 8 bytes")
        facts.id = <const uint8_t *>PyBytes_AS_STRING(self.device_id)
        facts.id_size = <uint8_t>len(self.device_id)
        memcpy(facts.boot_id, PyBytes_AS_STRING(boot_id), 8)
        facts.ram = <uint32_t>min(memory_limit, 0xFFFFFFFF)
        facts.flash = 0
        facts.training_samples = training_samples
        facts.test_samples = test_samples
        facts.saved_round = 0
        facts.has_checkpoint = 0
        facts.least, facts.most = samples
        self.memory_limit = memory_limit
        seam_session_init(&self.s, &facts)

    def hello(self):
        """Forget the peer and return the HELLO to send."""
        seam_session_hello(&self.s)
        return self.answer()

    def saved(self, uint32_t round, bytes plan):
        """A front of `plan`, trained up to `round`, can be restored; None for plan: no more.

        The host is told so, in READY, only if it asks for that very plan.
        """
        self.kept_round, self.kept_plan = round, plan

    @property
    def memory_bytes(self):
        """What it asked for with the last plan; 0 before."""
        return self.s.need_bytes

    def answer(self):
        """The message to send after SEND."""
        return PyBytes_FromStringAndSize(<char *>self.s.answer, self.s.answer_size)

    def receive(self, object data):
        """An action: NOTHING, SEND, TRAIN, TEST, END, FAIL. Raises SeamError for bytes to drop."""
        cdef Bytes b = Bytes(data)
        cdef int action
        self.last = b
        with nogil:
            action = seam_session_receive(&self.s, b.data(), b.size())
        if action == SEAM_DO_MEMORY:
            action = self._give_memory()
        return self._checked(action)

    def batch(self):
        """The batch asked for is in `inputs` and `labels`: go on. Returns an action."""
        cdef int action
        with nogil:
            action = seam_session_batch(&self.s)
        return self._checked(action)

    def refuse(self, int status):
        """Tell the host that the data cannot be used. Returns an action."""
        return self._checked(seam_session_refuse(&self.s, status))

    cdef int _checked(self, int action) except -1:
        if action < 0:
            raise _error(action)
        return action

    cdef int _give_memory(self) except? -1:
        if self.memory_limit and self.s.need_bytes > self.memory_limit:
            return seam_session_memory(&self.s, NULL)
        asked = PyBytes_FromStringAndSize(<char *>self.s.pending_plan, self.s.plan_size)
        old = self._learnt(asked)
        self.s.facts.has_checkpoint = old is not None or asked == self.kept_plan
        if old is None:
            self.s.facts.saved_round = self.kept_round if asked == self.kept_plan else 0
            self.s.trained_round = 0
        else:
            self.s.facts.saved_round = self.s.trained_round
        try:
            memory = _aligned(self.s.need_bytes)
        except MemoryError:
            return seam_session_memory(&self.s, NULL)
        cdef uint8_t *base = <uint8_t *><uintptr_t>memory.ctypes.data
        cdef int action = seam_session_memory(&self.s, base)
        self.memory, self.plan = memory, asked
        if action != SEAM_DO_SEND:
            return action
        self._open_views(base)
        if old is not None:
            self.restore_front(old)
            self.restore_momentum(old)
        return action

    cdef object _learnt(self, bytes asked):
        """What this front has learnt, if the link was lost and the host asks for it again."""
        if asked != self.plan or self.s.trained_round == 0:
            return None
        return self.kept() if all(np.isfinite(a).all() for a in self.kept().values()) else None

    cdef int _open_views(self, uint8_t *base) except -1:
        cdef seam_plan *plan = &self.s.q8_front.plan if self.s.q8 else &self.s.front.plan
        cdef uint64_t p = plan.parameters
        n = plan.batch
        shape = (n, *_shape(plan, 0))
        self.params = self.momentum = self.learned = self.velocity = self.exponents = None
        if self.s.q8:
            self.learned, self.velocity, self.exponents, _ = _q8_views(
                self.memory, base, &self.s.q8_front)
        else:
            self.params = _floats_at(self.memory, base, self.s.front.parameters, p, (p,))
            self.momentum = _floats_at(self.memory, base, self.s.front.momentum, p, (p,))
        self.inputs = _floats_at(self.memory, base, self.s.inputs,
                                 np.prod(shape, dtype=np.int64), shape)
        start = <uint8_t *>self.s.labels - base
        self.labels = self.memory[start:start + 4 * n].view(np.int32)
        return 0

    def kept(self):
        """Arrays by name that a restarted device goes on with: momentum, and in f32 parameters (an
        int8 front gets its own, with their scales, from the host)."""
        found = {"params": self.params, "momentum": self.momentum, "velocity": self.velocity,
                 "exponents": self.exponents}
        return {name: array for name, array in found.items() if array is not None}

    def restore_front(self, kept):
        """Parameters from what `kept` gave, where it has any."""
        if self.params is not None:
            self.params[:] = kept["params"]

    def restore_momentum(self, kept):
        """Momentum from what `kept` gave; none if that is empty, or another front's."""
        arrays = self.kept()
        arrays.pop("params", None)
        fits = all(name in kept and kept[name].shape == a.shape for name, a in arrays.items())
        for name, array in arrays.items():
            array[:] = kept[name] if fits else 0

    @property
    def need_first(self):
        """TRAIN: the number of the batch; TEST: the first test sample."""
        return self.s.need_first

    @property
    def need_count(self):
        """How many samples go into `inputs` and `labels`."""
        return self.s.need_count

    @property
    def seed(self):
        """Seed of the data order, from the host."""
        return self.s.seed

    @property
    def trained_round(self):
        """Last round a STEP began."""
        return self.s.trained_round

    @property
    def failure(self):
        """(code, text) of the host's ERROR, after FAIL."""
        text = PyBytes_FromStringAndSize(<char *>self.s.failed_text, self.s.failed_size)
        return self.s.failed_code, text.decode("utf-8", "replace")
