"""The header section of a message, read with bounds.

The standard library's header parsers recurse on nested comments and groups (a few thousand `(` end in
RecursionError) and keep what they cannot parse as exceptions to come. Mail comes from anybody, so this
reader is iterative, bounded, and gives text for everything: what cannot be decoded is shown as it is.
"""

from __future__ import annotations

import binascii
import codecs
import re
import unicodedata
from collections.abc import Mapping

from attrs import frozen

# Bytes of a header section that are looked at, and fields of it; what is beyond is ignored.
MAX_HEADER_BYTES = 256 * 1024
MAX_FIELDS = 2000
# Characters of one decoded value; longer ones are cut.
MAX_VALUE_CHARS = 32 * 1024
# Parameters of one Content-Type or Content-Disposition.
MAX_PARAMETERS = 64

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.S)
_ENCODED_WORD = re.compile(r"=\?([!-)+-<>@-~]{1,60})(?:\*[^?]{0,60})?\?([bBqQ])\?([^?\s]*)\?=")
_MESSAGE_ID = re.compile(r"<[^<>\s]{1,900}>")
# Decoders that are no character sets, or take quadratic time.
_REFUSED_CHARSETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"})


@frozen
class Headers:
    """Fields in the order of the message: (name in lower case, unfolded raw value)."""

    fields: tuple[tuple[str, bytes], ...]

    def raw(self, name: str) -> bytes | None:
        """The first field of this name."""
        return next((value for known, value in self.fields if known == name), None)

    def text(self, name: str) -> str:
        """The first field of this name, decoded (RFC 2047) and without control characters."""
        value = self.raw(name)
        return "" if value is None else decode(value)

    def message_ids(self, name: str, at_most: int = 50) -> list[str]:
        """The `<...>` identifiers of Message-ID, In-Reply-To or References; the last ones if many."""
        value = self.raw(name) or b""
        return _MESSAGE_ID.findall(value.decode("utf-8", "replace"))[-at_most:]


def split(data: bytes, start: int = 0, end: int | None = None) -> tuple[Headers, int]:
    """The headers that begin at `start`, and where the body behind them begins.

    A section that never ends counts as headers alone. Bare LF is taken as a line end here, as inner
    parts of foreign messages may have it.
    """
    stop = len(data) if end is None else end
    limit = min(stop, start + MAX_HEADER_BYTES)
    lines: list[bytes] = []
    at = start
    body = stop
    while at < stop:
        found = data.find(b"\n", at, stop)
        after = stop if found < 0 else found + 1
        line = data[at : min(after, limit)] if at < limit else b""
        if data[at:after] in (b"\r\n", b"\n"):
            body = after
            break
        if at < limit and len(lines) < MAX_FIELDS * 8:
            lines.append(line.rstrip(b"\r\n"))
        at = after
    return Headers(tuple(_fields(lines))), body


def _fields(lines: list[bytes]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, list[bytes]]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if found:
                found[-1][1].append(line)
            continue
        match = _FIELD.fullmatch(line)
        if match and len(found) < MAX_FIELDS:
            found.append((match.group(1).decode("ascii").lower(), [match.group(2)]))
    return [(name, b"".join(parts).strip()) for name, parts in found]


def decode_bytes(data: bytes, charset: str) -> str:
    """Text in a character set that the message names; an unknown one is read as UTF-8 or Latin-1."""
    try:
        codec = codecs.lookup(charset or "utf-8")
        if codec.name not in _REFUSED_CHARSETS:
            return data.decode(codec.name, "replace")
    except (LookupError, ValueError):
        pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode(value: bytes) -> str:
    """An unstructured field as text: encoded words decoded, controls (also bidi overrides) dropped."""
    text = decode_bytes(value[: MAX_VALUE_CHARS * 4], "utf-8")[:MAX_VALUE_CHARS]
    pieces: list[str] = []
    pending: tuple[str, bytes] | None = None  # encoded words of one charset may split a character
    at = 0
    for match in _ENCODED_WORD.finditer(text):
        between = text[at : match.start()]
        charset, word = match.group(1).lower(), _encoded_word(match.group(2), match.group(3))
        adjacent = pending is not None and not between.strip()
        if pending is not None and adjacent and pending[0] == charset:
            pending = (charset, pending[1] + word)
        else:
            if pending is not None:
                pieces.append(decode_bytes(pending[1], pending[0]))
            if not adjacent:
                pieces.append(between)
            pending = (charset, word)
        at = match.end()
    if pending is not None:
        pieces.append(decode_bytes(pending[1], pending[0]))
    pieces.append(text[at:])
    return clean("".join(pieces))


def _encoded_word(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8")
    if encoding in "qQ":
        return binascii.a2b_qp(raw, header=True)
    try:
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        return raw


def clean(text: str) -> str:
    """One line of text without what deceives or breaks a page: controls, overrides, surrogates."""
    kept = "".join(
        " " if char in "\t\r\n" else char
        for char in text
        if char in "\t\r\n" or unicodedata.category(char) not in ("Cc", "Cs", "Co")
    )
    kept = re.sub("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\ufeff]", "", kept)
    return re.sub(r" {2,}", " ", kept).strip()


def parameters(value: bytes) -> tuple[str, Mapping[str, str]]:
    """`text/plain; charset=utf-8; name="x"` as its main value and its parameters (RFC 2045, 2231)."""
    text = decode_bytes(value[: MAX_VALUE_CHARS * 4], "utf-8")[:MAX_VALUE_CHARS]
    main, _, rest = text.partition(";")
    plain: dict[str, str] = {}
    parts: dict[str, dict[int, tuple[str, bool]]] = {}
    for name, given in _pairs(rest):
        base, star, tail = name.partition("*")
        if not star:
            plain.setdefault(base, given)
        elif tail == "":
            parts.setdefault(base, {})[0] = (given, True)
        else:
            number = tail.removesuffix("*")
            if number.isdecimal() and len(number) < 4:
                parts.setdefault(base, {})[int(number)] = (given, tail.endswith("*"))
    for base, numbered in parts.items():
        plain[base] = _continued(numbered)
    return clean(main).lower(), plain


def _pairs(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    pattern = re.compile(
        r'\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^;]*))[^;]*;?|[^;]*;?', re.S
    )
    while at < len(text) and len(found) < MAX_PARAMETERS:
        match = pattern.match(text, at)
        if match is None or match.end() == at:
            break
        at = match.end()
        if match.group(1):
            quoted = match.group(2)
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match.group(3)
            found.append((match.group(1).lower(), value.strip()))
    return found


def _continued(numbered: Mapping[int, tuple[str, bool]]) -> str:
    charset = "utf-8"
    joined = b""
    for position, number in enumerate(sorted(numbered)):
        value, is_encoded = numbered[number]
        if position == 0 and is_encoded and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        raw = value.encode("utf-8")
        if is_encoded:
            raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes.fromhex(m.group(1).decode()), raw)
        joined += raw
    return decode_bytes(joined, charset)
