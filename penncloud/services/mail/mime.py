"""The parts of a message, found with bounds on depth and number.

The tree is walked with a stack of our own instead of by recursion, and every part is a byte range of the
message, so that nothing is copied and an attachment can be cut out without reading the others.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping

from attrs import frozen

from penncloud.services.mail.headers import Headers, clean, decode, decode_bytes, parameters, split

# Multiparts within multiparts; deeper ones are kept as one opaque attachment.
MAX_DEPTH = 30
# Parts of one message in all; beyond it a multipart is kept as one opaque attachment.
MAX_PARTS = 500
# Characters of an attachment's name.
MAX_NAME_CHARS = 150


@frozen
class Part:
    """One leaf of the MIME tree. `start` and `end` are the offsets of its encoded content."""

    number: int  # counted from 0 in the order of the message
    content_type: str
    charset: str
    encoding: str  # Content-Transfer-Encoding, in lower case
    disposition: str  # "attachment", "inline" or ""
    filename: str  # cleaned; empty when none was given
    content_id: str
    start: int
    end: int

    @property
    def is_attachment(self) -> bool:
        """Whether it is offered for download rather than shown as the text."""
        if self.disposition == "attachment" or self.filename:
            return True
        return self.content_type not in ("text/plain", "text/html")

    @property
    def download_name(self) -> str:
        if self.filename:
            return self.filename
        ending = {"message/rfc822": ".eml", "text/plain": ".txt", "text/html": ".html"}
        return f"part-{self.number + 1}{ending.get(self.content_type, '.bin')}"


@frozen
class Structure:
    """A message's headers and leaves. `is_cut`: a bound was met, some part was left in one piece."""

    headers: Headers
    parts: tuple[Part, ...]
    is_cut: bool

    def first(self, content_type: str) -> Part | None:
        """The first part of this type that is not an attachment."""
        return next(
            (p for p in self.parts if p.content_type == content_type and not p.is_attachment), None
        )

    @property
    def attachments(self) -> list[Part]:
        return [part for part in self.parts if part.is_attachment]


def parse(message: bytes) -> Structure:
    """Find the parts of a message; any bytes at all give some structure."""
    headers, body = split(message)
    parts: list[Part] = []
    is_cut = False
    # What is still to be looked at, the next one last: (headers, start, end, depth, default type).
    todo: list[tuple[Headers, int, int, int, str]] = [
        (headers, body, len(message), 0, "text/plain")
    ]
    while todo:
        own, start, end, depth, default = todo.pop()
        given, params = parameters(own.raw("content-type") or default.encode())
        content_type = given if re.fullmatch(r"[\w.+-]+/[\w.+-]+", given) else default
        boundary = params.get("boundary", "")
        if content_type.startswith("multipart/") and boundary:
            room = MAX_PARTS - len(parts) - len(todo)
            ranges = _between(message, start, end, boundary, room + 1) if depth < MAX_DEPTH else []
            if depth < MAX_DEPTH and 0 < len(ranges) <= room:
                inner = "message/rfc822" if content_type == "multipart/digest" else "text/plain"
                for a, b in reversed(ranges):
                    part_headers, part_body = split(message, a, b)
                    todo.append((part_headers, part_body, b, depth + 1, inner))
                continue
            is_cut = is_cut or depth >= MAX_DEPTH or len(ranges) > room
            content_type = "application/octet-stream"
        parts.append(_leaf(len(parts), own, content_type, params, (start, end)))
    return Structure(headers, tuple(parts), is_cut)


def _between(
    message: bytes, start: int, end: int, boundary: str, at_most: int
) -> list[tuple[int, int]]:
    """The ranges between the delimiter lines of a boundary (RFC 2046 5.1.1)."""
    delimiter = b"--" + boundary.encode("utf-8", "replace")
    found: list[tuple[int, int]] = []
    opened: int | None = None
    at = start
    while len(found) < at_most:
        at = message.find(delimiter, at, end)
        if at < 0:
            break
        line_end = _line_end(message, at, end)
        rest = message[at + len(delimiter) : min(line_end, at + len(delimiter) + 200)].strip()
        if (at > 0 and message[at - 1 : at] != b"\n") or rest not in (b"", b"--"):
            at += 2
            continue
        if opened is not None:
            # The line break before a delimiter belongs to the delimiter.
            stop = at - 2 if message[at - 2 : at] == b"\r\n" else at - 1
            found.append((opened, max(opened, stop)))
        if rest == b"--":
            return found
        opened = at = line_end
    if opened is not None and len(found) < at_most:
        found.append((opened, end))  # the closing delimiter is missing: take what there is
    return found


def _line_end(message: bytes, at: int, end: int) -> int:
    found = message.find(b"\n", at, end)
    return end if found < 0 else found + 1


def _leaf(
    number: int,
    headers: Headers,
    content_type: str,
    params: Mapping[str, str],
    place: tuple[int, int],
) -> Part:
    disposition, disposition_params = parameters(headers.raw("content-disposition") or b"")
    name = disposition_params.get("filename") or params.get("name", "")
    encoding, _ = parameters(headers.raw("content-transfer-encoding") or b"7bit")
    return Part(
        number=number,
        content_type=content_type,
        charset=params.get("charset", ""),
        encoding=encoding,
        disposition=disposition if disposition in ("attachment", "inline") else "",
        filename=clean_name(decode(name.encode("utf-8", "replace"))),
        content_id=headers.text("content-id").strip("<>"),
        start=place[0],
        end=place[1],
    )


def content(message: bytes, part: Part) -> bytes:
    """The decoded content of a part; what is not valid in its encoding is left out, never an error."""
    raw = message[part.start : part.end]
    if part.encoding == "base64":
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", raw)
        if len(letters) % 4 == 1:
            letters = letters[:-1]
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    if part.encoding == "quoted-printable":
        return binascii.a2b_qp(raw)
    return raw


def decoded_size(part: Part) -> int:
    """About how many bytes the content has, without decoding it."""
    size = part.end - part.start
    # Usual base64 lines: 57 bytes as 76 letters and CRLF.
    return size * 57 // 78 if part.encoding == "base64" else size


def text(message: bytes, part: Part, at_most: int) -> tuple[str, bool]:
    """A text part as at most `at_most` characters with LF line ends, and whether it was cut."""
    data = content(message, part)
    decoded = (
        decode_bytes(data[: at_most * 4], part.charset).replace("\r\n", "\n").replace("\r", "\n")
    )
    return decoded[:at_most].replace("\x00", ""), len(decoded) > at_most or len(data) > at_most * 4


def clean_name(name: str) -> str:
    """A file name to offer for download: no path, nothing that deceives, not too long."""
    last = re.split(r"[/\\]", clean(name).replace("\x00", ""))[-1]
    safe = re.sub(r'[<>:"|?*;]', "_", last).strip(" .")
    if len(safe) <= MAX_NAME_CHARS:
        return safe
    stem, dot, ending = safe.rpartition(".")
    if not dot or len(ending) > 10:
        return safe[:MAX_NAME_CHARS]
    return f"{stem[: MAX_NAME_CHARS - len(ending) - 1]}.{ending}"
