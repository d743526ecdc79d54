"""The request decoder at the edges: limits, wrong fields, what is fatal and what is not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.wire.limits import (
    MAX_CLIENT_BYTES,
    MAX_COL_BYTES,
    MAX_COUNTER,
    MAX_DISCARD_BYTES,
    MAX_HEADER_BYTES,
    MAX_MUTATION_BYTES,
    MAX_MUTATIONS,
    MAX_PREFIX_BYTES,
    MAX_ROW_BYTES,
    MAX_SCAN_CELLS,
    MAX_TRACE_BYTES,
    MAX_VALUE_BYTES,
)
from penncloud.wire.messages import (
    AppendCell,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    DeleteCell,
    Get,
    IfValue,
    IfVersion,
    Malformed,
    Map,
    Mutate,
    Put,
    PutCell,
    Request,
    RequestId,
    Scan,
    ScanTablet,
    TraceId,
    Unwatch,
    Watch,
    Where,
)
from penncloud.wire.requests import RequestDecoder, encode_request

GOOD = Get(b"r", b"c")
GOOD_LINE = b"GET;r;c\r\n"


class ExampleTests(SynchronousTestCase):
    """The bytes of the design document."""

    def check(self, line: bytes, request: Request) -> None:
        self.assertEqual(RequestDecoder().feed(line), [request])
        self.assertEqual(encode_request(request), line)

    def test_the_four_of_the_seed(self) -> None:
        """GET, PUTV, CPUT and DELE stand on the wire as the seed says."""
        self.check(b"GET;r;c\r\n", Get(b"r", b"c"))
        self.check(b"PUTV;r;c;5;a;\r\nb\r\n", Put(b"r", b"c", b"a;\r\nb"))
        self.check(b"CPUT;r;c;1;2;x;yz\r\n", CompareAndPut(b"r", b"c", b"x", b"yz"))
        self.check(b"DELE;r;c\r\n", Delete(b"r", b"c"))

    def test_the_extensions(self) -> None:
        """Every further command has one form."""
        self.check(b"CPUV;r;c;0;1;x\r\n", CompareVersionAndPut(b"r", b"c", 0, b"x"))
        self.check(b"RQID;me;7\r\n", RequestId(b"me", 7))
        self.check(b"TRAC;0af3-1\r\n", TraceId(b"0af3-1"))
        self.check(b"SCAN;r;a;;10\r\n", Scan(b"r", b"a", b"", 10))
        self.check(b"SCANR;r;;z;10;64\r\n", Scan(b"r", b"", b"z", 10, True, 64))
        self.check(b"SCANT;3;;;100;256\r\n", ScanTablet(3, b"", b"", 100, 256))
        self.check(b"WATCH;r\r\n", Watch(b"r"))
        self.check(b"UNWATCH;r\r\n", Unwatch(b"r"))
        self.check(b"WHERE;r;c\r\n", Where(b"r", b"c"))
        self.check(b"MAP\r\n", Map())
        self.check(
            b"MUTA;r;5\r\nIFV;a;0\r\nIFE;b;1;x\r\nPUT;a;2;\r\n\r\nAPP;p/;0;\r\nDEL;b\r\n",
            Mutate(
                b"r",
                (
                    IfVersion(b"a", 0),
                    IfValue(b"b", b"x"),
                    PutCell(b"a", b"\r\n"),
                    AppendCell(b"p/", b""),
                    DeleteCell(b"b"),
                ),
            ),
        )

    def test_names_are_percent_encoded_only_where_they_have_to_be(self) -> None:
        """Printable names stay readable; the rest is escaped, and lower case digits are taken."""
        self.check(b"GET;user/a b;%00%25%3B%FF\r\n", Get(b"user/a b", b"\x00%;\xff"))
        self.assertEqual(RequestDecoder().feed(b"GET;%3b;%41\r\n"), [Get(b";", b"A")])


class RefusalTests(SynchronousTestCase):
    """A wrong request is answered in its place; the connection goes on while framing is known."""

    def refused(self, wrong: bytes, code: str) -> None:
        """`wrong` is refused with `code`, and the requests around it are understood."""
        for deliveries in ([GOOD_LINE + wrong + GOOD_LINE], [GOOD_LINE, wrong, GOOD_LINE]):
            decoder = RequestDecoder()
            found = [message for delivery in deliveries for message in decoder.feed(delivery)]
            self.assertEqual(len(found), 3, found)
            first, middle, last = found
            self.assertEqual((first, last), (GOOD, GOOD))
            assert isinstance(middle, Malformed)
            self.assertEqual((middle.code, middle.fatal), (code, False), middle)

    def fatal(self, wrong: bytes, code: str) -> None:
        """`wrong` ends the connection, after what came before it."""
        decoder = RequestDecoder()
        found = decoder.feed(GOOD_LINE + wrong + GOOD_LINE)
        self.assertEqual(len(found), 2, found)
        assert isinstance(found[1], Malformed)
        self.assertEqual((found[0], found[1].code, found[1].fatal), (GOOD, code, True))
        self.assertEqual(decoder.feed(GOOD_LINE), [])
        self.assertEqual(decoder.buffered_bytes, 0)

    def test_unknown_commands(self) -> None:
        """Commands are upper case and known."""
        for line in (b"\r\n", b"get;r;c\r\n", b"HELLO\r\n", b"HELLO;a;b;c\r\n", b"PUT;c;1;x\r\n"):
            self.refused(line, "COMMAND")

    def test_numbers_of_fields(self) -> None:
        """Too few or too many fields are no request."""
        lines = (b"GET;r", b"GET", b"GET;r;c;d", b"MAP;", b"SCAN;r;;", b"SCAN;r;;;1;2;3", b"WATCH")
        for line in (*lines, b"PUTV", b"PUTV;r", b"PUTV;r;c", b"PUTV;r;c;3", b"CPUT;r;c;1"):
            self.refused(line + b"\r\n", "FORMAT")
        self.refused(b"MUTA\r\n", "FORMAT")

    def test_names(self) -> None:
        """Empty, over-long and badly escaped names are refused; the longest are taken."""
        for row in (b"", b"a" * (MAX_ROW_BYTES + 1), b"%", b"%4", b"%zz", b"\x80", b"\t"):
            self.refused(b"GET;" + row + b";c\r\n", "FORMAT")
            self.refused(b"PUTV;" + row + b";c;2;\r\n\r\n", "FORMAT")
        longest = Get(b"\xff" * MAX_ROW_BYTES, b"\x00" * MAX_COL_BYTES)
        self.assertEqual(RequestDecoder().feed(encode_request(longest)), [longest])

    def test_numbers(self) -> None:
        """Counters are plain decimals up to 2^63 - 1."""
        for text in (b"", b"-1", b"+1", b"1 ", b"0x1", b"%d" % (MAX_COUNTER + 1), b"9" * 30):
            self.refused(b"RQID;me;" + text + b"\r\n", "FORMAT")
        top = RequestId(b"c" * MAX_CLIENT_BYTES, MAX_COUNTER)
        self.assertEqual(RequestDecoder().feed(encode_request(top)), [top])
        self.refused(b"TRAC;" + b"t" * (MAX_TRACE_BYTES + 1) + b"\r\n", "FORMAT")
        self.refused(b"RQID;" + b"c" * (MAX_CLIENT_BYTES + 1) + b";1\r\n", "FORMAT")

    def test_scan_limits(self) -> None:
        """A page has between one and MAX_SCAN_CELLS cells."""
        for limit in (0, MAX_SCAN_CELLS + 1):
            self.refused(b"SCAN;r;;;%d\r\n" % limit, "FORMAT")
            self.refused(b"SCANT;1;;;%d;0\r\n" % limit, "FORMAT")

    def test_a_scan_may_go_on_behind_the_longest_column(self) -> None:
        """The next page starts at the last column plus a zero byte, however long that is."""
        scan = Scan(b"r", b"c" * MAX_COL_BYTES + b"\x00", b"", 1)
        self.assertEqual(RequestDecoder().feed(encode_request(scan)), [scan])
        self.refused(encode_request(Scan(b"r", b"c" * (MAX_COL_BYTES + 2), b"", 1)), "FORMAT")

    def test_an_appended_column_is_never_too_long(self) -> None:
        """The prefix leaves room for the version, so that the cell can be read by its name."""
        fits = Mutate(b"r", (AppendCell(b"p" * MAX_PREFIX_BYTES, b""),))
        self.assertEqual(RequestDecoder().feed(encode_request(fits)), [fits])
        wrong = Mutate(b"r", (AppendCell(b"p" * (MAX_PREFIX_BYTES + 1), b""),))
        self.refused(encode_request(wrong), "FORMAT")

    def test_a_line_of_the_greatest_length_in_any_pieces(self) -> None:
        """The limit of a line is the same whether its end arrives with it or later."""
        line = b"X" * MAX_HEADER_BYTES
        self.refused(line + b"\r\n", "COMMAND")
        decoder = RequestDecoder()
        self.assertEqual(decoder.feed(line), [])
        self.assertEqual(decoder.feed(b"\r"), [])
        self.assertEqual(len(decoder.feed(b"\n")), 1)

    def test_an_endless_line_is_fatal(self) -> None:
        """Nobody may make a server hold a line without end."""
        self.fatal(b"X" * (MAX_HEADER_BYTES + 2), "LINE")
        self.fatal(b"GET;" + b"X" * (MAX_HEADER_BYTES + 2), "LINE")
        decoder = RequestDecoder()
        found = [m for _ in range(MAX_HEADER_BYTES + 2) for m in decoder.feed(b"X")]
        self.assertEqual([isinstance(m, Malformed) and m.code for m in found], ["LINE"])

    def test_lost_framing_is_fatal(self) -> None:
        """A size that is no number, or a value that does not end where it has to."""
        self.fatal(b"PUTV;r;c;x;abc\r\n", "SIZE")
        self.fatal(b"PUTV;r;c;-1;\r\n", "SIZE")
        self.fatal(b"PUTV;r;c;2;abc\r\n", "FRAMING")
        self.fatal(b"CPUT;r;c;1;1;ab;c\r\n", "FRAMING")
        self.fatal(b"MUTA;r;x\r\nDEL;c\r\n", "SIZE")
        self.fatal(b"MUTA;r;0\r\n", "LIMIT")
        self.fatal(b"MUTA;r;%d\r\n" % (MAX_MUTATIONS + 1), "LIMIT")
        self.fatal(b"MUTA;r\r\n", "FORMAT")
        self.fatal(b"MUTA;r;1\r\nGET;c\r\n", "COMMAND")
        self.fatal(b"MUTA;r;1\r\nPUT\r\n", "COMMAND")
        self.fatal(b"MUTA;r;1\r\nPUT;c\r\n", "FORMAT")

    def test_bytes_after_a_value_are_not_a_request(self) -> None:
        """A value longer than its size says is noticed even when it holds a line end."""
        self.fatal(b"PUTV;r;c;1;a;GET;r;c\r\n", "FRAMING")


class LargeValueTests(SynchronousTestCase):
    """The largest value is taken; a larger one is read past, and beyond reason refused."""

    def feed(self, decoder: RequestDecoder, size: int) -> list[Request | Malformed]:
        found: list[Request | Malformed] = []
        piece = b"v" * 65536
        while size:
            found += decoder.feed(piece[:size])
            size -= min(size, len(piece))
            self.assertLessEqual(decoder.buffered_bytes, MAX_VALUE_BYTES + 2)
        return found

    def test_the_largest_value(self) -> None:
        """One MiB exactly is a value."""
        decoder = RequestDecoder()
        decoder.feed(b"PUTV;r;c;%d;" % MAX_VALUE_BYTES)
        self.assertEqual(self.feed(decoder, MAX_VALUE_BYTES), [])
        (put,) = decoder.feed(b"\r\n")
        assert isinstance(put, Put)
        self.assertEqual(len(put.value), MAX_VALUE_BYTES)

    def test_a_larger_value_is_thrown_away_without_being_held(self) -> None:
        """The error stands in its place and the connection goes on."""
        decoder = RequestDecoder()
        decoder.feed(b"PUTV;r;c;%d;" % (MAX_VALUE_BYTES * 5))
        self.assertEqual(self.feed(decoder, MAX_VALUE_BYTES * 5), [])
        self.assertEqual(decoder.buffered_bytes, 0)
        wrong, good = decoder.feed(b"\r\n" + GOOD_LINE)
        assert isinstance(wrong, Malformed)
        self.assertEqual((wrong.code, wrong.fatal, good), ("FORMAT", False, GOOD))

    def test_either_value_of_a_comparison_may_be_too_large(self) -> None:
        """CPUT's values are read past together."""
        for sizes in ((MAX_VALUE_BYTES + 1, 3), (3, MAX_VALUE_BYTES + 1)):
            decoder = RequestDecoder()
            decoder.feed(b"CPUT;r;c;%d;%d;" % sizes)
            self.assertEqual(self.feed(decoder, sizes[0]), [])
            decoder.feed(b";")
            self.assertEqual(self.feed(decoder, sizes[1]), [])
            wrong, good = decoder.feed(b"\r\n" + GOOD_LINE)
            assert isinstance(wrong, Malformed)
            self.assertEqual((wrong.fatal, good), (False, GOOD))

    def test_a_value_beyond_reason_is_fatal(self) -> None:
        """Nobody waits for a terabyte to go by."""
        for size in (MAX_DISCARD_BYTES + 1, MAX_COUNTER):
            (lost,) = RequestDecoder().feed(b"PUTV;r;c;%d;" % size)
            assert isinstance(lost, Malformed)
            self.assertEqual((lost.code, lost.fatal), ("SIZE", True))

    def test_a_mutation_is_bounded_as_a_whole(self) -> None:
        """Values that are each small enough may still be too much together; nothing is kept of it."""
        count = MAX_MUTATION_BYTES // MAX_VALUE_BYTES + 1
        decoder = RequestDecoder()
        decoder.feed(b"MUTA;r;%d\r\n" % count)
        found: list[Request | Malformed] = []
        for index in range(count):
            decoder.feed(b"PUT;c%d;%d;" % (index, MAX_VALUE_BYTES))
            self.feed(decoder, MAX_VALUE_BYTES)
            found += decoder.feed(b"\r\n")
        (wrong,) = found
        assert isinstance(wrong, Malformed)
        self.assertFalse(wrong.fatal)
        self.assertEqual(decoder.feed(GOOD_LINE), [GOOD])

    def test_one_wrong_sub_operation_refuses_the_whole(self) -> None:
        """The others are read past, so that the next request is found."""
        decoder = RequestDecoder()
        head = b"MUTA;r;3\r\nPUT;a;1;x\r\n"
        for wrong in (b"DEL;%zz\r\n", b"IFV;c;x\r\n", b"PUT;;1;x\r\n", b"IFE;\x80;1;x\r\n"):
            found = decoder.feed(head + wrong + b"PUT;b;1;y\r\n" + GOOD_LINE)
            self.assertEqual(len(found), 2, found)
            assert isinstance(found[0], Malformed)
            self.assertEqual((found[0].code, found[0].fatal, found[1]), ("FORMAT", False, GOOD))
