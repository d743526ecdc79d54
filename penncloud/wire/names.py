"""Percent-encoding of row and column names, and decimal numbers, as they stand in a line."""

from __future__ import annotations

import re
from typing import Final

from penncloud.wire.limits import MAX_COUNTER

_UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x3a\x3c-\x7e]")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_NUMBER: Final = re.compile(rb"[0-9]{1,19}\Z")


class BadField(ValueError):
    """A field of a line is not what it has to be."""


def quote(name: bytes) -> bytes:
    """Escape every byte outside printable ASCII, and `;` and `%`, as `%XX`."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], name)


def unquote(text: bytes) -> bytes:
    """The reverse of `quote`; raises BadField for bytes that had to be escaped and were not."""
    if b"%" not in text:
        if _UNSAFE.search(text):
            raise BadField("a byte outside printable ASCII has to be percent-encoded")
        return text
    if _UNSAFE.search(text.replace(b"%", b"")):
        raise BadField("a byte outside printable ASCII has to be percent-encoded")
    return _ESCAPE.sub(_unescape, text)


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match.group(1)
    if digits is None:
        raise BadField("% has to be followed by two hexadecimal digits")
    return bytes((int(digits, 16),))


def number(text: bytes) -> int:
    """A decimal number in [0, MAX_COUNTER]."""
    if not _NUMBER.match(text) or (value := int(text)) > MAX_COUNTER:
        raise BadField("expected a decimal number")
    return value
