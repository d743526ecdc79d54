"""The audit log: who did what to the cluster, when, and how it ended.

Row `audit`, one cell per action under `e/` + milliseconds since 1970 + a random tail, so that the newest
are read first by a reverse scan and writing the same entry twice is writing it once.

The log must not forbid what it records: a storage server whose death made the log's own tablet
unreachable has to be startable. An entry that the store does not take is told to the process's log
at once, waits in memory (bounded) and is written with the next one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec
from attrs import define, field
from twisted.logger import Logger

from penncloud.client.table import Table, Unavailable
from penncloud.platform.environment import Environment

ROW: Final = b"audit"
_PREFIX: Final = b"e/"
_STOP: Final = b"e0"
# Actions of one process that may wait for the store; older ones are then only in the process's log.
_MAX_WAITING: Final = 256
# An action waits no longer than this for its entry to be written.
_DEADLINE_S: Final = 2.0


class Entry(msgspec.Struct, frozen=True):
    """One action. `at` is Unix seconds; `outcome` is "asked" until it ended."""

    at: float
    actor: str
    action: str
    target: str
    outcome: str


@define
class Page:
    """Entries, newest first; `older` is the cursor of the next page, empty at the end."""

    entries: list[Entry]
    older: str


@define
class AuditLog:
    """Entries of this process on their way to the store, and everybody's from there."""

    table: Table
    environment: Environment
    _waiting: OrderedDict[bytes, Entry] = field(factory=OrderedDict)
    _log = Logger()

    async def begin(self, actor: str, action: str, target: str) -> bytes:
        """Record that something is about to be done; the result names the entry for `end`."""
        now = self.environment.now()
        col = b"%s%013d-%s" % (_PREFIX, now * 1000, self.environment.entropy(4).hex().encode())
        await self._write(col, Entry(now, actor, action, target, "asked"))
        return col

    async def end(self, col: bytes, actor: str, action: str, target: str, outcome: str) -> None:
        """Record how it ended."""
        at = int(col[len(_PREFIX) :].split(b"-")[0]) / 1000
        await self._write(col, Entry(at, actor, action, target, outcome))

    async def page(self, older: str = "", limit: int = 50) -> Page:
        """Entries before the cursor `older` (empty: the newest). Raises Unavailable."""
        await self._flush()
        stop = older.encode("ascii", "replace") if older else _STOP
        found = await self.table.scan(ROW, _PREFIX, stop, limit=limit, reverse=True)
        entries = [msgspec.json.decode(cell.value, type=Entry) for cell in found.cells]
        return Page(entries, found.cells[-1].col.decode() if found.more else "")

    @property
    def waiting(self) -> int:
        """Entries that the store has not taken yet."""
        return len(self._waiting)

    async def _write(self, col: bytes, entry: Entry) -> None:
        self._log.info(
            "audit: {actor}: {action} {target}: {outcome}",
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            outcome=entry.outcome,
        )
        self._waiting[col] = entry
        while len(self._waiting) > _MAX_WAITING:
            self._waiting.popitem(last=False)
        try:
            await self._flush()
        except Unavailable as error:
            self._log.warn("the audit log waits for the store: {error}", error=str(error))

    async def _flush(self) -> None:
        for col, entry in list(self._waiting.items()):
            value = msgspec.json.encode(entry)
            await self.table.put(ROW, col, value, deadline_s=_DEADLINE_S)
            if self._waiting.get(col) is entry:
                del self._waiting[col]
