"""Replies as they stand on the wire, and a client's defence against a server that is broken."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.wire.limits import MAX_SCAN_CELLS, MAX_TEXT_BYTES, MAX_VALUE_BYTES
from penncloud.wire.messages import (
    At,
    Busy,
    CellLine,
    Cells,
    Changed,
    Error,
    Malformed,
    Mismatch,
    Missing,
    Moved,
    Ok,
    Reply,
    TabletLine,
    Tablets,
    Unknown,
    Value,
)
from penncloud.wire.replies import ReplyDecoder, encode_reply


class ExampleTests(SynchronousTestCase):
    """The bytes of the design document."""

    def check(self, line: bytes, reply: Reply) -> None:
        self.assertEqual(encode_reply(reply), line)
        self.assertEqual(ReplyDecoder().feed(line), [reply])

    def test_every_reply(self) -> None:
        """Each reply has one form."""
        self.check(b"+OK;7\r\n", Ok(7))
        self.check(b"+VAL;7;4;a\r\nb\r\n", Value(7, b"a\r\nb"))
        self.check(b"-MISSING\r\n", Missing())
        self.check(b"-MISMATCH;7;1;x\r\n", Mismatch(7, b"x"))
        self.check(b"-MISMATCH;0;-1;\r\n", Mismatch(0, None))
        self.check(b"-MOVED;127.0.0.1:8700;3\r\n", Moved("127.0.0.1:8700", 3))
        self.check(b"-MOVED;;3\r\n", Moved("", 3))
        self.check(b"-BUSY;50\r\n", Busy(50))
        self.check(b"-UNKNOWN\r\n", Unknown())
        self.check(b"-ERR;FORMAT;a; b\r\n", Error("FORMAT", "a; b"))
        self.check(b"+AT;2;3;127.0.0.1:8700\r\n", At(2, 3, "127.0.0.1:8700"))
        self.check(b"!CHANGED;r%3B;9\r\n", Changed(b"r;", 9))
        cells = (CellLine(b"r", b"c%", 1, 10, b"\r\n"), CellLine(b"r", b"d", 2, 0, b""))
        self.check(b"+CELLS;2;1\r\nr;c%25;1;10;2;\r\n\r\nr;d;2;0;0;\r\n", Cells(cells, True))
        tablets = (TabletLine(1, 0, 9, 4, "h:1"), TabletLine(2, 9, 12, 5, ""))
        self.check(b"+MAP;3;2\r\n1;0;9;4;h:1\r\n2;9;12;5;\r\n", Tablets(3, tablets))

    def test_an_error_stays_one_bounded_line(self) -> None:
        """Words for people cannot break the framing, whatever they quote."""
        (reply,) = ReplyDecoder().feed(encode_reply(Error("FORMAT", "a\r\n+OK;1\r\n\u20ac" * 999)))
        assert isinstance(reply, Error)
        self.assertEqual(len(reply.text), MAX_TEXT_BYTES)
        self.assertEqual(reply.text[:12], "a  +OK;1  ?a")


class BrokenServerTests(SynchronousTestCase):
    """Anything that is no reply is one fatal message: the client has to leave."""

    def test_not_replies(self) -> None:
        """Wrong kinds, fields, numbers and sizes."""
        for line in (
            *(b"\r\n", b"OK;1\r\n", b"+OK\r\n", b"+OK;x\r\n", b"+OK;1;2\r\n", b"-BUSY;\r\n"),
            *(b"+VAL\r\n", b"+VAL;1\r\n", b"+VAL;1;x;y\r\n", b"+VAL;1;1;xyz\r\n"),
            *(b"-MISMATCH;0\r\n", b"-MISMATCH;0;-1;x\r\n", b"-MISMATCH;x;1;y\r\n"),
            *(b"-MOVED;\xff;1\r\n", b"!CHANGED;%;1\r\n", b"-ERR\r\n", b"-ERR;\xff;x\r\n"),
            *(b"+CELLS;1\r\n", b"+CELLS;1;0\r\nr;c\r\n", b"+MAP;1\r\n", b"+MAP;1;1\r\n1;2\r\n"),
            b"+VAL;1;%d;" % (MAX_VALUE_BYTES + 1),
            b"+CELLS;%d;0\r\n" % (MAX_SCAN_CELLS + 1),
            b"+MAP;1;99999999\r\n",
        ):
            decoder = ReplyDecoder()
            found = decoder.feed(b"+OK;1\r\n" + line + b"+OK;2\r\n")
            self.assertEqual(len(found), 2, line)
            assert isinstance(found[1], Malformed), line
            self.assertTrue(found[1].fatal)
            self.assertEqual(decoder.feed(b"+OK;3\r\n"), [])
