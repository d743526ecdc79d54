"""The parts of the mail server that do no I/O: commands, the end of data, the header section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.services.mail.addresses import Address
from penncloud.smtp.commands import Refusal, parse_mail, parse_rcpt
from penncloud.smtp.data import DataReader
from penncloud.smtp.stuffing import Stuffer
from penncloud.smtp.trace import TraceHeaders


def read(
    wire: bytes, cuts: list[int] | None = None, limit: int = 100
) -> tuple[DataReader, bytes, bytes | None]:
    """Feed the bytes in pieces; (reader, content, what came behind the end)."""
    reader = DataReader(limit)
    content, at = b"", 0
    for cut in [*sorted(cuts or []), len(wire)]:
        lines, rest = reader.feed(wire[at:cut])
        content += lines
        if rest is not None:
            return reader, content, rest + wire[cut:]
        at = cut
    return reader, content, None


class DataReaderTests(SynchronousTestCase):
    def test_unstuffing(self) -> None:
        """Leading dots are taken off, the end is found, what follows is given back."""
        for wire, content in (
            (b".\r\n", b""),
            (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
            (b"..\r\n...\r\n.x\r\n\r\n.\r\n", b".\r\n..\r\nx\r\n\r\n"),
        ):
            with self.subTest(wire=wire):
                _, found, rest = read(wire + b"QUIT\r\n")
                self.assertEqual((found, rest), (content, b"QUIT\r\n"))

    def test_only_crlf_dot_crlf_ends(self) -> None:
        """Every other thing that somebody might take for the end is content, and marked invalid."""
        fakes = (
            b"\n.\n",
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r.\r\n",
            b"\r\n\x00.\r\n",
            b"\r\n.\r\r\n",
            b"\n.\r\nX",
            b"\r\n.\x00\r\n",
        )
        for fake in fakes:
            with self.subTest(fake=fake):
                wire = b"a" + fake + b"MAIL FROM:<x@y>\r\n"
                reader, _, rest = read(wire)
                self.assertIsNone(rest)
                self.assertEqual(reader.has_bare_newline, b"\x00" not in fake)
                _, _, rest = read(wire + b".\r\nNOOP\r\n")
                self.assertEqual(rest, b"NOOP\r\n")

    def test_long_line(self) -> None:
        """A line that is too long is marked, and the end behind it is found all the same."""
        for length, is_long in ((100, False), (101, True), (5000, True)):
            for cuts in ([], [50], list(range(1, length + 7))):
                reader, _, rest = read(b"x" * length + b"\r\n.\r\nQ", cuts)
                self.assertEqual((reader.has_long_line, rest), (is_long, b"Q"))

    def test_dot_inside_a_long_line(self) -> None:
        """When a long line is dropped in pieces, a dot in its middle is not at a line's start."""
        wire = b"x" * 300 + b".\r\nmore\r\n.\r\nQ"
        for cut in range(1, len(wire)):
            reader, _, rest = read(wire, [cut])
            self.assertEqual((reader.has_long_line, rest), (True, b"Q"))

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.\r\n", b"ab"]), max_size=25),
        st.lists(st.integers(0, 60), max_size=8),
    )
    @settings(max_examples=400, deadline=None)
    def test_cuts_do_not_matter(self, pieces: list[bytes], cuts: list[int]) -> None:
        """However the network cuts the bytes, the reader finds the same content, end and faults."""
        wire = b"".join(pieces)
        whole, content, rest = read(wire)
        split, other, other_rest = read(wire, [min(cut, len(wire)) for cut in cuts])
        self.assertEqual(rest, other_rest)
        if rest is not None:
            self.assertEqual(whole.has_bare_newline, split.has_bare_newline)
        if not whole.has_bare_newline:
            self.assertEqual(content, other)

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x", b".."]), max_size=30),
        st.data(),
    )
    @settings(max_examples=400, deadline=None)
    def test_stuffing_round_trip(self, pieces: list[bytes], data: st.DataObject) -> None:
        """What the relay writes, cut anywhere, the reader gives back with its line ends made CRLF."""
        message = b"".join(pieces)
        stuffer = Stuffer()
        wire, at = b"", 0
        while at < len(message):
            step = data.draw(st.integers(1, 4))
            wire += stuffer.feed(message[at : at + step])
            at += step
        wire += stuffer.finish()
        reader, content, rest = read(wire)
        self.assertEqual(rest, b"")
        self.assertFalse(reader.has_bare_newline)
        lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if lines and not lines.endswith(b"\n"):
            lines += b"\n"
        self.assertEqual(content, lines.replace(b"\n", b"\r\n"))


class CommandTests(SynchronousTestCase):
    def code(self, parse: Callable[..., Any], *args: object) -> tuple[int, str]:
        with self.assertRaises(Refusal) as caught:
            parse(*args)
        return caught.exception.code, caught.exception.status

    def test_mail(self) -> None:
        """Paths and parameters of MAIL."""
        self.assertIsNone(parse_mail(b"FROM:<>").sender)
        found = parse_mail(b"from: <A.b@X.org> SIZE=123 BODY=8BITMIME smtputf8")
        self.assertEqual((found.sender, found.size), (Address("A.b", "x.org"), 123))
        self.assertTrue(found.utf8)
        self.assertEqual(parse_mail("FROM:<ü@x> SMTPUTF8".encode()).sender, Address("ü", "x"))

    def test_bad_mail(self) -> None:
        """What is wrong with a MAIL is told by its code."""
        for argument, code in (
            (b"", 501),
            (b"<a@b>", 501),
            (b"FROM:a@b", 501),
            (b"FROM:<a@b", 501),
            (b"FROM:<a@b>x", 501),
            (b"FROM:<a@b> SIZE=x", 501),
            (b"FROM:<a@b> SIZE=1 SIZE=2", 501),
            (b"FROM:<a@b> FOO", 555),
            (b"FROM:<a@b> BODY=BINARYMIME", 501),
            (b"FROM:<a>", 553),
            (b"FROM:<@r:a@b>", 553),
            (b"FROM:<\xff@b>", 501),
            ("FROM:<ü@b>".encode(), 553),
            (b"FROM:<a b@c>", 553),
            (b"FROM:<a@b> SIZE=" + b"9" * 30, 501),
        ):
            with self.subTest(argument=argument):
                self.assertEqual(self.code(parse_mail, argument)[0], code)

    def test_relaying_forms(self) -> None:
        """Every old way to name another system behind this one is relaying."""
        for path in (
            b"a%b.org@penncloud",
            b"b.org!a@penncloud",
            b"@penncloud:a@b.org",
            b"a@b.org@penncloud",
            b'"a@b.org"@penncloud',
            b"a%b@c%d@penncloud",
        ):
            with self.subTest(path=path):
                self.assertEqual(self.code(parse_rcpt, b"TO:<" + path + b">", False)[0], 550)

    def test_postmaster(self) -> None:
        """postmaster needs no domain, in any case of letters."""
        self.assertEqual(parse_rcpt(b"TO:<PostMaster>", False), Address("postmaster", ""))

    @given(st.binary(max_size=80))
    @settings(max_examples=300, deadline=None)
    def test_any_argument(self, argument: bytes) -> None:
        """No argument gives anything but a result or a Refusal."""
        for prefix in (b"", b"FROM:<", b"TO:<"):
            for parse in (parse_mail, lambda each: parse_rcpt(each, True)):
                try:
                    parse(prefix + argument)
                except Refusal:
                    continue


class TraceTests(SynchronousTestCase):
    def through(self, *pieces: bytes) -> tuple[TraceHeaders, bytes]:
        trace = TraceHeaders(b"Received: us\r\n", "mx.penncloud")
        return trace, b"".join([trace.feed(piece) for piece in pieces]) + trace.finish()

    def test_ours_on_top(self) -> None:
        """Our field comes first; the rest is unchanged, also a body that looks like a header."""
        message = b"A: 1\r\n b\r\nMessage-ID: <x@y>\r\n\r\nReturn-Path: body\r\n"
        trace, out = self.through(message[:6], message[6:])
        self.assertEqual(out, b"Received: us\r\n" + message)
        self.assertEqual(trace.message_id, b"<x@y>")

    def test_claims_are_dropped(self) -> None:
        """Return-Path and Authentication-Results in our name go, folded lines with them."""
        _, out = self.through(
            b"Return-Path: <x>\r\nauthentication-results: MX.penncloud;\r\n spf=pass\r\n"
            b"Authentication-Results: other.org; spf=fail\r\nA: 1\r\n\r\nb\r\n"
        )
        other = b"Authentication-Results: other.org; spf=fail\r\n"
        self.assertEqual(out, b"Received: us\r\n" + other + b"A: 1\r\n\r\nb\r\n")

    def test_no_header(self) -> None:
        """Text without headers becomes the body, behind an empty line."""
        for given_lines, stored in (
            ((b"just text\r\n",), b"\r\njust text\r\n"),
            ((b"A: 1\r\ntext\r\n",), b"A: 1\r\n\r\ntext\r\n"),
            ((), b"\r\n"),
            ((b"A: 1\r\n",), b"A: 1\r\n\r\n"),
        ):
            with self.subTest(given_lines=given_lines):
                self.assertEqual(self.through(*given_lines)[1], b"Received: us\r\n" + stored)

    def test_loop(self) -> None:
        """A hundred Received fields are a loop, ninety-nine are not; a body's do not count."""
        field = b"Received: from a\r\n\tby b\r\n"
        self.assertFalse(self.through(field * 99 + b"\r\n" + field * 9)[0].is_loop)
        self.assertTrue(self.through(field * 100 + b"\r\n")[0].is_loop)

    def test_endless_header(self) -> None:
        """A header section that does not end is given up, not kept in memory."""
        trace, out = self.through(*[b"X: " + b"y" * 1000 + b"\r\n"] * 400)
        self.assertTrue(trace.is_too_large)
        self.assertEqual(out[:20], b"X: yyyyyyyyyyyyyyyyy")
