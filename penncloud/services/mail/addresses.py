"""Mail addresses: the paths of an envelope (RFC 5321 4.1.2) and the lists of a header (RFC 5322 3.4).

An envelope decides who gets a message, so its parser is strict. A header is only shown, and typed by
people, so its parser takes what it finds and never fails. Neither recurses, however deep the input
nests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from penncloud.platform.errors import PennCloudError

# RFC 5321 4.5.3.1.
MAX_LOCAL_BYTES = 64
MAX_DOMAIN_BYTES = 255
MAX_PATH_BYTES = 256

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(\.{_ATEXT}+)*")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*)"')
_LABEL = (
    r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\-\u0080-\U0010ffff]*[A-Za-z0-9\u0080-\U0010ffff])?"
)
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LITERAL = re.compile(r"\[[!-Z^-~]+\]")


class BadAddress(PennCloudError):
    """The text is not a mail address; the message says what is wrong with it."""


@frozen
class Address:
    """`local@domain`, the local part unquoted, the domain in lower case (empty for `postmaster`)."""

    local: str
    domain: str

    def __str__(self) -> str:
        local = self.local
        if not _DOT_STRING.fullmatch(local):
            local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
        return f"{local}@{self.domain}" if self.domain else local

    @property
    def is_ascii(self) -> bool:
        return str(self).isascii()


@frozen
class Shown:
    """One entry of a header's address list: the display name (may be empty) and the address."""

    name: str
    address: str

    def __str__(self) -> str:
        if not self.name:
            return self.address
        if re.search(r'[()<>@,;:\\".\[\]]', self.name):
            name = '"' + re.sub(r'(["\\])', r"\\\1", self.name) + '"'
        else:
            name = self.name
        return f"{name} <{self.address}>"


def parse_address(text: str) -> Address:
    """`local@domain` as an envelope has it, without the angle brackets. Raises BadAddress."""
    if text.startswith("@"):
        raise BadAddress("source routes are not accepted")
    quoted = _QUOTED.match(text)
    if quoted:
        local, rest = re.sub(r"\\(.)", r"\1", quoted.group(1)), text[quoted.end() :]
        if rest[:1] != "@":
            raise BadAddress("an address needs a domain, as in name@example.org")
        domain = rest[1:]
    else:
        local, at, domain = text.rpartition("@")
        if not at:
            raise BadAddress("an address needs a domain, as in name@example.org")
        if not _DOT_STRING.fullmatch(local):
            raise BadAddress("the part before the @ is not valid")
    if not (_DOMAIN.fullmatch(domain) or _LITERAL.fullmatch(domain)):
        raise BadAddress("the part after the @ is not a valid domain")
    if len(local.encode()) > MAX_LOCAL_BYTES:
        raise BadAddress(f"the part before the @ is longer than {MAX_LOCAL_BYTES} bytes")
    if len(domain.encode()) > MAX_DOMAIN_BYTES or len(text.encode()) > MAX_PATH_BYTES:
        raise BadAddress("the address is too long")
    return Address(local, domain.lower())


def ascii_domain(domain: str) -> str:
    """The domain as DNS has it (IDNA). Raises BadAddress."""
    if domain.isascii():
        return domain
    try:
        return ".".join(label.encode("idna").decode("ascii") for label in domain.split("."))
    except UnicodeError as error:
        raise BadAddress("the domain is not a valid international name") from error


def parse_list(text: str, at_most: int = 1000) -> list[Shown]:
    """The addresses of a header such as To, or of a form field; the part beyond `at_most` is left out.

    Groups (`name: a@b, c@d;`) give their members; comments are dropped.
    """
    found = []
    for piece in _entries(text):
        name, address = _entry(piece)
        if name or address:
            found.append(Shown(name, address))
        if len(found) == at_most:
            break
    return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text): `quoted` strings unescaped, `comment`s, and single `char`s."""
    i, n = 0, len(text)
    while i < n:
        char = text[i]
        if char == '"':
            end = i + 1
            while end < n and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            yield "quoted", re.sub(r"\\(.)", r"\1", text[i + 1 : min(end, n)])
            i = end + 1
        elif char == "(":
            depth, start = 0, i
            while i < n:
                if text[i] == "\\":
                    i += 1
                elif text[i] == "(":
                    depth += 1
                elif text[i] == ")":
                    depth -= 1
                    if depth == 0:
                        break
                i += 1
            i += 1
            yield "comment", text[start + 1 : i - 1]
        else:
            yield "char", char
            i += 1


def _entries(text: str) -> Iterator[list[tuple[str, str]]]:
    """The tokens of each entry. A comma or semicolon ends one, also before an unclosed `<`."""
    piece: list[tuple[str, str]] = []
    in_angle = False
    for kind, value in _tokens(text):
        if kind == "char" and value in ",;":
            yield piece
            piece, in_angle = [], False
        elif kind == "char" and value == ":" and not in_angle:
            piece = []  # what came before is a group's name
        else:
            if kind == "char" and value in "<>":
                in_angle = value == "<"
            piece.append((kind, value))
    yield piece


def _entry(piece: Iterable[tuple[str, str]]) -> tuple[str, str]:
    before: list[str] = []
    angle: list[str] | None = None
    closed = False
    comments: list[str] = []
    for kind, value in piece:
        if kind == "comment":
            comments.append(value)
        elif closed:
            continue
        elif kind == "char" and value == "<":
            angle = []
        elif kind == "char" and value == ">" and angle is not None:
            closed = True
        elif angle is not None:
            angle.append(f'"{value}"' if kind == "quoted" else value)
        else:
            before.append(value)
    text = " ".join("".join(before).split())
    if angle is None:
        name = " ".join(" ".join(comments).split())
        return name, text.replace(" ", "")
    return text, "".join("".join(angle).split())
