"""Mailboxes: what a user has of which message, in one row per user.

    row mail/NAME
      inbox/STAMP, sent/STAMP    JSON `Entry`, never rewritten; STAMP is the version of the mutation that
                                 put it, so the store itself gives every mailbox its order
      unread/STAMP               the inbox message of this stamp has not been opened
      at/ID/BOX+STAMP            where message ID is (BOX is `i` or `s`)
      thread/THREAD/BOX+STAMP    which messages belong together
      mid/DIGEST                 JSON `Known`: the message with this Message-ID, to find parents by
      delivered/DAY/TOKEN        a delivery that was made, so that it is made once
      released/ID/BOX            deleted here, its body not yet released
      given-up/ID                message ID is not to be filed here any more, see `given_up`

A delivery is one mutation: its entry, the indexes and the mark that it was made, or nothing. The marks
are kept for some days (`days`), longer than one delivery is retried without the message being sent afresh.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import msgspec
from attrs import frozen
from twisted.logger import Logger

from penncloud.client.table import (
    AppendCell,
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
    Watching,
    appended,
    prefix_stop,
    scan_all,
)
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.days import days_to_look, today
from penncloud.services.mail import given_up
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.summary import Summary

BoxName = Literal["inbox", "sent"]
_BOXES: dict[BoxName, bytes] = {"inbox": b"i", "sent": b"s"}
_NAMES: dict[bytes, BoxName] = {b"i": "inbox", b"s": "sent"}
_RELEASED = b"released/"

# Old marks removed along with one delivery: more than one delivery adds.
_FORGET_AT_ONCE = 8
# References that are looked up to find a message's parent.
_PARENTS_TRIED = 6
MAX_THREAD = 200
MAX_COUNTED = 1000


class Entry(msgspec.Struct, frozen=True):
    """One message as a mailbox lists it. `parent` is "0" where there is none (seed 000)."""

    id: str
    parent: str
    thread: str
    sender: str
    to: str
    subject: str
    date: float  # when it was filed here, Unix seconds
    snippet: str
    size: int  # bytes of the stored message
    message_id: str
    has_attachments: bool = False
    return_path: str | None = None  # the envelope's sender; None: not delivered but sent from here


class Known(msgspec.Struct, frozen=True):
    """Value of `mid/DIGEST`."""

    id: str
    thread: str


@frozen
class Listed:
    """An entry and where it is."""

    box: BoxName
    stamp: str
    entry: Entry
    unread: bool


@frozen
class Filing:
    """One message to be put into one mailbox.

    `token` names the delivery: however often it is tried, the mailbox gets the message once.
    """

    token: str
    message_id: str
    summary: Summary
    return_path: str | None = None


class NoSuchEntry(PennCloudError):
    """The mailbox has no such message (any more)."""


class Mailbox:
    """One user's mailbox."""

    log = Logger()

    def __init__(self, table: Table, bodies: Bodies, environment: Environment, name: str) -> None:
        self.name = name
        self._table = table
        self._bodies = bodies
        self._environment = environment
        self._row = mailbox_row(name)

    async def file(self, box: BoxName, filing: Filing) -> bool:
        """Put a message into a box; False when this delivery had been made before.

        Its body has to be held for this box (`holder`). Raises GivenUp.
        """
        summary = filing.summary
        now = self._environment.now()
        days = days_to_look(now)
        parent = await self._parent(summary)
        thread = parent.thread if parent else filing.message_id
        entry = Entry(
            id=filing.message_id,
            parent=parent.id if parent else "0",
            thread=thread,
            sender=summary.sender,
            to=summary.to,
            subject=summary.subject,
            date=now,
            snippet=summary.snippet,
            size=summary.size,
            message_id=summary.message_id,
            has_attachments=summary.has_attachments,
            return_path=filing.return_path,
        )
        letter = _BOXES[box]
        operations: list[SubOperation] = [
            given_up.unless_given_up(filing.message_id),
            *(IfVersion(_delivered(day, filing.token), 0) for day in days),
            PutCell(_delivered(today(now), filing.token), b""),
            AppendCell(box.encode() + b"/", msgspec.json.encode(entry)),
            AppendCell(b"at/%s/%s" % (filing.message_id.encode(), letter), b""),
            AppendCell(b"thread/%s/%s" % (thread.encode(), letter), b""),
        ]
        if box == "inbox":
            operations.append(AppendCell(b"unread/", b""))
        if summary.message_id:
            known = msgspec.json.encode(Known(filing.message_id, thread))
            operations.append(PutCell(_mid(summary.message_id), known))
        operations.extend(await self._forgettable(days[0]))
        try:
            await self._table.mutate(self._row, operations)
        except Conflict as conflict:
            if await self.was_filed(filing.token):
                return False
            if await given_up.is_given_up(self._table, self._row, filing.message_id):
                text = f"message {filing.message_id} took too long and was given up"
                raise given_up.GivenUp(text) from conflict
            return False
        return True

    async def give_up(self, message_id: str) -> None:
        """From now on a message cannot be filed here; see `has` for whether it was."""
        await given_up.give_up(self._table, self._row, message_id)

    async def forget_given_up(self) -> None:
        """Drop what `give_up` left behind long ago."""
        await given_up.forget(self._table, self._row, self._environment.now())

    async def has(self, box: BoxName, message_id: str) -> bool:
        """Whether the box holds this message."""
        prefix = b"at/%s/%s" % (message_id.encode(), _BOXES[box])
        page = await self._table.scan(self._row, prefix, prefix_stop(prefix), limit=1)
        return bool(page.cells)

    async def was_filed(self, token: str) -> bool:
        """Whether a delivery of this token was made in the last days."""
        for day in reversed(days_to_look(self._environment.now())):
            if await self._table.get(self._row, _delivered(day, token)) is not None:
                return True
        return False

    async def page(
        self, box: BoxName, *, before: str = "", limit: int = 50
    ) -> tuple[list[Listed], bool]:
        """The newest messages (older than stamp `before`, if given), and whether there are more."""
        prefix = box.encode() + b"/"
        stop = prefix + before.encode() if before else prefix_stop(prefix)
        page = await self._table.scan(self._row, prefix, stop, limit=limit, reverse=True)
        unread: set[bytes] = set()
        if box == "inbox" and page.cells:
            low, high = page.cells[-1].col[len(prefix) :], page.cells[0].col[len(prefix) :]
            marks = await self._table.scan(
                self._row, b"unread/" + low, b"unread/" + high + b"\x00", limit=limit
            )
            unread = {mark.col[len(b"unread/") :] for mark in marks.cells}
        listed = []
        for cell in page.cells:
            stamp = cell.col[len(prefix) :]
            entry = msgspec.json.decode(cell.value, type=Entry)
            listed.append(Listed(box, stamp.decode(), entry, stamp in unread))
        return listed, page.more

    async def get(self, box: BoxName, stamp: str) -> Listed:
        """Raises NoSuchEntry."""
        cell = await self._table.get(self._row, _entry_col(box, stamp))
        if cell is None:
            raise NoSuchEntry("this message is not here any more")
        unread = box == "inbox" and await self._table.get(self._row, _unread(stamp)) is not None
        return Listed(box, stamp, msgspec.json.decode(cell.value, type=Entry), bool(unread))

    async def thread(self, thread: str) -> list[Listed]:
        """The messages that belong together, oldest first, at most the last `MAX_THREAD`."""
        prefix = b"thread/%s/" % thread.encode()
        found: list[Listed] = []
        for letter, box in _NAMES.items():
            start = prefix + letter
            page = await self._table.scan(
                self._row, start, prefix_stop(start), limit=MAX_THREAD, reverse=True
            )
            for cell in page.cells:
                try:
                    found.append(await self.get(box, cell.col[len(start) :].decode()))
                except NoSuchEntry:
                    continue  # deleted between the two reads
        found.sort(key=lambda listed: listed.stamp)
        return found[-MAX_THREAD:]

    async def unread_count(self) -> int:
        """Messages not opened yet; counting stops at `MAX_COUNTED`."""
        page = await self._table.scan(
            self._row, b"unread/", prefix_stop(b"unread/"), limit=MAX_COUNTED
        )
        return len(page.cells)

    async def mark(self, stamp: str, *, unread: bool) -> None:
        """Mark an inbox message as unread or read. Raises NoSuchEntry."""
        if not unread:
            await self._table.delete(self._row, _unread(stamp))
            return
        col = _entry_col("inbox", stamp)
        cell = await self._table.get(self._row, col, deadline_s=None)
        if cell is None:
            raise NoSuchEntry("this message is not here any more")
        try:
            await self._table.mutate(
                self._row, [IfVersion(col, cell.version), PutCell(_unread(stamp), b"")]
            )
        except Conflict as conflict:
            raise NoSuchEntry("this message is not here any more") from conflict

    async def delete(self, box: BoxName, stamp: str) -> None:
        """Take a message out of a box; its body goes with its last referrer. Raises NoSuchEntry."""
        col = _entry_col(box, stamp)
        cell = await self._table.get(self._row, col)
        if cell is None:
            raise NoSuchEntry("this message is not here any more")
        entry = msgspec.json.decode(cell.value, type=Entry)
        place = _BOXES[box] + stamp.encode()
        operations: list[SubOperation] = [
            IfVersion(col, cell.version),
            DeleteCell(col),
            DeleteCell(_unread(stamp)),
            DeleteCell(b"at/%s/%s" % (entry.id.encode(), place)),
            DeleteCell(b"thread/%s/%s" % (entry.thread.encode(), place)),
            PutCell(_released(entry.id, box), b""),
        ]
        if entry.message_id:
            mid = await self._table.get(self._row, _mid(entry.message_id))
            if mid is not None and msgspec.json.decode(mid.value, type=Known).id == entry.id:
                operations.append(DeleteCell(_mid(entry.message_id)))
        try:
            await self._table.mutate(self._row, operations)
        except Conflict as conflict:
            raise NoSuchEntry("this message is not here any more") from conflict
        try:
            await self._release_deleted(entry.id, box)
        except PennCloudError as error:
            # The message is gone from here; its mark lets the sweeper remove the text.
            self.log.info("{id} not released yet: {error}", id=entry.id, error=str(error))

    async def release_deleted(self) -> None:
        """Release the bodies of deleted messages whose deletion was cut off.

        Where one is out of reach it raises the reason, after the others.
        """
        reasons: list[PennCloudError] = []
        for cell in await scan_all(self._table, self._row, _RELEASED):
            message_id, _, box = cell.col[len(_RELEASED) :].decode().partition("/")
            try:
                await self._release_deleted(message_id, "inbox" if box == "inbox" else "sent")
            except PennCloudError as error:
                reasons.append(error)
        if reasons:
            raise reasons[0]

    async def _release_deleted(self, message_id: str, box: BoxName) -> None:
        if not await self.has(box, message_id):
            await self._bodies.release(message_id, holder(box, self.name))
        await self._table.delete(self._row, _released(message_id, box))

    def watch(self, callback: Callable[[int], None]) -> Watching:
        """Call back at every change of this mailbox."""
        return self._table.watch(self._row, callback)

    async def _parent(self, summary: Summary) -> Known | None:
        """The nearest ancestor that is here: In-Reply-To first, then References from the last."""
        tried: list[str] = []
        for reference in (*reversed(summary.in_reply_to), *reversed(summary.references)):
            if reference in tried or len(tried) == _PARENTS_TRIED:
                continue
            tried.append(reference)
            cell = await self._table.get(self._row, _mid(reference))
            if cell is not None:
                return msgspec.json.decode(cell.value, type=Known)
        return None

    async def _forgettable(self, first_day: int) -> list[SubOperation]:
        page = await self._table.scan(
            self._row, b"delivered/", _delivered(first_day, ""), limit=_FORGET_AT_ONCE
        )
        return [DeleteCell(cell.col) for cell in page.cells]


def mailbox_row(name: str) -> bytes:
    """The row of a user's mailbox (to watch)."""
    return b"mail/" + name.encode()


def holder(box: BoxName, name: str) -> str:
    """How a body's holder is called that stands for this box."""
    return f"{box}/{name}"


def stamp_of(version: int) -> str:
    """The stamp of what a mutation of this version filed."""
    return appended(b"", version).decode()


def _entry_col(box: BoxName, stamp: str) -> bytes:
    return f"{box}/{stamp}".encode()


def _unread(stamp: str) -> bytes:
    return b"unread/" + stamp.encode()


def _delivered(day: int, token: str) -> bytes:
    return b"delivered/%06d/" % day + token.encode()


def _released(message_id: str, box: BoxName) -> bytes:
    return _RELEASED + f"{message_id}/{box}".encode()


def _mid(message_id: str) -> bytes:
    return b"mid/" + hashlib.sha256(message_id.encode()).hexdigest()[:32].encode()
