"""The outgoing queue, kept in the store, so that any smtp node can send what another left behind.

    row queue/SHARD
      item/ID          JSON `Item`
      due/MS/ID        the item's domain; MS says when to look at it: Unix milliseconds, 12 hex digits
      done/DAY/ID      JSON `Done`: finished, so that it is never queued again by a late retry
      given-up/ID      message ID is not to be queued here any more, see `given_up`

An item begins as a *submission* (no `domain`): what its author sent, to be filed and split. Splitting is
one mutation that ends the submission and queues one item per outside domain, as all items of one
submission share a row. Ending an item leaves `done/` in the same mutation: an id is executed once.

Leases. Whoever works on an item writes `lease` into it and renews it; every step is conditional on the
version it last wrote, so only one can go on. Clocks of different hosts differ, so a lease of another
node is not judged by its time: it has run out when *we* saw it unchanged for `LEASE_S` on our own
monotonic clock. The `due/` time only says when to look. The holder counts from before its last renewal
was sent, so it gives up before anybody else takes over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from attrs import define, field

from penncloud.client.table import (
    Conflict,
    DeleteCell,
    IfVersion,
    PutCell,
    SubOperation,
    Table,
    after,
)
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.days import days_to_look, today
from penncloud.services.mail.given_up import (
    GivenUp,
    forget,
    give_up,
    is_given_up,
    unless_given_up,
)
from penncloud.wire.limits import MAX_SCAN_CELLS

SHARDS = 8
# Items of one page of a listing.
_PAGE = 200
# Seconds that a lease lasts without being renewed, and between renewals.
LEASE_S = 8.0
RENEW_S = 2.5
# Outside domains of one submission: each is two sub-operations of the splitting mutation.
MAX_DOMAINS = 100


class Recipient(msgspec.Struct, frozen=True):
    """One address, and what the last attempt said of it (empty before the first)."""

    address: str
    status: str = ""  # enhanced status code, e.g. "4.4.1"
    reply: str = ""  # the remote server's words, or ours
    remote: str = ""  # the server that said it


class Lease(msgspec.Struct, frozen=True):
    """Who works on an item: a node and which of its runs."""

    node: str
    incarnation: int


class Item(msgspec.Struct, frozen=True):
    """One message for recipients of one domain, or (domain empty) a submission to be carried out."""

    id: str
    message_id: str  # of the stored body
    user: str  # the local author, whose mailbox gets the bounce; empty: nobody
    sender: str  # the envelope's sender; empty: the null sender
    recipients: list[Recipient]
    created: float  # Unix seconds
    due: float  # Unix seconds
    domain: str = ""
    attempts: int = 0
    told_delay: bool = False
    lease: Lease | None = None

    @property
    def holder(self) -> str:
        """The name by which this item holds its body."""
        return item_holder(self.id)


class Done(msgspec.Struct, frozen=True):
    """Value of `done/DAY/ID`: whose body is to be released (again, if that was cut off)."""

    message_id: str


class AlreadyQueued(PennCloudError):
    """An item of this id was queued before; nothing was done."""


class LeaseLost(PennCloudError):
    """Another node has taken the item over: stop working on it."""


@define
class Claimed:
    """An item that this node works on; `version` is that of its cell as we last wrote it."""

    item: Item
    version: int
    valid_until: float  # monotonic seconds of our own clock


@define
class Queue:
    """The queue as one node sees it. `incarnation` tells this run of the node from earlier ones."""

    _table: Table
    _environment: Environment
    node: str
    incarnation: int
    # Leases of others: id -> (version, monotonic seconds when it was first seen so).
    _observed: dict[str, tuple[int, float]] = field(factory=dict, init=False)

    async def submit(self, item: Item) -> Claimed:
        """Queue a new submission, leased to us. Raises AlreadyQueued, GivenUp."""
        before = self._monotonic()
        item = self._leased(item)
        row = row_of(item.id)
        operations: list[SubOperation] = [
            unless_given_up(item.message_id),
            IfVersion(_item(item.id), 0),
        ]
        days = days_to_look(self._environment.now())
        operations += [IfVersion(_done(day, item.id), 0) for day in days]
        operations += _puts(item)
        try:
            version = await self._table.mutate(row, operations)
        except Conflict as conflict:
            if await is_given_up(self._table, row, item.message_id):
                raise GivenUp(f"{item.id} took too long and was given up") from conflict
            raise AlreadyQueued(f"{item.id} was queued before") from conflict
        return Claimed(item, version, before + LEASE_S)

    async def due(
        self, shard: int, limit: int, skip: Collection[str] = ()
    ) -> tuple[list[tuple[Item, int]], float | None]:
        """Items that we may claim now, with their versions; and the Unix time to look again.

        At most `limit`, none for a domain of `skip`: one slow domain does not hide the others.
        """
        row = b"queue/%02d" % shard
        now = self._environment.now()
        page = await self._table.scan(row, b"due/", b"due0", limit=MAX_SCAN_CELLS)
        free: list[tuple[Item, int]] = []
        again: float | None = None
        seen: set[str] = set()
        for cell in page.cells:
            _, at, item_id = cell.col.decode().split("/", 2)
            due = int(at, 16) / 1000
            if due > now:
                again = due if again is None else min(again, due)
                break
            if len(free) == limit:
                again = now
                break
            seen.add(item_id)
            if cell.value.decode() in skip:
                continue
            found = await self._table.get(row, _item(item_id))
            if found is None:
                continue
            item = msgspec.json.decode(found.value, type=Item)
            wait = self._lease_left(item, found.version)
            if wait > 0:
                again = now + wait if again is None else min(again, now + wait)
            else:
                free.append((item, found.version))
        for known in [key for key in self._observed if key not in seen]:
            if row_of(known) == row:
                del self._observed[known]
        return free, again

    async def claim(self, item: Item, version: int) -> Claimed | None:
        """Take a lease on an item read at this version; None when somebody else was quicker."""
        before = self._monotonic()
        mine = self._leased(item)
        try:
            now_at = await self._table.mutate(
                row_of(item.id),
                [IfVersion(_item(item.id), version), DeleteCell(_due(item)), *_puts(mine)],
            )
        except Conflict:
            return None
        self._observed.pop(item.id, None)
        return Claimed(mine, now_at, before + LEASE_S)

    async def renew(self, claimed: Claimed) -> None:
        """Go on holding the lease. Raises LeaseLost."""
        before = self._monotonic()
        await self._replace(claimed, self._leased(claimed.item))
        claimed.valid_until = before + LEASE_S

    def holds(self, claimed: Claimed) -> bool:
        """Whether nobody else can have taken the item over yet."""
        return self._monotonic() < claimed.valid_until

    async def keep(self, claimed: Claimed, recipients: list[Recipient]) -> None:
        """Go on for these recipients alone: the others are done. Raises LeaseLost."""
        rest = msgspec.structs.replace(claimed.item, recipients=recipients)
        await self._replace(claimed, self._leased(rest))

    async def put_back(self, claimed: Claimed, item: Item) -> None:
        """Give the lease up; the item, as it is now, is looked at again when it is due."""
        await self._replace(claimed, msgspec.structs.replace(item, lease=None))

    async def finish(self, claimed: Claimed, successors: Sequence[Item] = ()) -> None:
        """The item is executed; `successors` (of the same submission) take its place, due at once."""
        item_id = claimed.item.id
        mark = msgspec.json.encode(Done(claimed.item.message_id))
        operations: list[SubOperation] = [
            DeleteCell(_item(item_id)),
            PutCell(_done(today(self._environment.now()), item_id), mark),
        ]
        for item in successors:
            assert row_of(item.id) == row_of(item_id), "an item moved to another row"
            operations += _puts(item)
        await self._change(claimed, operations)

    async def listed(self, shard: int, behind: str = "") -> list[Item]:
        """A page of all items of a shard, by id, behind one of them; none: there are no more."""
        start = _item(behind) + b"\x00" if behind else b"item/"
        page = await self._table.scan(b"queue/%02d" % shard, start, b"item0", limit=_PAGE)
        return [msgspec.json.decode(cell.value, type=Item) for cell in page.cells]

    async def has(self, item_id: str) -> bool:
        """Whether an item is queued."""
        return await self._table.get(row_of(item_id), _item(item_id)) is not None

    async def give_up(self, item_id: str, message_id: str) -> None:
        """From now on a message cannot be queued as this item; see `has` for whether it was."""
        await give_up(self._table, row_of(item_id), message_id)

    async def forget_given_up(self, shard: int) -> None:
        """Drop what `give_up` left behind long ago."""
        await forget(self._table, b"queue/%02d" % shard, self._environment.now())

    async def old_done(
        self, shard: int, limit: int, behind: bytes = b""
    ) -> list[tuple[bytes, str, Done]]:
        """(column, item id, what it says) of finished items that need not be remembered any more.

        At most `limit`, behind one of these columns; none: there are no more.
        """
        row = b"queue/%02d" % shard
        start = after(behind) if behind else b"done/"
        stop = _done(days_to_look(self._environment.now())[0], "")
        page = await self._table.scan(row, start, stop, limit=limit)
        return [
            (
                cell.col,
                cell.col.decode().split("/", 2)[2],
                msgspec.json.decode(cell.value, type=Done),
            )
            for cell in page.cells
        ]

    async def forget(self, shard: int, col: bytes) -> None:
        """Drop a finished item's mark."""
        await self._table.delete(b"queue/%02d" % shard, col)

    def watch(self, shard: int, callback: Any) -> Any:
        """Call back when something changed in a shard."""
        return self._table.watch(b"queue/%02d" % shard, callback)

    async def _replace(self, claimed: Claimed, item: Item) -> None:
        claimed.version = await self._change(claimed, _puts(item))
        claimed.item = item

    async def _change(self, claimed: Claimed, operations: Sequence[SubOperation]) -> int:
        """Change an item that we hold, and when it is due. Raises LeaseLost.

        A renewal whose answer was lost may have been done: what then stands there, newer than we know,
        still is ours, and giving it up would let it be sent twice.
        """
        row, col = row_of(claimed.item.id), _item(claimed.item.id)
        for _ in range(2):
            condition = IfVersion(col, claimed.version)
            try:
                return await self._table.mutate(
                    row, [condition, DeleteCell(_due(claimed.item)), *operations]
                )
            except Conflict:
                found = await self._table.get(row, col)
            if found is None:
                break
            item = msgspec.json.decode(found.value, type=Item)
            if item.lease != self._lease():
                break
            claimed.item, claimed.version = item, found.version
        claimed.valid_until = self._monotonic()
        raise LeaseLost(f"{claimed.item.id} was taken over")

    def _lease_left(self, item: Item, version: int) -> float:
        """Seconds until this node may take the item; 0: now."""
        lease = item.lease
        if lease is None or (lease.node == self.node and lease.incarnation != self.incarnation):
            self._observed.pop(item.id, None)
            return 0.0
        known, since = self._observed.get(item.id, (-1, 0.0))
        if known != version:
            self._observed[item.id] = (version, self._monotonic())
            return LEASE_S
        return max(0.0, since + LEASE_S - self._monotonic())

    def _leased(self, item: Item) -> Item:
        return msgspec.structs.replace(
            item,
            lease=self._lease(),
            due=self._environment.now() + LEASE_S,
        )

    def _lease(self) -> Lease:
        return Lease(self.node, self.incarnation)

    def _monotonic(self) -> float:
        seconds: float = self._environment.reactor.seconds()
        return seconds


def item_holder(item_id: str) -> str:
    """The name by which an item holds its body."""
    return f"queue/{item_id}"


def submission_id(user: str, token: str) -> str:
    """The id of the submission that a user's form with this token stands for."""
    return hashlib.sha256(f"{user}\x00{token}".encode()).hexdigest()[:32]


def row_of(item_id: str) -> bytes:
    """The row of a submission and of the items it was split into (`SUBMISSION.N`)."""
    digest = hashlib.sha256(item_id.partition(".")[0].encode()).digest()
    return b"queue/%02d" % (digest[0] % SHARDS)


def _puts(item: Item) -> list[SubOperation]:
    return [
        PutCell(_item(item.id), msgspec.json.encode(item)),
        PutCell(_due(item), item.domain.encode()),
    ]


def _item(item_id: str) -> bytes:
    return b"item/" + item_id.encode()


def _due(item: Item) -> bytes:
    return b"due/%012x/" % int(item.due * 1000) + item.id.encode()


def _done(day: int, item_id: str) -> bytes:
    return b"done/%06d/" % day + item_id.encode()
