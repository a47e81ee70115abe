# cython: language_level=3
"""Faces of the byte line: frames (COBS + CRC-32) and packets. They check and call the C core,
nothing more.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef extern from *:  # the face is large and never hot: the kernels are files of their own
    """
    #if defined(__GNUC__) && !defined(__clang__)
    #pragma GCC optimize ("Os")
    #endif
    """

cdef extern from "seam_link.h" nogil:
    enum:
        SEAM_OK, SEAM_E_STATE, SEAM_E_BUSY, SEAM_E_LIMIT
        SEAM_FRAME_CHECK, SEAM_PACKET_MAX, SEAM_MESSAGE_MAX
        SEAM_EVENT_NONE, SEAM_EVENT_JOINED, SEAM_EVENT_MESSAGE, SEAM_EVENT_SENT
        SEAM_EVENT_SILENT, SEAM_EVENT_RESTARTED, SEAM_EVENT_STUCK, SEAM_EVENT_FULL
    const char *seam_status_text(int status)
    size_t SEAM_FRAME_WIRE(size_t size)
    int64_t seam_frame_encode(uint8_t *out, size_t space, const uint8_t *packet, size_t size)
    int64_t seam_frame_encode_raw(uint8_t *out, size_t space, const uint8_t *body, size_t size)
    ctypedef struct seam_frame_decoder:
        uint8_t *buffer
        uint32_t frames, damaged, too_long
        uint8_t raw
    void seam_frame_decoder_start(seam_frame_decoder *decoder, uint8_t *buffer, uint32_t space)
    uint32_t seam_frame_decode(seam_frame_decoder *decoder, uint8_t byte)
    ctypedef struct seam_packet_config:
        uint64_t boot_id
        uint8_t *rx
        uint32_t rx_space, bytes_per_second
        uint16_t mtu, first_number
        uint8_t window, more
    ctypedef struct seam_packet_counters:
        uint64_t payload_sent, payload_received
        uint32_t packets_sent, packets_received, retransmits, timeouts, duplicates, strays
        uint32_t malformed, other_version, credit_stalls, joins, losses, rtt_us, mtu
    ctypedef struct seam_packet_end:
        seam_packet_counters counters
        uint64_t peer_epoch
        uint32_t connection
        uint8_t tx_busy
    int seam_packet_start(seam_packet_end *end, const seam_packet_config *config, uint64_t now_ms)
    int seam_packet_send(seam_packet_end *end, const uint8_t *message, uint32_t size)
    void seam_packet_input(seam_packet_end *end, const uint8_t *packet, size_t size,
                           uint64_t now_ms)
    int64_t seam_packet_output(seam_packet_end *end, uint8_t *out, size_t space, uint64_t now_ms)
    void seam_packet_hurry(seam_packet_end *end, uint64_t now_ms)
    uint32_t seam_packet_wait(const seam_packet_end *end, uint64_t now_ms)
    int seam_packet_event(seam_packet_end *end)
    const uint8_t *seam_packet_message(const seam_packet_end *end, uint32_t *size)
    void seam_packet_take(seam_packet_end *end)

JOINED = SEAM_EVENT_JOINED
MESSAGE = SEAM_EVENT_MESSAGE
SENT = SEAM_EVENT_SENT
SILENT = SEAM_EVENT_SILENT
RESTARTED = SEAM_EVENT_RESTARTED
STUCK = SEAM_EVENT_STUCK
FULL = SEAM_EVENT_FULL
PACKET_MAX = SEAM_PACKET_MAX


cdef bytes framed(bytes data, str what, bint checked):
    cdef size_t size = len(data)
    cdef int64_t wire
    if size == 0 or size > SEAM_MESSAGE_MAX:
        raise ValueError(f"a {what} of {size} bytes: expected 1 to {SEAM_MESSAGE_MAX}")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, SEAM_FRAME_WIRE(size))
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(out)
    cdef const uint8_t *source = <const uint8_t *>PyBytes_AS_STRING(data)
    if checked:
        wire = seam_frame_encode(to, len(out), source, size)
    else:
        wire = seam_frame_encode_raw(to, len(out), source, size)
    return out[:wire]


def encode_frame(bytes packet not None):
    """The bytes on the line for one packet: COBS(packet, CRC-32), then a zero.

    Raises ValueError for an empty packet or one longer than a message may be.
    """
    return framed(packet, "packet", True)


def encode_body(bytes body not None):
    """The bytes on the line for a body that brings its own check: COBS, then a zero.

    Raises ValueError for an empty body or one longer than a message may be.
    """
    return framed(body, "body", False)


cdef class FrameDecoder:
    """Bytes of a line in, packets out. Damaged and over-long frames are counted and skipped.

    limit: bytes of the longest packet. raw: whole bodies come out, whatever check they bring; limit
    is then that of a body.
    """

    cdef seam_frame_decoder decoder
    cdef uint8_t *buffer

    def __cinit__(self, size_t limit=SEAM_PACKET_MAX, *, bint raw=False):
        cdef size_t space = limit if raw else limit + SEAM_FRAME_CHECK
        if limit == 0 or limit > SEAM_MESSAGE_MAX:
            raise ValueError(f"limit {limit}: expected 1 to {SEAM_MESSAGE_MAX}")
        self.buffer = <uint8_t *>calloc(space, 1)
        if self.buffer == NULL:
            raise MemoryError()
        seam_frame_decoder_start(&self.decoder, self.buffer, <uint32_t>space)
        self.decoder.raw = raw

    def __dealloc__(self):
        free(self.buffer)

    def feed(self, bytes data not None):
        """Any bytes in; the list of packets they complete."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i, size = len(data)
        cdef uint32_t packet
        found = []
        for i in range(size):
            packet = seam_frame_decode(&self.decoder, at[i])
            if packet:
                found.append(PyBytes_FromStringAndSize(<char *>self.buffer, packet))
        return found

    @property
    def counters(self):
        """frames, damaged, too_long since the start."""
        return {"frames": self.decoder.frames, "damaged": self.decoder.damaged,
                "too_long": self.decoder.too_long}


cdef class PacketEnd:
    """One end of a byte line: whole messages in and out, whatever the line does to the bytes
    between.

    boot_id: 64 random bits, others at every start. rx_space: bytes of the longest message the peer
    may send (memory is touched only as far as messages fill it). bytes_per_second: of the line, for
    the timers; 0 if not known. mtu: payload bytes of a packet, a multiple of 64 up to 1024. window:
    packets in flight, 1..32. more: bytes the owner's frames have beside those of a clear one.
    now_ms: a time that never goes back. One thread at a time. ValueError when a figure is out of
    range.
    """

    cdef seam_packet_end end
    cdef seam_frame_decoder decoder
    cdef uint8_t *frame
    cdef uint8_t *rx
    cdef bytes tx  # keeps the message in place while packets are made from it

    def __cinit__(self, uint64_t boot_id, uint64_t now_ms, *, uint32_t rx_space=SEAM_MESSAGE_MAX,
                  uint32_t bytes_per_second=0, uint16_t mtu=1024, uint8_t window=8,
                  uint16_t first_number=1, uint8_t more=0):
        cdef seam_packet_config config
        self.frame = <uint8_t *>calloc(SEAM_PACKET_MAX + SEAM_FRAME_CHECK, 1)
        self.rx = <uint8_t *>calloc(rx_space if rx_space else 1, 1)
        if self.frame == NULL or self.rx == NULL:
            raise MemoryError()
        seam_frame_decoder_start(&self.decoder, self.frame, SEAM_PACKET_MAX + SEAM_FRAME_CHECK)
        config.boot_id = boot_id
        config.rx = self.rx
        config.rx_space = rx_space
        config.bytes_per_second = bytes_per_second
        config.mtu = mtu
        config.window = window
        config.first_number = first_number
        config.more = more
        if mtu == 0 or window == 0 or seam_packet_start(&self.end, &config, now_ms) != SEAM_OK:
            raise ValueError(
                f"boot_id {boot_id:#x} (expected 2^16 or more), rx_space {rx_space} (64 to "
                f"{SEAM_MESSAGE_MAX}), mtu {mtu} (a multiple of 64 up to 1024) or window {window} "
                "(1 to 32) is out of range"
            )

    def __dealloc__(self):
        free(self.frame)
        free(self.rx)

    def feed(self, bytes data not None, uint64_t now_ms):
        """Bytes from the line in; ask `events` and `output` afterwards."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i, size = len(data)
        cdef uint32_t packet
        with nogil:
            for i in range(size):
                packet = seam_frame_decode(&self.decoder, at[i])
                if packet:
                    seam_packet_input(&self.end, self.frame, packet, now_ms)

    def events(self):
        """What has happened since the last call, in order: a list of (JOINED | MESSAGE | SENT |
        SILENT | RESTARTED | STUCK | FULL, bytes of the message or None). The last four: the peer is
        lost, and what was being sent with it.
        """
        cdef uint32_t size = 0
        cdef const uint8_t *message
        cdef int event
        found = []
        while True:
            event = seam_packet_event(&self.end)
            if event == SEAM_EVENT_NONE:
                break
            data = None
            if event == SEAM_EVENT_MESSAGE:
                message = seam_packet_message(&self.end, &size)
                data = PyBytes_FromStringAndSize(<const char *>message, size)
                seam_packet_take(&self.end)
            found.append((event, data))
        if not self.end.tx_busy:
            self.tx = None
        return found

    def send(self, bytes message not None):
        """Start to send one message. False: no peer, or the last message is not SENT yet.

        Raises ValueError when it is longer than the peer can take.
        """
        cdef int status = SEAM_E_LIMIT
        if len(message) <= SEAM_MESSAGE_MAX:
            status = seam_packet_send(&self.end, <const uint8_t *>PyBytes_AS_STRING(message),
                                      <uint32_t>len(message))
        if status == SEAM_E_LIMIT:
            raise ValueError(f"a message of {len(message)} bytes is longer than the peer can take")
        if status != SEAM_OK:
            return False
        self.tx = message
        return True

    def output(self, uint64_t now_ms, Py_ssize_t limit=4096):
        """Whole frames for the line now, as many as start before `limit`; none: no bytes."""
        cdef uint8_t packet[SEAM_PACKET_MAX]
        cdef uint8_t wire[SEAM_PACKET_MAX + 16]
        cdef int64_t size
        parts = []
        while limit > 0:
            size = seam_packet_output(&self.end, packet, sizeof(packet), now_ms)
            if size <= 0:
                break
            size = seam_frame_encode(wire, sizeof(wire), packet, <size_t>size)
            if size < 0:
                raise AssertionError("a frame does not fit its buffer")
            parts.append(PyBytes_FromStringAndSize(<char *>wire, <Py_ssize_t>size))
            limit -= <Py_ssize_t>size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def input_packet(self, bytes packet not None, uint64_t now_ms):
        """A packet in, for an owner with frames of its own; ask `events` and `output` afterwards.
        """
        seam_packet_input(&self.end, <const uint8_t *>PyBytes_AS_STRING(packet), len(packet),
                          now_ms)

    def output_packet(self, uint64_t now_ms):
        """The next packet to be sent now, without a frame; none: no bytes."""
        cdef uint8_t packet[SEAM_PACKET_MAX]
        cdef int64_t size = seam_packet_output(&self.end, packet, sizeof(packet), now_ms)
        return PyBytes_FromStringAndSize(<char *>packet, <Py_ssize_t>(size if size > 0 else 0))

    def hurry(self, uint64_t now_ms):
        """Say something at once: there is a new way to the peer."""
        seam_packet_hurry(&self.end, now_ms)

    def wait(self, uint64_t now_ms):
        """Milliseconds until `output` has to be asked again when nothing else happens."""
        return seam_packet_wait(&self.end, now_ms)

    @property
    def joined(self):
        return self.end.peer_epoch != 0

    @property
    def connection(self):
        """The number in packets of the connection, the newest there was; 0 before the first."""
        return self.end.connection

    @property
    def busy(self):
        """A message is on its way: send would give False."""
        return self.end.tx_busy != 0

    @property
    def counters(self):
        """Packets, retransmits, damaged frames and the like since the start; rtt_us is the smoothed
        round trip (0: not measured yet), payload_sent and payload_received the bytes of whole
        messages, mtu the payload of a packet that the line's errors allow now.
        """
        cdef dict found = self.end.counters
        found["frames_damaged"] = self.decoder.damaged
        found["frames_too_long"] = self.decoder.too_long
        return found
