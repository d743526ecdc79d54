"""The shortcut for plain requests and replies gives what the grammar gives, at every bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.wire.limits import (
    MAX_CLIENT_BYTES,
    MAX_COL_BYTES,
    MAX_COUNTER,
    MAX_ROW_BYTES,
    MAX_TRACE_BYTES,
    MAX_VALUE_BYTES,
)
from penncloud.wire.messages import (
    Get,
    Malformed,
    Missing,
    Ok,
    Put,
    Reply,
    Request,
    RequestId,
    TraceId,
    Value,
)
from penncloud.wire.plain import take_replies, take_requests
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import RequestDecoder

_FIELDS = st.sampled_from([b"r", b"a b", b"%41", b"%", b"\x7f", b"\x1f", b"~", b"", b"0", b"7"])


class _Grammar(RequestDecoder):
    """Without the shortcut."""

    def _shortcut(self, data: bytes) -> int:
        return 0


def by_grammar(data: bytes) -> list[Request | Malformed]:
    return _Grammar().feed(data)


def shortcut(data: bytes) -> tuple[list[Request | Malformed], int]:
    output: list[Request | Malformed] = []
    taken = take_requests(data, output)
    return output, taken


class PlainTests(SynchronousTestCase):
    def assert_taken(self, data: bytes, request: Request) -> None:
        self.assertEqual(shortcut(data), ([request], len(data)))
        self.assertEqual(by_grammar(data), [request])

    def assert_left(self, data: bytes) -> None:
        """And both decoders give the same of it."""
        self.assertEqual(shortcut(data), ([], 0))
        self.assertEqual(RequestDecoder().feed(data), by_grammar(data))

    def test_taken(self) -> None:
        """What most clients send is recognized, up to the greatest that is allowed."""
        row, col = b"r" * MAX_ROW_BYTES, b"~" * MAX_COL_BYTES
        self.assert_taken(b"GET;%b;%b\r\n" % (row, col), Get(row, col))
        self.assert_taken(b"PUTV;%b;%b;5;\r\n;\r\n\r\n" % (row, col), Put(row, col, b"\r\n;\r\n"))
        self.assert_taken(b"PUTV;r;c;0;\r\n", Put(b"r", b"c", b""))
        value = b"v" * MAX_VALUE_BYTES
        self.assert_taken(b"PUTV;r;c;%d;%b\r\n" % (len(value), value), Put(b"r", b"c", value))
        client = b"c" * MAX_CLIENT_BYTES
        request_id = RequestId(client, MAX_COUNTER)
        self.assert_taken(b"RQID;%b;%d\r\n" % (client, MAX_COUNTER), request_id)
        self.assert_taken(
            b"TRAC;%b\r\n" % (b"t" * MAX_TRACE_BYTES), TraceId(b"t" * MAX_TRACE_BYTES)
        )

    def test_left_to_the_grammar(self) -> None:
        """What is not plain, not whole or wrong."""
        for data in (
            b"GET;%b;c\r\n" % (b"r" * (MAX_ROW_BYTES + 1)),
            b"GET;r;%b\r\n" % (b"c" * (MAX_COL_BYTES + 1)),
            b"GET;r%3b;c\r\n",
            b"GET;r;c;d\r\n",
            b"GET;;c\r\n",
            b"GET;r;c\n",
            b"GET;r;c\r",
            b"get;r;c\r\n",
            b"PUTV;r;c;3;vv\r\n",
            b"PUTV;r;c;1;vv\r\n",
            b"PUTV;r;c;-1;v\r\n",
            b"PUTV;r;c;2;vv\r",
            b"PUTV;r;c;%d;" % (MAX_VALUE_BYTES + 1) + b"v" * (MAX_VALUE_BYTES + 1) + b"\r\n",
            b"RQID;c;%d\r\n" % (MAX_COUNTER + 1),
            b"RQID;%b;1\r\n" % (b"c" * (MAX_CLIENT_BYTES + 1)),
            b"TRAC;%b\r\n" % (b"t" * (MAX_TRACE_BYTES + 1)),
        ):
            self.assert_left(data)

    def test_up_to_the_first_that_is_not(self) -> None:
        """The grammar goes on exactly where the shortcut ends."""
        data = b"GET;r;c\r\nTRAC;t\r\nMAP\r\nGET;r;c\r\n"
        self.assertEqual(shortcut(data)[1], len(b"GET;r;c\r\nTRAC;t\r\n"))
        self.assertEqual(RequestDecoder().feed(data), by_grammar(data))

    @given(
        st.lists(st.tuples(st.sampled_from([b"GET", b"PUTV", b"RQID", b"TRAC"]), _FIELDS, _FIELDS))
    )
    def test_the_same(self, lines: list[tuple[bytes, bytes, bytes]]) -> None:
        """Whatever stands in the fields."""
        data = b"".join(b";".join(line) + b"\r\n" for line in lines)
        self.assertEqual(RequestDecoder().feed(data), by_grammar(data))


class _ReplyGrammar(ReplyDecoder):
    """Without the shortcut."""

    def _shortcut(self, data: bytes) -> int:
        return 0


def replies_by_grammar(data: bytes) -> list[Reply | Malformed]:
    return _ReplyGrammar().feed(data)


def reply_shortcut(data: bytes) -> tuple[list[Reply | Malformed], int]:
    output: list[Reply | Malformed] = []
    taken = take_replies(data, output)
    return output, taken


class PlainReplyTests(SynchronousTestCase):
    def test_taken(self) -> None:
        """The answers to a GET and a PUTV, up to the greatest that there are."""
        value = b"v" * MAX_VALUE_BYTES
        for data, reply in (
            (b"+OK;%d\r\n" % MAX_COUNTER, Ok(MAX_COUNTER)),
            (b"-MISSING\r\n", Missing()),
            (b"+VAL;7;0;\r\n", Value(7, b"")),
            (b"+VAL;7;2;\r\n\r\n", Value(7, b"\r\n")),
            (b"+VAL;%d;%d;%b\r\n" % (MAX_COUNTER, len(value), value), Value(MAX_COUNTER, value)),
        ):
            self.assertEqual(reply_shortcut(data), ([reply], len(data)))
            self.assertEqual(replies_by_grammar(data), [reply])

    def test_left_to_the_grammar(self) -> None:
        """What is not plain, not whole or wrong."""
        for data in (
            b"+OK;%d\r\n" % (MAX_COUNTER + 1),
            b"+OK;1;local\r\n",
            b"+OK;\r\n",
            b"+OK;1\r",
            b"-MISSING;\r\n",
            b"+VAL;7;3;vv\r\n",
            b"+VAL;7;1;vv\r\n",
            b"+VAL;%d;1;v\r\n" % (MAX_COUNTER + 1),
            b"+VAL;1;%d;" % (MAX_VALUE_BYTES + 1) + b"v" * (MAX_VALUE_BYTES + 1) + b"\r\n",
            b"!CHANGED;r;1\r\n",
        ):
            self.assertEqual(reply_shortcut(data), ([], 0))
            self.assertEqual(ReplyDecoder().feed(data), replies_by_grammar(data))

    @given(
        st.lists(st.sampled_from([b"+OK;1", b"+VAL;1;1;v", b"-MISSING", b"-BUSY;5", b"+VAL;1;2;v"]))
    )
    def test_the_same(self, lines: list[bytes]) -> None:
        """Whatever stands beside a plain one."""
        data = b"".join(line + b"\r\n" for line in lines)
        self.assertEqual(ReplyDecoder().feed(data), replies_by_grammar(data))
