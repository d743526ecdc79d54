"""One message of a mailbox, opened: its bytes, its parts, its text."""

from __future__ import annotations

import re
from typing import Literal

from attrs import frozen
from twisted.internet.defer import DeferredSemaphore

from penncloud.platform.environment import Environment
from penncloud.services.mail import html, mime
from penncloud.services.mail.addresses import Shown, parse_list
from penncloud.services.mail.bodies import NoSuchMessage
from penncloud.services.mail.mailbox import BoxName, Listed, NoSuchEntry
from penncloud.services.mail.post import PostOffice
from penncloud.web.errors import WebError

# Messages held in memory at the same time for being taken apart, and bytes of one of them.
_OPEN_AT_ONCE = 3
MAX_OPENED_BYTES = 64 * 1024 * 1024
# Characters of a text part that are shown in the page.
MAX_TEXT_CHARS = 500_000
_STAMP = re.compile(r"[0-9a-f]{16}")


@frozen
class Opened:
    """A message taken apart. `raw` is what is stored, without Return-Path."""

    listed: Listed
    raw: bytes
    structure: mime.Structure
    text: str  # the plain text; empty if there is HTML alone
    quotable: str  # the plain text, or else what the HTML says
    is_text_cut: bool

    @property
    def has_html(self) -> bool:
        return self.structure.first("text/html") is not None

    def addresses(self, name: str, at_most: int = 100) -> list[Shown]:
        """The addresses in a header."""
        return parse_list(self.structure.headers.text(name), at_most)


class Messages:
    """Opens messages, a few at a time."""

    def __init__(self, environment: Environment, post: PostOffice) -> None:
        self._environment = environment
        self._post = post
        self._slots = DeferredSemaphore(_OPEN_AT_ONCE)

    async def find(self, user: str, box: str, stamp: str) -> Listed:
        """WebError (404) if it is not there."""
        name: BoxName = "sent" if box == "sent" else "inbox"
        if not _STAMP.fullmatch(stamp):
            raise WebError(404, "There is no such message.")
        try:
            return await self._post.mailbox(user).get(name, stamp)
        except NoSuchEntry as error:
            raise WebError(404, "This message is not here any more.") from error

    async def open(self, user: str, box: str, stamp: str) -> Opened:
        """WebError (404) if it is not there."""
        listed = await self.find(user, box, stamp)
        await self._slots.acquire()
        try:
            raw = await self._post.bodies.read_all(listed.entry.id, MAX_OPENED_BYTES)
            return await self._environment.run_in_thread(_take_apart, listed, raw)
        except NoSuchMessage as error:
            raise WebError(404, "This message is not here any more.") from error
        finally:
            self._slots.release()

    async def content(self, opened: Opened, part: mime.Part) -> bytes:
        """A part's decoded content."""
        return await self._environment.run_in_thread(mime.content, opened.raw, part)

    async def safe_html(self, opened: Opened) -> tuple[str, bool]:
        """The HTML part made harmless, and whether pictures from elsewhere were left out."""
        return await self._environment.run_in_thread(_safe_html, opened)


def _take_apart(listed: Listed, raw: bytes) -> Opened:
    structure = mime.parse(raw)
    part = structure.first("text/plain")
    text, is_cut = ("", False) if part is None else mime.text(raw, part, MAX_TEXT_CHARS)
    marked = structure.first("text/html")
    quotable = text
    if part is None and marked is not None:
        quotable = html.as_text(mime.text(raw, marked, html.MAX_HTML_CHARS)[0])
    return Opened(listed, raw, structure, text, quotable, is_cut)


def _safe_html(opened: Opened) -> tuple[str, bool]:
    part = opened.structure.first("text/html")
    if part is None:
        return "", False
    source = mime.text(opened.raw, part, html.MAX_HTML_CHARS)[0]
    pictures = {
        each.content_id: (each.content_type, mime.content(opened.raw, each))
        for each in opened.structure.parts
        if each.content_id and each.content_type.startswith("image/")
    }
    return html.sanitise(source, pictures)


LinePart = tuple[Literal["text", "link"], str]
_LINK = re.compile(r"https?://[^\s<>\"']{1,2000}")


def with_links(text: str) -> list[LinePart]:
    """Plain text cut where web addresses begin and end, for a page to link them."""
    found: list[LinePart] = []
    at = 0
    for match in _LINK.finditer(text):
        url = match.group().rstrip(".,;:!?)]}")
        found.append(("text", text[at : match.start()]))
        found.append(("link", url))
        at = match.start() + len(url)
    found.append(("text", text[at:]))
    return found
