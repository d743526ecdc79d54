"""Ranges, conditions and names of downloads."""

from __future__ import annotations

from email.message import Message
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.web.files._ranges import (
    NotSatisfiable,
    Range,
    disposition,
    has_cached,
    http_date,
    is_unmodified,
    parse_range,
)
from penncloud.web.files._types import icon, media_type, viewed_as


class Ranges(SynchronousTestCase):
    def test_the_examples_of_the_rfc(self) -> None:
        """RFC 9110 section 14.1.2, for a content of 10000 bytes."""
        for header, expected in (
            ("bytes=0-499", Range(0, 500)),
            ("bytes=500-999", Range(500, 500)),
            ("bytes=-500", Range(9500, 500)),
            ("bytes=9500-", Range(9500, 500)),
            ("bytes=0-0", Range(0, 1)),
            ("bytes=9999-20000", Range(9999, 1)),
            ("bytes=-20000", Range(0, 10000)),
        ):
            self.assertEqual(parse_range(header, 10000), expected, header)

    def test_what_is_ignored(self) -> None:
        """Malformed, several ranges, other units: the whole content is sent."""
        for header in ("", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2"):
            self.assertIsNone(parse_range(header, 10), header)
        self.assertIsNone(parse_range("bytes=" + "9" * 40 + "-", 10))

    def test_what_cannot_be_satisfied(self) -> None:
        """A range behind the end, or of nothing."""
        for header, size in (("bytes=10-", 10), ("bytes=0-", 0), ("bytes=-0", 10), ("bytes=-5", 0)):
            with self.assertRaises(NotSatisfiable):
                parse_range(header, size)

    @given(st.text(alphabet="bytes=-0123456789,", max_size=20), st.integers(0, 100))
    def test_any_result_lies_within(self, header: str, size: int) -> None:
        """Whatever is asked: what is sent exists."""
        try:
            found = parse_range(header, size)
        except NotSatisfiable:
            return
        if found is not None:
            self.assertGreater(found.length, 0)
            self.assertLessEqual(found.start + found.length, size)

    def test_if_range(self) -> None:
        """A part is only sent of the content that the client has the rest of."""
        self.assertTrue(is_unmodified(None, '"a"', 0))
        self.assertTrue(is_unmodified('"a"', '"a"', 0))
        self.assertFalse(is_unmodified('"b"', '"a"', 0))
        self.assertFalse(is_unmodified('W/"a"', '"a"', 0))
        self.assertTrue(is_unmodified(http_date(1e9), '"a"', 1e9 + 0.5))
        self.assertFalse(is_unmodified(http_date(1e9), '"a"', 1e9 + 1))

    def test_cached(self) -> None:
        """Entity tags go before dates; nonsense means no."""
        self.assertTrue(has_cached('"x", W/"a"', None, '"a"', 0))
        self.assertTrue(has_cached("*", None, '"a"', 0))
        self.assertFalse(has_cached('"b"', http_date(2e9), '"a"', 1e9))
        self.assertTrue(has_cached(None, http_date(1e9), '"a"', 1e9))
        self.assertFalse(has_cached(None, http_date(1e9 - 1), '"a"', 1e9))
        for nonsense in ("", "yesterday", "Mon, 99 Foo 2020"):
            self.assertFalse(has_cached(None, nonsense, '"a"', 0))


class Names(SynchronousTestCase):
    def test_plain(self) -> None:
        """The oldest clients get something readable."""
        self.assertIn('filename="report.pdf"', disposition("attachment", "report.pdf"))

    @given(st.text(min_size=1, max_size=40))
    def test_every_name_survives(self, name: str) -> None:
        """RFC 8187 carries any name, and no name breaks out of the header."""
        try:
            name.encode()
        except UnicodeEncodeError:
            return
        value = disposition("attachment", name)
        self.assertTrue(value.isascii())
        self.assertTrue(value.isprintable())
        self.assertEqual(unquote(value.rpartition("UTF-8''")[2]), name)
        message = Message()
        message["content-disposition"] = value
        self.assertEqual(message.get_content_disposition(), "attachment")


class Types(SynchronousTestCase):
    def test_nothing_that_runs_is_shown_as_itself(self) -> None:
        """HTML, SVG and XML are shown as text or not at all, whatever their case."""
        for name in ("a.html", "a.HTM", "a.svg", "a.xhtml", "a.xml", "a.js", "a.mjs", "a.css"):
            self.assertIn(viewed_as(name), (None, "text/plain; charset=utf-8"), name)
        for name in ("a.pdf", "a.swf", "a.exe", "a", ".html.", "a.svgz"):
            self.assertIsNone(viewed_as(name), name)

    def test_what_is_shown(self) -> None:
        """Pictures, sound, films and text."""
        self.assertEqual(viewed_as("a.PNG"), "image/png")
        self.assertEqual(viewed_as("a.jpg"), "image/jpeg")
        self.assertEqual(viewed_as("a.mp4"), "video/mp4")
        self.assertEqual(viewed_as("a.mp3"), "audio/mpeg")
        self.assertEqual(viewed_as("a.txt"), "text/plain; charset=utf-8")

    def test_types_and_icons(self) -> None:
        """A name that looks like a URL is still only a name."""
        self.assertEqual(media_type("data:text/html,x.png"), "image/png")
        self.assertEqual(media_type("Makefile"), "application/octet-stream")
        self.assertEqual(icon("x.tar", False), "archive")
        self.assertEqual(icon("x.pdf", True), "folder")
        self.assertEqual(icon("x.py", False), "text")
