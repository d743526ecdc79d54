"""Writing a message (RFC 5322, MIME) as a stream of bytes: CRLF line ends, 7 bit, short lines.

Attachments are read and encoded piece by piece, so that memory does not grow with them. Every header
value is checked here once more: whatever a form sent, no CR, LF or NUL gets into a header.
"""

from __future__ import annotations

import base64
import quopri
from collections.abc import AsyncIterator
from email.header import Header
from email.utils import formatdate

from attrs import frozen

from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.addresses import Shown

MAX_SUBJECT_CHARS = 500
# 57 bytes make a base64 line of 76 columns.
_BASE64_BYTES = 57


class BadHeader(PennCloudError):
    """A header value that no message may have: it holds a line break or another control character."""


@frozen
class Attachment:
    """A file in a message; `pieces` gives its content once."""

    name: str
    content_type: str
    pieces: AsyncIterator[bytes]


@frozen
class Letter:
    """A message to be written. `date` in Unix seconds; ids with their angle brackets."""

    sender: Shown
    to: tuple[Shown, ...]
    subject: str
    text: str
    date: float
    message_id: str
    in_reply_to: str = ""
    references: tuple[str, ...] = ()
    attachments: AsyncIterator[Attachment] | None = None  # None: a message of text alone
    extra: tuple[tuple[str, str], ...] = ()


async def compose(letter: Letter, boundary: str) -> AsyncIterator[bytes]:
    """The message in pieces. `boundary` has to be unpredictable to whoever wrote the text."""
    yield b"".join(line + b"\r\n" for line in headers(letter))
    if letter.attachments is None:
        yield _text_part(letter.text)
        return
    mark = f"=_{boundary}"
    yield f'Content-Type: multipart/mixed; boundary="{mark}"\r\n\r\n'.encode()
    yield f"--{mark}\r\n".encode() + _text_part(letter.text)
    async for attachment in letter.attachments:
        yield f"\r\n--{mark}\r\n".encode() + _attachment_head(attachment)
        held = b""
        async for piece in attachment.pieces:
            held += piece
            whole = len(held) - len(held) % (_BASE64_BYTES * 100)
            if whole:
                yield _base64_lines(held[:whole])
                held = held[whole:]
        yield _base64_lines(held)
    yield f"\r\n--{mark}--\r\n".encode()


def headers(letter: Letter) -> list[bytes]:
    """The header lines (folded ones with their CRLF inside) without the content's own."""
    lines = [
        _line("Date", formatdate(letter.date)),
        b"From: " + _addresses((letter.sender,)),
        b"To: " + _addresses(letter.to),
        _line("Message-ID", letter.message_id),
        unstructured("Subject", letter.subject),
    ]
    if letter.in_reply_to:
        lines.append(_line("In-Reply-To", letter.in_reply_to))
    if letter.references:
        lines.append(b"References: " + "\r\n ".join(map(checked, letter.references)).encode())
    lines += [_line(name, value) for name, value in letter.extra]
    lines.append(b"MIME-Version: 1.0")
    return lines


def checked(value: str) -> str:
    """The value, if a header may hold it. Raises BadHeader."""
    if any(ord(char) < 32 or ord(char) == 127 for char in value if char != "\t"):
        raise BadHeader("a header field must not hold line breaks or control characters")
    return value


def unstructured(name: str, value: str) -> bytes:
    """One free-text header, folded, non-ASCII as encoded words (RFC 2047)."""
    if checked(value).isascii() and "=?" not in value and len(name) + len(value) < 76:
        return f"{name}: {value}".encode()
    encoded = Header(value, "utf-8", header_name=name, maxlinelen=76).encode(linesep="\r\n")
    return f"{name}: {encoded}".encode()


def _line(name: str, value: str) -> bytes:
    return f"{name}: {checked(value)}".encode()


def _addresses(shown: tuple[Shown, ...]) -> bytes:
    written = []
    for each in shown:
        checked(each.name)
        checked(each.address)
        if each.name and not each.name.isascii():
            name = Header(each.name, "utf-8", maxlinelen=60).encode(linesep="\r\n")
            written.append(f"{name} <{each.address}>")
        else:
            written.append(str(each))
    return ",\r\n ".join(written).encode()


def _text_part(text: str) -> bytes:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    if lines and not lines.endswith("\n"):
        lines += "\n"
    encoded = quopri.encodestring(lines.encode("utf-8", "replace"), quotetabs=False)
    head = (
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    return head + encoded.replace(b"\n", b"\r\n")


def _attachment_head(attachment: Attachment) -> bytes:
    name = checked(attachment.name)
    if name.isascii():
        written = 'filename="' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        octets = name.encode("utf-8", "replace")
        kept = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
        written = "filename*=utf-8''" + "".join(
            chr(o) if o in kept else f"%{o:02X}" for o in octets
        )
    return (
        f"Content-Type: {checked(attachment.content_type)}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment;\r\n {written}\r\n\r\n"
    ).encode()


def _base64_lines(data: bytes) -> bytes:
    return b"".join(
        base64.b64encode(data[at : at + _BASE64_BYTES]) + b"\r\n"
        for at in range(0, len(data), _BASE64_BYTES)
    )
