"""From a backup to a cluster: written through the table, so that its size and its tablets do not matter.

    nothing else may write -> empty it -> write every cell -> lift the versions -> read all back, compare

Versions are the store's own and begin anew in a new cluster, but two things rest on their growing: the
order of what is appended to a row (the column holds the version), and a reader's place in it. So each
tablet is made to count on from the greatest version of the tablets that its rows come from, by as many
writes to a row of ours: `lift`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from itertools import count
from typing import Any, Final, Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.python.failure import Failure

from penncloud.client.snapshot import TabletSnapshot
from penncloud.client.table import DeleteCell, PutCell, SubOperation, Table
from penncloud.placement.tablets import Tablet, TabletMap, row_hash
from penncloud.platform.errors import PennCloudError
from penncloud.services.backups._digest import Digest, value_hash
from penncloud.services.backups._repository import BackupDamaged, Manifest, Repository
from penncloud.services.backups._saving import IDENTITY
from penncloud.storage.backup_messages import SnapshotCell
from penncloud.wire.limits import MAX_MUTATIONS, MAX_VALUE_BYTES

# Mutations on their way at the same time, and bytes of values in one of them.
_AT_ONCE: Final = 16
_BATCH_BYTES: Final = 1024 * 1024
# Writes that lift the versions of one tablet, on their way at the same time; and how many tablets are
# lifted together.
_LIFTS: Final = 64
_TABLETS: Final = 4
# A cluster that is being filled may be slow.
_DEADLINE_S: Final = 120.0
_SAY_EVERY: Final = 100_000


_T = TypeVar("_T")


class NotEmpty(PennCloudError):
    """The cluster holds something, and nobody has said that it may go."""


class NotTheSame(PennCloudError):
    """What was read back is not what the backup holds: the disk lies, or somebody else wrote."""


class Snapshot(Protocol):
    """`client.snapshot.ClusterSnapshot`."""

    tablets: list[TabletSnapshot]

    def cells(
        self, tablet: TabletSnapshot, max_value: int
    ) -> AsyncIterator[Sequence[SnapshotCell]]: ...

    async def close(self) -> None: ...


@define
class Target:
    """The cluster that is written to. `take` gives a snapshot of it as it is then."""

    table: Table
    tablet_map: Callable[[], Awaitable[TabletMap]]
    take: Callable[[], Awaitable[Snapshot]]
    say: Callable[[str], None]


async def restore(
    repository: Repository, manifest: Manifest, target: Target, *, replace: bool
) -> None:
    """Let the cluster hold exactly what the backup holds, and check that it does.

    Nobody else may write meanwhile. `replace`: what is there goes. Raises NotEmpty (nothing was done),
    BackupDamaged, NotTheSame, Unavailable: the cluster then holds a part, and the same again begins anew.
    """
    await _clear(target, replace)
    writer = _Writer(target)
    for tablet in manifest.tablets:
        for frame in repository.cells(manifest.name, tablet.id):
            for cell in frame:
                await writer.put(cell.row, cell.col, repository.value(cell))
    await writer.finish()
    target.say(f"{writer.cells:,} cells written")
    await _lift_all(manifest, target)
    await _verify(manifest, target)


async def _clear(target: Target, replace: bool) -> None:
    writer = _Writer(target)
    snapshot = await target.take()
    try:
        for tablet in snapshot.tablets:
            async for page in snapshot.cells(tablet, 0):
                for cell in page:
                    if (cell.row, cell.col) == IDENTITY:
                        continue
                    if not replace:
                        raise NotEmpty(
                            "the cluster is not empty: --replace removes all that it holds first"
                        )
                    await writer.delete(cell.row, cell.col)
    finally:
        await writer.finish()
        await snapshot.close()
    if writer.cells:
        target.say(f"{writer.cells:,} cells removed")


@define
class _Writer:
    """Collects the changes of a row into mutations, a bounded number of which are under way."""

    _target: Target
    cells: int = 0
    _row: bytes = b""
    _batch: list[SubOperation] = field(factory=list)
    _bytes: int = 0
    _room: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(_AT_ONCE))
    _failure: Failure | None = None

    async def put(self, row: bytes, col: bytes, value: bytes) -> None:
        await self._add(row, PutCell(col, value), len(value))

    async def delete(self, row: bytes, col: bytes) -> None:
        await self._add(row, DeleteCell(col), 0)

    async def _add(self, row: bytes, change: SubOperation, size: int) -> None:
        full = len(self._batch) >= MAX_MUTATIONS or self._bytes + size > _BATCH_BYTES
        if self._batch and (row != self._row or full):
            await self._send()
        self._row = row
        self._batch.append(change)
        self._bytes += size
        self.cells += 1
        if self.cells % _SAY_EVERY == 0:
            self._target.say(f"{self.cells:,} cells")

    async def _send(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        await self._room.acquire()
        if self._failure is not None:
            self._room.release()
            self._failure.raiseException()
        written = Deferred.fromCoroutine(self._mutate(self._row, batch))
        written.addErrback(self._failed).addBoth(lambda _: self._room.release())

    async def _mutate(self, row: bytes, batch: list[SubOperation]) -> None:
        await self._target.table.mutate(row, batch, deadline_s=_DEADLINE_S)

    def _failed(self, failure: Failure) -> None:
        self._failure = self._failure or failure

    async def finish(self) -> None:
        """Everything is written, or the first failure is raised."""
        if self._batch and self._failure is None:
            await self._send()
        for _ in range(_AT_ONCE):
            await self._room.acquire()
        for _ in range(_AT_ONCE):
            self._room.release()
        if self._failure is not None:
            self._failure.raiseException()


# -- versions ----------------------------------------------------------------------------------------


async def _lift_all(manifest: Manifest, target: Target) -> None:
    tablets = (await target.tablet_map()).tablets
    for first in range(0, len(tablets), _TABLETS):
        group = tablets[first : first + _TABLETS]
        await _all([_lift(target, tablet, floor_of(manifest, tablet)) for tablet in group])


def floor_of(manifest: Manifest, tablet: Tablet) -> int:
    """The greatest version of the saved tablets that shared rows with this one."""
    versions = [
        saved.version for saved in manifest.tablets if saved.lo < tablet.hi and tablet.lo < saved.hi
    ]
    return max(versions, default=0)


def row_within(tablet: Tablet) -> bytes:
    """A row that lies in this tablet and that nobody else uses."""
    candidates: Iterator[bytes] = (b"restore/%d" % number for number in count())
    return next(row for row in candidates if tablet.lo <= row_hash(row) < tablet.hi)


async def _lift(target: Target, tablet: Tablet, floor: int) -> None:
    row = row_within(tablet)

    async def write() -> int:
        return await target.table.put(row, b"lift", b"", deadline_s=_DEADLINE_S)

    version = await write()
    if version < floor:
        target.say(f"tablet {tablet.id}: counting on from {version:,} to {floor:,}")
    while version < floor:
        many = min(_LIFTS, floor - version)
        version = max(await _all([write() for _ in range(many)]))
    await target.table.delete(row, b"lift", deadline_s=_DEADLINE_S)


async def _all(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all; the first failure is raised as it is."""
    try:
        return await gatherResults(map(Deferred.fromCoroutine, work), consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()


# -- proof -------------------------------------------------------------------------------------------


async def _verify(manifest: Manifest, target: Target) -> None:
    found = Digest()
    snapshot = await target.take()
    try:
        for tablet in snapshot.tablets:
            async for page in snapshot.cells(tablet, MAX_VALUE_BYTES):
                for cell in page:
                    if (cell.row, cell.col) != IDENTITY:
                        found.add(cell.row, cell.col, cell.size, value_hash(cell.value))
    finally:
        await snapshot.close()
    if found.hex() != manifest.digest or found.cells != manifest.cells:
        raise NotTheSame(
            f"the cluster holds {found.cells:,} cells with {found.bytes:,} bytes, the backup"
            f" {manifest.cells:,} with {manifest.bytes:,}, or other contents: has anything written"
            " meanwhile (stop the frontends and mail servers)?"
        )
    target.say(f"verified: {found.cells:,} cells, {found.bytes:,} bytes, digest {found.hex()[:16]}")


def verify_files(repository: Repository, manifest: Manifest) -> Digest:
    """Read all that a backup holds. Raises BackupDamaged where it is not what was written."""
    found = Digest()
    for tablet in manifest.tablets:
        for frame in repository.cells(manifest.name, tablet.id):
            for cell in frame:
                hashed = value_hash(repository.value(cell))
                found.add(cell.row, cell.col, cell.size, hashed)
    if found.hex() != manifest.digest:
        raise BackupDamaged(f"{repository.root}: backup {manifest.name} is not what was written")
    return found
