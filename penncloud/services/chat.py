"""Chat: boards of messages in an order that the store assigns.

Row `chat/ROOM`
    m/VERSION         one message (`_Record` as JSON); VERSION is the mutation's version, 16 hex digits,
                      so that column order is the order of the commits, the same for everybody
    sent/AUTHOR/ID    empty; ID is the client's id of a message

A message's *cursor* is the VERSION of its column. A message is appended on the condition that its
`sent/` cell is missing, which the same mutation writes: a client that did not hear the answer sends
it again with the same ID, and it still shows once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from attrs import frozen

from penncloud.client.table import (
    AppendCell,
    Cell,
    Conflict,
    IfVersion,
    PutCell,
    Table,
    after,
    appended,
    prefix_stop,
)
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError

MAX_CHARACTERS: Final = 4000
PAGE: Final = 50
_MESSAGES: Final = b"m/"
_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}")
_CURSOR: Final = re.compile(r"[0-9a-f]{16}")
# Everything that is neither a line end, a tab nor printable: it could hide or reorder text.
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


class BadMessage(PennCloudError):
    """Not a message that can be posted; the text tells its author why."""


class _Record(msgspec.Struct, frozen=True):
    author: str
    text: str
    sent: float  # Unix seconds, the server's clock
    id: str = ""


class Message(msgspec.Struct, frozen=True):
    """One message. Cursors compare as text in the order of the board."""

    cursor: str
    author: str
    text: str
    sent: float
    # The client's own id: its page knows by it what it has sent.
    id: str = ""


@frozen
class Messages:
    """Messages, oldest first, and whether there are more in the direction that was asked for."""

    messages: tuple[Message, ...]
    more: bool


def is_cursor(text: str) -> bool:
    return _CURSOR.fullmatch(text) is not None


class Chat:
    """One board. Methods raise `client.table.Unavailable` when the store does not answer in time."""

    def __init__(self, table: Table, environment: Environment, room: str = "main") -> None:
        self._table = table
        self._environment = environment
        self.row = b"chat/" + room.encode()

    async def post(self, author: str, text: str, client_id: str) -> Message:
        """Append a message; the same `client_id` again gives the message that is there already.

        `client_id` is 8 to 64 letters, digits and hyphens, unique among the author's messages.
        Raises BadMessage for no text, more than MAX_CHARACTERS, or a malformed id.
        """
        text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
        if not text:
            raise BadMessage("A message needs some text.")
        if len(text) > MAX_CHARACTERS:
            raise BadMessage(f"A message has at most {MAX_CHARACTERS} characters.")
        if not _ID.fullmatch(client_id):
            raise BadMessage("The message has no valid id.")
        record = _Record(author, text, self._environment.now(), client_id)
        sent = f"sent/{author}/{client_id}".encode()
        try:
            version = await self._table.mutate(
                self.row,
                [
                    IfVersion(sent, 0),
                    PutCell(sent, b""),
                    AppendCell(_MESSAGES, msgspec.json.encode(record)),
                ],
            )
        except Conflict as conflict:
            # It is there since an earlier attempt, as it was sent then.
            cell = await self._table.get(self.row, appended(_MESSAGES, conflict.version))
            if cell is None:
                raise BadMessage("This message was removed.") from conflict
            return _message(cell)
        return _message(Cell(appended(_MESSAGES, version), version, b"", 0), record)

    async def latest(self, before: str = "", limit: int = PAGE) -> Messages:
        """The newest messages (before a cursor)."""
        stop = _MESSAGES + before.encode() if before else prefix_stop(_MESSAGES)
        page = await self._table.scan(self.row, _MESSAGES, stop, limit=limit, reverse=True)
        return Messages(tuple(_decode(reversed(page.cells))), page.more)

    async def following(self, cursor: str, limit: int = 100) -> Messages:
        """The messages right behind a cursor."""
        page = await self._table.scan(
            self.row, after(_MESSAGES + cursor.encode()), prefix_stop(_MESSAGES), limit=limit
        )
        return Messages(tuple(_decode(page.cells)), page.more)


def _decode(cells: Iterable[Cell]) -> Iterable[Message]:
    return (_message(cell) for cell in cells)


def _message(cell: Cell, record: _Record | None = None) -> Message:
    if record is None:
        record = msgspec.json.decode(cell.value, type=_Record)
    return Message(
        cursor=cell.col.removeprefix(_MESSAGES).decode(),
        author=record.author,
        text=record.text,
        sent=record.sent,
        id=record.id,
    )
