"""Frames: how messages are cut out of a byte stream. Pure.

    frame    = length (4 bytes, big-endian) payload
    payload  = MessagePack of one envelope (msgspec array-like tagged struct)

MAX_FRAME_BYTES is below 2**24, so the first byte of every frame is zero. The text protocol's requests
begin with a letter: the first byte of a connection so tells which of the two it speaks (`switch.py`).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from penncloud.rpc.errors import MessageTooLarge

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
# Larger ones are not read from a peer that has not authenticated itself.
MAX_GREETING_BYTES: Final = 1024

_LENGTH: Final = struct.Struct(">I")
_ENCODER: Final = msgspec.msgpack.Encoder()


class _Envelope(msgspec.Struct, array_like=True, frozen=True):
    """Elements may be appended in later versions: a decoder ignores those it does not know."""


class Hello(_Envelope, tag="hello", frozen=True):
    """The first frame of both sides. `secured`: this side asks for the cluster's secret."""

    version: int
    nonce: bytes
    secured: bool


class Proof(_Envelope, tag="proof", frozen=True):
    mac: bytes


class Call(_Envelope, tag="call", frozen=True):
    id: int
    body: msgspec.Raw


class Answer(_Envelope, tag="answer", frozen=True):
    id: int
    body: msgspec.Raw


class Failed(_Envelope, tag="failed", frozen=True):
    id: int
    code: str
    text: str


class Note(_Envelope, tag="note", frozen=True):
    body: msgspec.Raw


class Beat(_Envelope, tag="beat", frozen=True):
    """Sent by a side that has nothing else to say, so that the other knows it is there."""


Envelope = Hello | Proof | Call | Answer | Failed | Note | Beat

_DECODER: Final = msgspec.msgpack.Decoder(Envelope)


class BadFrame(ValueError):
    """The peer does not speak this protocol."""


def encode_body(message: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(message))


def encode_frame(envelope: Envelope) -> bytes:
    """The bytes of one frame; raises MessageTooLarge."""
    payload = _ENCODER.encode(envelope)
    if len(payload) > MAX_FRAME_BYTES:
        raise MessageTooLarge(f"a message of {len(payload)} bytes; at most {MAX_FRAME_BYTES} fit")
    return _LENGTH.pack(len(payload)) + payload


def decode_envelope(payload: bytes) -> Envelope:
    """Raises BadFrame."""
    try:
        envelope: Envelope = _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise BadFrame(f"not an envelope: {error}") from error
    return envelope


class FrameDecoder:
    """Feed bytes in any pieces, get payloads. `limit_bytes` may be raised between frames."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole payload, None when more bytes are needed; raises BadFrame."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > self.limit_bytes:
            raise BadFrame(
                f"a frame of {length} bytes; at most {self.limit_bytes} are accepted here"
            )
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[_LENGTH.size : end])
        del buffer[:end]
        return payload
