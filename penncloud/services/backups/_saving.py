"""From a snapshot of the cluster to a backup: every cell's name, and every value that is new.

A tablet in which nothing was written since the backup before (within one epoch its version grows with every
mutation) is not read from the cluster at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults

from penncloud.client.snapshot import TabletSnapshot
from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.services.backups._digest import Digest, value_hash
from penncloud.services.backups._repository import (
    LARGE,
    BackupWriter,
    Manifest,
    NoSuchBackup,
    Place,
    Repository,
    SavedCell,
    SavedTablet,
)
from penncloud.storage.backup_messages import SnapshotCell

# Values fetched at the same time: each is at most 1 MiB.
_AT_ONCE: Final = 8
# The cell that tells one cluster from another, made by its first backup. It is not part of a backup.
IDENTITY: Final = (b"backup/cluster", b"id")
_IDENTITY_BYTES: Final = 16


class Snapshot(Protocol):
    """`client.snapshot.ClusterSnapshot`, taken."""

    tablets: list[TabletSnapshot]

    def cells(
        self, tablet: TabletSnapshot, max_value: int
    ) -> AsyncIterator[Sequence[SnapshotCell]]: ...

    def value(
        self, tablet: TabletSnapshot, row: bytes, col: bytes
    ) -> Coroutine[Any, Any, bytes]: ...


class _Known:
    """What an earlier backup of the same cluster has: the tablets that are still the same, and the large
    values of the others, by cell and version."""

    def __init__(
        self, repository: Repository, cluster: str, tablets: Sequence[SavedTablet]
    ) -> None:
        self.name = ""
        self.unchanged: set[int] = set()
        self._found: dict[tuple[bytes, bytes], tuple[int, int, Place, bytes]] = {}
        try:
            earlier = repository.latest()
        except NoSuchBackup:
            return
        if earlier.cluster != cluster:
            return
        self.name = earlier.name
        self.unchanged = {tablet.id for tablet in earlier.tablets if tablet in tablets}
        for tablet in earlier.tablets:
            if tablet.id in self.unchanged:
                continue
            for frame in repository.cells(earlier.name, tablet.id):
                for cell in frame:
                    if cell.place is not None:
                        known = (cell.version, cell.size, cell.place, cell.hashed)
                        self._found[cell.row, cell.col] = known

    def find(self, cell: SnapshotCell) -> tuple[Place, bytes] | None:
        version, size, place, hashed = self._found.get((cell.row, cell.col), (0, 0, None, b""))
        same = (version, size) == (cell.version, cell.size)
        return (place, hashed) if same and place is not None else None


async def cluster_id(table: Table, environment: Environment) -> str:
    """The name of this cluster among others; made when it is first asked for. Raises Unavailable."""
    row, col = IDENTITY
    found = await table.get(row, col)
    if found is None:
        await table.put(row, col, environment.entropy(_IDENTITY_BYTES).hex().encode())
        found = await table.get(row, col)
        assert found is not None, "what was just written is gone"
    return found.value.decode()


@frozen
class _Saver:
    """One backup being made."""

    _snapshot: Snapshot
    _repository: Repository
    _known: _Known
    _writer: BackupWriter
    _digest: Digest

    async def save_tablet(self, tablet: TabletSnapshot) -> None:
        if tablet.id in self._known.unchanged:
            self._keep_tablet(tablet.id)
            return
        self._writer.begin_tablet(tablet.id)
        async for page in self._snapshot.cells(tablet, LARGE):
            await self._save_page(tablet, page)
        self._writer.end_tablet()

    def _keep_tablet(self, tablet: int) -> None:
        for frame in self._repository.cells(self._known.name, tablet):
            for cell in frame:
                hashed = value_hash(cell.value) if cell.place is None else cell.hashed
                self._digest.add(cell.row, cell.col, cell.size, hashed)
                self._writer.names(cell)
        self._writer.keep_tablet(self._known.name, tablet)

    async def _save_page(self, tablet: TabletSnapshot, page: Sequence[SnapshotCell]) -> None:
        cells = [cell for cell in page if (cell.row, cell.col) != IDENTITY]
        new = [cell for cell in cells if cell.size >= LARGE and self._known.find(cell) is None]
        values: dict[tuple[bytes, bytes], bytes] = {}
        position = 0
        for cell in cells:
            if cell.size < LARGE:
                hashed = value_hash(cell.value)
                saved = SavedCell(cell.row, cell.col, cell.version, cell.size, cell.value)
            elif (found := self._known.find(cell)) is not None:
                place, hashed = found
                saved = _placed(cell, place, hashed)
            else:
                if (cell.row, cell.col) not in values:
                    values = await self._fetch(tablet, new[position : position + _AT_ONCE])
                    position += _AT_ONCE
                value = values.pop((cell.row, cell.col))
                hashed = value_hash(value)
                saved = _placed(cell, self._writer.pack(value), hashed)
            self._writer.add(saved)
            self._digest.add(cell.row, cell.col, cell.size, hashed)

    async def _fetch(
        self, tablet: TabletSnapshot, cells: Sequence[SnapshotCell]
    ) -> dict[tuple[bytes, bytes], bytes]:
        reads = (self._snapshot.value(tablet, cell.row, cell.col) for cell in cells)
        try:
            values = await gatherResults(map(Deferred.fromCoroutine, reads), consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        return {(cell.row, cell.col): value for cell, value in zip(cells, values, strict=True)}


async def save(
    snapshot: Snapshot,
    repository: Repository,
    environment: Environment,
    cluster: str,
    say: Callable[[str], None],
) -> Manifest:
    """Write a backup of the snapshot; what an earlier one of the same cluster has is not read again.

    Raises SnapshotLost, BackupDamaged (of the earlier one), OSError; there is no new backup then.
    """
    at = environment.now()
    name = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    tablets = [SavedTablet(t.id, t.lo, t.hi, t.epoch, t.version) for t in snapshot.tablets]
    known = _Known(repository, cluster, tablets)
    digest = Digest()
    writer = repository.begin(name)
    try:
        saver = _Saver(snapshot, repository, known, writer, digest)
        for number, tablet in enumerate(snapshot.tablets, 1):
            await saver.save_tablet(tablet)
            say(f"tablet {number} of {len(snapshot.tablets)}: {digest.cells:,} cells so far")
        return writer.finish(
            Manifest(name, at, cluster, tablets, digest.cells, digest.bytes, digest.hex(), [], 0)
        )
    except BaseException:
        writer.give_up()
        raise


def _placed(cell: SnapshotCell, place: Place, hashed: bytes) -> SavedCell:
    return SavedCell(cell.row, cell.col, cell.version, cell.size, place=place, hashed=hashed)
