"""Form fields and streamed bodies as values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.web.body import HIGH_WATER, Body, BodyTooLarge, ClientGone
from penncloud.web.errors import WebError
from penncloud.web.forms import MAX_FIELDS, parse_form
from penncloud.web.multipart import FormParts


class FormTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Values by name, in order; blanks are values; line ends are those of text here."""
        form = parse_form(b"a=1&b=&a=2&text=x%0D%0Ay&n%C3%A4me=%E2%82%AC+%2B")
        self.assertEqual(form.all("a"), ["1", "2"])
        self.assertEqual((form.text("a"), form.text("b")), ("1", ""))
        self.assertEqual(form.text("text"), "x\ny")
        self.assertEqual(form.text("näme"), "€ +")
        self.assertEqual((form.all("c"), form.text("c", "default")), ([], "default"))

    def test_missing_field_is_the_senders_mistake(self) -> None:
        """400, which names the field."""
        with self.assertRaisesRegex(WebError, "field “c”") as raised:
            parse_form(b"").text("c")
        self.assertEqual(raised.exception.status, 400)

    def test_numbers(self) -> None:
        """Decimal, within bounds, nothing else that int() would take."""
        self.assertEqual(parse_form(b"n=-7").integer("n", 0, -10, 10), -7)
        self.assertEqual(parse_form(b"").integer("n", 5, 0, 10), 5)
        for text in ("11", "1_0", "+1", "1.0", "x", "٣", "--1", "-", "9" * 30, " 1"):
            with self.assertRaises(WebError):
                parse_form(f"n={text}".encode().replace(b" ", b"%20")).integer("n", 0, 0, 10)

    def test_bounds(self) -> None:
        """More fields than any page has are refused."""
        parse_form(b"&".join([b"a=1"] * MAX_FIELDS))
        with self.assertRaises(WebError):
            parse_form(b"&".join([b"a=1"] * (MAX_FIELDS + 1)))

    @given(st.binary(max_size=200))
    def test_anything_is_a_form_or_a_400(self, data: bytes) -> None:
        """Whatever comes, it is parsed or refused; never another exception."""
        try:
            parse_form(data)
        except WebError as error:
            self.assertEqual(error.status, 400)


class MultipartTests(SynchronousTestCase):
    def test_other_content_is_refused(self) -> None:
        """Whatever a client calls its body, what is no form with files is 400."""
        for kind in (
            "",
            "text/plain",
            "multipart/form-data",
            "\ufffd",
            "multipart/form-data; =\xff",
        ):
            with self.assertRaises(WebError) as caught:
                FormParts(kind)
            self.assertEqual(caught.exception.status, 400)


class BodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.notes: list[str] = []
        self.body = self.make()

    def make(self, length: int | None = None, limit: int = 10_000_000) -> Body:
        def pause() -> None:
            self.notes.append("pause")

        def resume() -> None:
            self.notes.append("resume")

        return Body(length, limit, pause, resume)

    def read(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self.body.read())

    def test_reader_waits_for_pieces_and_the_end(self) -> None:
        """Pieces come as they arrive; the end is empty, and stays so."""
        reading = self.read()
        self.assertNoResult(reading)
        self.body.received(b"one")
        self.assertEqual(self.successResultOf(reading), b"one")
        reading = self.read()
        self.body.ended()
        self.assertEqual(self.successResultOf(reading), b"")
        self.assertEqual(self.successResultOf(self.read()), b"")

    def test_connection_is_paused_while_too_much_waits(self) -> None:
        """Once above the mark, and resumed when half of it has been read."""
        piece = b"x" * (HIGH_WATER // 4)
        for _ in range(5):
            self.body.received(piece)
        self.assertEqual(self.notes, ["pause"])
        for _ in range(2):
            self.successResultOf(self.read())
        self.assertEqual(self.notes, ["pause"])
        self.successResultOf(self.read())
        self.assertEqual(self.notes, ["pause", "resume"])

    def test_too_much_fails_and_frees(self) -> None:
        """Beyond the limit nothing is kept, and the connection may go on being emptied."""
        self.body = self.make(limit=HIGH_WATER + 10)
        self.body.received(b"x" * (HIGH_WATER + 1))
        self.body.received(b"x" * 100)
        self.failureResultOf(self.read(), BodyTooLarge)
        self.assertEqual(self.notes, ["pause", "resume"])

    def test_lost_connection_fails_the_reader(self) -> None:
        """A body that was cut is never taken for a complete one."""
        self.body.received(b"half")
        reading = self.read()
        self.assertEqual(self.successResultOf(reading), b"half")
        reading = self.read()
        self.body.lost()
        self.failureResultOf(reading, ClientGone)
        self.failureResultOf(self.read(), ClientGone)

    def test_loss_after_the_end_is_no_loss(self) -> None:
        """The body is complete, whatever becomes of the connection."""
        self.body.received(b"all")
        self.body.ended()
        self.body.lost()
        self.assertEqual(self.successResultOf(self.read()), b"all")
        self.assertEqual(self.successResultOf(self.read()), b"")

    def test_first_read_is_told_once(self) -> None:
        """That is when "100 Continue" is due."""
        self.body.on_first_read = lambda: self.notes.append("first")
        self.body.received(b"a")
        self.body.received(b"b")
        self.assertEqual(self.notes, [])
        self.read()
        self.read()
        self.assertEqual(self.notes, ["first"])
