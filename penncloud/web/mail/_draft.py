"""The compose form as it arrives: first its fields, then its files, never whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import msgspec
from attrs import define, field, frozen

from penncloud.web.errors import WebError
from penncloud.web.multipart import FormParts, PartBegins, PartData, PartEvent
from penncloud.web.request import WebRequest

# Bytes of all fields together: the text of a message.
_MAX_FIELDS_BYTES = 1024 * 1024
_MAX_FIELDS = 700
# Files of one form.
_MAX_FILES = 100


@define
class Draft:
    """The fields of the form."""

    kind: str = "new"
    box: str = ""
    stamp: str = ""
    token: str = ""
    csrf: str = ""
    to: str = ""
    subject: str = ""
    text: str = ""
    keep: list[str] = field(factory=list)  # numbers of the original's attachments

    @property
    def delivery(self) -> str:
        """Names what is sent: of the same form only what was changed meanwhile is sent once more.

        Who was told that it did not work may write something else; it must not be taken for what was
        sent all the same.
        """
        parts = (self.token, self.to, self.subject, self.text, *self.keep)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


@frozen
class Upload:
    """One file; `pieces` has to be read to its end before the next one is asked for."""

    name: str
    content_type: str
    pieces: AsyncIterator[bytes]


class DraftForm:
    """Reads the body of one request. Raises WebError for what is no such form."""

    def __init__(self, request: WebRequest) -> None:
        self._request = request
        content_type = request.getHeader("content-type") or ""
        self._parts = FormParts(content_type)
        self._events: list[PartEvent] = []
        self._files = 0

    async def read_fields(self) -> Draft:
        """The fields, which come before the files."""
        draft, room, count = Draft(), _MAX_FIELDS_BYTES, 0
        while True:
            begins = await self._peek()
            if not isinstance(begins, PartBegins) or begins.filename is not None:
                break
            self._events.pop(0)
            count += 1
            value = b""
            while isinstance(event := await self._next(), PartData):
                value += event.data
                if len(value) > room or count > _MAX_FIELDS:
                    raise WebError(413, "The text of the message is too long.")
            room -= len(value)
            _put(draft, begins.name, value)
        if draft.kind not in ("new", "reply", "forward"):
            raise WebError(400, "The form could not be read.")
        return draft

    async def has_uploads(self) -> bool:
        """Whether a file follows; inputs in which none was chosen do not count."""
        while isinstance(begins := await self._peek(), PartBegins):
            if begins.filename:
                return True
            if begins.filename is None:
                raise WebError(400, "In this form files come last.")
            self._events.pop(0)
            while isinstance(await self._next(), PartData):
                pass
        return False

    async def uploads(self) -> AsyncIterator[Upload]:
        """The files, one after the other, as the browser sends them."""
        while await self.has_uploads():
            begins = await self._next()
            assert isinstance(begins, PartBegins), "has_uploads looked at another event"
            self._files += 1
            if self._files > _MAX_FILES:
                raise WebError(413, f"A message has at most {_MAX_FILES} attachments.")
            yield Upload(begins.filename or "", begins.content_type, self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), PartData):
            yield event.data

    async def _peek(self) -> PartEvent | None:
        while not self._events:
            data = await self._request.body.read()
            if not data:
                if not self._parts.is_complete:
                    raise WebError(400, "The form is not complete.")
                return None
            self._events.extend(self._parts.feed(data))
        return self._events[0]

    async def _next(self) -> PartEvent | None:
        event = await self._peek()
        if event is not None:
            self._events.pop(0)
        return event


def _put(draft: Draft, name: str, value: bytes) -> None:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WebError(400, "The form is not valid UTF-8.") from error
    match name:
        case "keep":
            draft.keep.append(text)
        case "text":
            draft.text = text.replace("\r\n", "\n").replace("\x00", "")
        case "kind" | "box" | "stamp" | "token" | "csrf" | "to" | "subject":
            setattr(draft, name, text)
