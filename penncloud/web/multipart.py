"""`multipart/form-data` (RFC 7578) as it comes in: events instead of a form held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from penncloud.web.errors import WebError

# Bytes of a part's headers; a browser sends two short ones.
_MAX_HEADERS: Final = 8 * 1024


@frozen
class PartBegins:
    """A field; `filename` is None unless it is a file. `content_type` as the client names it."""

    name: str
    filename: str | None
    content_type: str = ""


@frozen
class PartData:
    data: bytes


@frozen
class PartEnds:
    pass


PartEvent = PartBegins | PartData | PartEnds


class FormParts:
    """Feed it the body piece by piece; what it returns is no larger than the piece."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type.encode())
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
            raise WebError(400, "This is not a form with files.")
        self.is_complete = False
        self._events: list[PartEvent] = []
        self._field = b""
        self._value = b""
        self._header_bytes = 0
        self._disposition = b""
        self._content_type = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_began,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ended,
                "on_headers_finished": self._headers_ended,
                "on_part_data": self._part_data,
                "on_part_end": lambda: self._events.append(PartEnds()),
                "on_end": self._ended,
            },
        )

    def feed(self, data: bytes) -> Sequence[PartEvent]:
        """The events that this piece completes. WebError (400) where it is malformed."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise WebError(400, "The form could not be read.") from error
        events, self._events = self._events, []
        return events

    def _part_began(self) -> None:
        self._header_bytes = 0
        self._disposition = b""
        self._content_type = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._counted(data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data, start, end)

    def _counted(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        if self._header_bytes > _MAX_HEADERS:
            raise WebError(400, "The form could not be read.")
        return data[start:end]

    def _header_ended(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        elif self._field.lower() == b"content-type":
            self._content_type = self._value
        self._field = self._value = b""

    def _headers_ended(self) -> None:
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename")
        self._events.append(
            PartBegins(
                _text(options.get(b"name", b"")),
                None if filename is None else _text(filename),
                self._content_type.partition(b";")[0].strip().decode("ascii", "replace"),
            )
        )

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _ended(self) -> None:
        self.is_complete = True


def _text(value: bytes) -> str:
    """A name as browsers quote it (HTML standard, multipart/form-data encoding algorithm)."""
    for quoted, plain in ((b"%0D", b"\r"), (b"%0A", b"\n"), (b"%22", b'"')):
        value = value.replace(quoted, plain)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WebError(400, "A name in the form is not valid UTF-8.") from error
