"""What one side encodes the other decodes, however the network cuts it; and junk never raises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.wire.messages import Malformed, Reply, Request
from penncloud.wire.replies import ReplyDecoder, encode_reply
from penncloud.wire.requests import RequestDecoder, encode_request
from tests.wire.messages import pieces, replies, requests

_COMMANDS = b"PUTV GET CPUT CPUV MUTA SCAN RQID PUT DEL IFV MAP +OK +VAL +CELLS +MAP -MISMATCH -ERR"
_MARKS = [b";", b"\r\n", b"\n", b"\r", b"%", b"%4", b"r", b"0", b"1", b"2", b"-1", b"\xff"]
_FRAGMENTS = st.sampled_from([*_COMMANDS.split(), *_MARKS, b"!CHANGED", b"1048577", b"99999999"])
_junk = st.lists(_FRAGMENTS | st.binary(max_size=4), max_size=60).map(b"".join)


def decode_requests(deliveries: list[bytes]) -> list[Request | Malformed]:
    decoder = RequestDecoder()
    return [message for delivery in deliveries for message in decoder.feed(delivery)]


def decode_replies(deliveries: list[bytes]) -> list[Reply | Malformed]:
    decoder = ReplyDecoder()
    return [message for delivery in deliveries for message in decoder.feed(delivery)]


class RoundTripTests(SynchronousTestCase):
    """encode and decode are each other's reverse."""

    @given(st.lists(requests, max_size=6), st.data())
    def test_requests_survive_any_cut(self, sent: list[Request], data: st.DataObject) -> None:
        """Pipelined requests come out as they went in, wherever the stream was cut."""
        stream = b"".join(map(encode_request, sent))
        self.assertEqual(decode_requests(data.draw(pieces(stream))), sent)

    @given(st.lists(requests, max_size=4))
    def test_requests_byte_by_byte(self, sent: list[Request]) -> None:
        """The slowest delivery gives the same requests."""
        stream = b"".join(map(encode_request, sent))
        self.assertEqual(decode_requests([stream[i : i + 1] for i in range(len(stream))]), sent)

    @given(st.lists(replies, max_size=6), st.data())
    def test_replies_survive_any_cut(self, sent: list[Reply], data: st.DataObject) -> None:
        """Replies and pushes come out as they went in, wherever the stream was cut."""
        stream = b"".join(map(encode_reply, sent))
        self.assertEqual(decode_replies(data.draw(pieces(stream))), sent)

    @given(st.lists(requests, min_size=1, max_size=4))
    def test_nothing_is_left_behind(self, sent: list[Request]) -> None:
        """A decoder holds no bytes once it has answered everything."""
        decoder = RequestDecoder()
        decoder.feed(b"".join(map(encode_request, sent)))
        self.assertEqual(decoder.buffered_bytes, 0)


class JunkTests(SynchronousTestCase):
    """Whatever arrives, a decoder gives messages and never raises."""

    @settings(max_examples=300)
    @given(_junk, st.data())
    def test_a_server_takes_any_bytes(self, junk: bytes, data: st.DataObject) -> None:
        """The same messages come out whole or in pieces, and after a fatal one nothing."""
        whole = decode_requests([junk])
        self.assertEqual(decode_requests(data.draw(pieces(junk))), whole)
        self.assert_fatal_is_last(whole)

    @settings(max_examples=300)
    @given(_junk, st.data())
    def test_a_client_takes_any_bytes(self, junk: bytes, data: st.DataObject) -> None:
        """A broken server is told by one fatal message, not by an exception."""
        whole = decode_replies([junk])
        self.assertEqual(decode_replies(data.draw(pieces(junk))), whole)
        self.assert_fatal_is_last(whole)

    def assert_fatal_is_last(
        self, messages: list[Request | Malformed] | list[Reply | Malformed]
    ) -> None:
        for message in messages[:-1]:
            self.assertFalse(isinstance(message, Malformed) and message.fatal, message)

    @given(_junk, requests)
    def test_an_error_that_is_not_fatal_leaves_the_framing_intact(
        self, junk: bytes, request: Request
    ) -> None:
        """After a wrong line the next request is understood."""
        line = junk.replace(b"\r\n", b"").replace(b"\r", b"")
        decoder = RequestDecoder()
        first = decoder.feed(b"NOSUCH;" + line + b"\r\n")
        self.assertEqual(first, [Malformed("COMMAND", "unknown command")])
        self.assertEqual(decoder.feed(encode_request(request)), [request])
