"""The scrub: all files are read now and then, so that damage is found while others still have what it took.

Theory of operation
    Round after round, with a rest between: every table as a whole, and every owner's blob, a piece at a
    time, so many bytes a second. A block that fails its checksum is reported for every tablet whose table
    it is; the scrub goes on behind it. A blob that fails is written anew by a checkpoint: what it was made
    of is in memory.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.flush import Flusher
from penncloud.lsm.store import Store, read_blob
from penncloud.lsm.table import Table
from penncloud.platform.errors import PennCloudError

# Read in one go.
_PIECE_BYTES: Final = 64 * 1024


class Scrubber:
    """See the module. Does nothing where `options.scrub_bytes_per_s` is 0."""

    _log = Logger()

    def __init__(self, store: Store, flusher: Flusher) -> None:
        self._store = store
        self._flusher = flusher
        self._call: Any = None
        self._pause: Deferred[None] | None = None
        self._closed = False
        # Since the start.
        self.rounds = 0

    def start(self) -> None:
        """Begin with a rest: a start has enough to do."""
        if self._store.options.scrub_bytes_per_s:
            self._begin_later()

    def close(self) -> None:
        """Stop, in the middle of a round if need be."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.callback(None)

    def _begin_later(self) -> None:
        options = self._store.options
        self._call = self._store.clock.callLater(options.scrub_rest_s, self._begin)

    def _begin(self) -> None:
        self._call = None
        Deferred.fromCoroutine(self._round()).addBoth(self._ended)

    def _ended(self, result: object) -> None:
        if isinstance(result, Failure):
            self._log.failure("the scrub", result)
        if not self._closed:
            self.rounds += 1
            self._begin_later()

    async def _round(self) -> None:
        store = self._store
        for number in sorted(store.tables):
            table = store.tables.get(number)
            if table is not None:
                table.retain()
                try:
                    await self._check_table(table)
                finally:
                    store.release_table(table)
        for tablet in sorted(store.tablets):
            found = store.tablets.get(tablet)
            if found is not None and not found.damaged:
                await self._check_blob(tablet, found.state.meta)
            if self._closed:
                return

    async def _check_table(self, table: Table) -> None:
        held = 0
        for place in self._places(table):
            if self._closed:
                return
            try:
                table.check_block(place)
            except TableDamaged as error:
                self._report(table, error)
            held += place[1]
            if held >= _PIECE_BYTES:
                await self._rest(held)
                held = 0
        await self._rest(held)

    def _places(self, table: Table) -> list[tuple[int, int]]:
        try:
            return table.places()
        except TableDamaged as error:
            self._report(table, error)
            return []

    def _report(self, table: Table, error: TableDamaged) -> None:
        for tablet in list(self._store.tablets.values()):
            if table in tablet.tables:
                tablet.spoil(error)

    async def _check_blob(self, tablet: int, number: int) -> None:
        try:
            await self._rest(len(read_blob(self._store.disk, number)))
        except TableDamaged as error:
            found = self._store.tablets.get(tablet)
            if found is None or found.state.meta != number or self._closed:
                return
            self._log.error("{error}: it is written anew", error=error)
            try:
                await self._flusher.request(tablet)
            except PennCloudError as refusal:
                self._log.warn("not now: {why}", why=refusal)

    async def _rest(self, size: int) -> None:
        if self._closed or not size:
            return
        pause: Deferred[None] = Deferred()
        self._pause = pause
        seconds = size / self._store.options.scrub_bytes_per_s
        call = self._store.clock.callLater(seconds, self._rested)
        await pause
        if call.active():
            call.cancel()

    def _rested(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.callback(None)
