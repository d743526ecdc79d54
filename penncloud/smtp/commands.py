"""The arguments of MAIL and RCPT (RFC 5321 4.1.1), parsed without any I/O."""

from __future__ import annotations

import re

from attrs import frozen

from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.addresses import Address, BadAddress, parse_address

# A parameter `KEYWORD=value` (RFC 5321 4.1.2, esmtp-param).
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u0080-\U0010ffff]+))?")
_PATH = re.compile(r'\s*<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>(.*)', re.S)


class Refusal(PennCloudError):
    """What the client asked for is answered with this code; the session goes on."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(f"{code} {status} {text}")
        self.code = code
        self.status = status
        self.text = text


@frozen
class Mail:
    """MAIL FROM. `sender` is None for the null sender, `size` what the client announced (bytes)."""

    sender: Address | None
    size: int
    utf8: bool


def parse_mail(argument: bytes) -> Mail:
    """`FROM:<path> parameters`. Raises Refusal."""
    path, parameters = _split(argument, "FROM:")
    known = _parameters(parameters, {"SIZE", "BODY", "SMTPUTF8"})
    size = known.get("SIZE", "0")
    if not (size.isascii() and size.isdecimal() and len(size) <= 20):
        raise Refusal(501, "5.5.4", "SIZE needs a number of bytes")
    if known.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
        raise Refusal(501, "5.5.4", "BODY is 7BIT or 8BITMIME")
    if known.get("SMTPUTF8"):
        raise Refusal(501, "5.5.4", "SMTPUTF8 takes no value")
    utf8 = "SMTPUTF8" in known
    if path == "":
        return Mail(None, int(size), utf8)
    try:
        sender = parse_address(path)
    except BadAddress as error:
        raise Refusal(553, "5.1.7", f"Bad sender address: {error}") from error
    _check_utf8(sender, utf8)
    return Mail(sender, int(size), utf8)


def parse_rcpt(argument: bytes, utf8: bool) -> Address:
    """`TO:<path> parameters`. Raises Refusal.

    Whatever could mean another system behind the one that is named (source routes, `%`, `!`, a second
    `@`) is relaying and refused as that.
    """
    path, parameters = _split(argument, "TO:")
    _parameters(parameters, set())
    if path.lower() == "postmaster":
        return Address("postmaster", "")
    if path.startswith("@"):
        raise Refusal(550, "5.7.1", "Relaying denied: source routes are not followed")
    try:
        recipient = parse_address(path)
    except BadAddress as error:
        if path.count("@") > 1 and '"' not in path:
            raise Refusal(550, "5.7.1", "Relaying denied") from error
        raise Refusal(553, "5.1.3", f"Bad recipient address: {error}") from error
    if re.search(r"[%!@]", recipient.local):
        raise Refusal(550, "5.7.1", "Relaying denied: name the recipient's own domain")
    _check_utf8(recipient, utf8)
    return recipient


def _check_utf8(address: Address, utf8: bool) -> None:
    if not utf8 and not address.is_ascii:
        raise Refusal(553, "5.6.7", "A non-ASCII address needs SMTPUTF8")


def _split(argument: bytes, keyword: str) -> tuple[str, str]:
    try:
        text = argument.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(501, "5.5.2", "The address is not UTF-8") from error
    if text[: len(keyword)].upper() != keyword:
        raise Refusal(501, "5.5.4", f"Expected {keyword}<address>")
    match = _PATH.fullmatch(text[len(keyword) :])
    if match is None or (match.group(2) and not match.group(2)[0].isspace()):
        raise Refusal(501, "5.5.4", f"Expected {keyword}<address>")
    return match.group(1), match.group(2)


def _parameters(text: str, accepted: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise Refusal(501, "5.5.4", "Bad parameter")
        name = match.group(1).upper()
        if name not in accepted:
            raise Refusal(555, "5.5.4", f"Parameter {name} is not known here")
        if name in found:
            raise Refusal(501, "5.5.4", f"Parameter {name} given twice")
        found[name] = match.group(2) or ""
    return found
