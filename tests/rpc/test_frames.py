"""Frames cut out of a stream, and what is not one."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.rpc.errors import MessageTooLarge
from penncloud.rpc.frames import (
    MAX_FRAME_BYTES,
    BadFrame,
    Call,
    Envelope,
    Failed,
    FrameDecoder,
    Hello,
    Note,
    Proof,
    decode_envelope,
    encode_body,
    encode_frame,
)
from tests.rpc.world import Heard


class FrameTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=300)), st.integers(min_value=1, max_value=64))
    def test_any_pieces(self, macs: list[bytes], piece: int) -> None:
        """However the stream is cut, the same envelopes come out in the same order."""
        sent: list[Envelope] = [Proof(mac) for mac in macs]
        stream = b"".join(map(encode_frame, sent))
        decoder = FrameDecoder(MAX_FRAME_BYTES)
        received = []
        for start in range(0, len(stream), piece):
            decoder.feed(stream[start : start + piece])
            while (payload := decoder.next()) is not None:
                received.append(decode_envelope(payload))
        self.assertEqual(received, sent)

    @given(st.binary(max_size=200))
    def test_rubbish(self, payload: bytes) -> None:
        """Bytes that are no envelope raise BadFrame and nothing else."""
        try:
            decode_envelope(payload)
        except BadFrame:
            return

    def test_first_byte(self) -> None:
        """Every frame begins with a zero byte, by which the switch knows it."""
        large = encode_frame(Proof(bytes(MAX_FRAME_BYTES - 100)))
        for frame in (encode_frame(Hello(1, b"n", False)), large):
            self.assertEqual(frame[0], 0)

    def test_too_long(self) -> None:
        """A length beyond the limit is refused before any of the frame is held."""
        decoder = FrameDecoder(limit_bytes=10)
        decoder.feed((11).to_bytes(4, "big"))
        with self.assertRaises(BadFrame):
            decoder.next()

    def test_too_large_to_send(self) -> None:
        """A message that does not fit is an error of the sender's, not of the connection."""
        with self.assertRaises(MessageTooLarge):
            encode_frame(Proof(bytes(MAX_FRAME_BYTES)))

    def test_bodies_are_not_encoded_twice(self) -> None:
        """A body travels as MessagePack inside its envelope."""
        note = decode_envelope(encode_frame(Note(encode_body(Heard("x"))))[4:])
        assert isinstance(note, Note)
        self.assertEqual(msgspec.msgpack.decode(note.body, type=Heard), Heard("x"))

    def test_later_versions_may_append(self) -> None:
        """An element that this version does not know is ignored; one that is missing is not."""
        decoded = decode_envelope(msgspec.msgpack.encode(["failed", 1, "CODE", "text", "new"]))
        self.assertEqual(decoded, Failed(1, "CODE", "text"))
        with self.assertRaises(BadFrame):
            decode_envelope(msgspec.msgpack.encode(["call", 1]))
        self.assertIsInstance(decode_envelope(msgspec.msgpack.encode(["call", 1, {}])), Call)
