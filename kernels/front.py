"""Messages, plans, the front and the device's session, as Python sees the C core."""

from ._front import (
    END,
    FAIL,
    HEADER,
    NOTHING,
    SEND,
    TEST,
    TRAIN,
    Front,
    Q8Front,
    Session,
    check_plan,
    decode_message,
    encode_message,
    layer_scratch,
    q8_layer_scratch,
    trace,
)

__all__ = [
    "END",
    "FAIL",
    "HEADER",
    "NOTHING",
    "SEND",
    "TEST",
    "TRAIN",
    "Front",
    "Q8Front",
    "Session",
    "check_plan",
    "decode_message",
    "encode_message",
    "layer_scratch",
    "q8_layer_scratch",
    "trace",
]
