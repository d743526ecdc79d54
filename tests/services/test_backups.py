"""Twin of `penncloud.services.backups`: over the in-memory store, with disks that lose and bend bytes."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.memory import MemoryTable
from penncloud.client.snapshot import SnapshotLost, TabletSnapshot
from penncloud.placement.tablets import HASH_SPACE, Tablet, TabletMap, even_ranges, row_hash
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError, DirectoryLocked
from penncloud.services.backups import (
    BackupDamaged,
    Manifest,
    NoSuchBackup,
    NotEmpty,
    NotTheSame,
    Repository,
    Target,
    cluster_id,
    restore,
    save,
    verify_files,
)
from penncloud.services.backups._repository import LARGE
from penncloud.services.backups._restoring import floor_of, row_within
from penncloud.storage.backup_messages import SnapshotCell

VALUES = [b"", b"small", b"x" * (LARGE - 1), b"y" * LARGE, b"z" * 100_000]


def _no_link(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no links on this disk")


class MemorySnapshot:
    """A copy of a table, cut into `count` tablets. `lost`: tablets whose server was restarted."""

    def __init__(self, table: MemoryTable, count: int) -> None:
        self._rows = {
            row: [(col, version, value) for col, (version, value) in cells.items()]
            for row, cells in table.rows().items()
        }
        versions = [v for cells in self._rows.values() for _, v, _ in cells]
        newest = max(versions, default=0)
        self.tablets = [
            TabletSnapshot(number, lo, hi, 1, newest, "server", 1)
            for number, (lo, hi) in enumerate(even_ranges(count), 1)
        ]
        self.lost: set[int] = set()
        self.values_read = 0
        self.closed = False

    async def cells(
        self, tablet: TabletSnapshot, max_value: int
    ) -> AsyncIterator[Sequence[SnapshotCell]]:
        if tablet.id in self.lost:
            raise SnapshotLost("restarted")
        mine = [row for row in self._rows if tablet.lo <= row_hash(row) < tablet.hi]
        page = [
            SnapshotCell(row, col, version, len(value), value[:max_value])
            for row in sorted(mine, key=row_hash)
            for col, version, value in self._rows[row]
        ]
        for start in range(0, len(page), 3):
            yield page[start : start + 3]

    async def value(self, tablet: TabletSnapshot, row: bytes, col: bytes) -> bytes:
        self.values_read += 1
        return {at: bytes(value) for at, _, value in self._rows[row]}[col]

    async def close(self) -> None:
        self.closed = True


class BackupTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_700_000_000.0
        chance = random.Random(3)
        self.environment = Environment(
            reactor=Clock(),
            now=lambda: self.now,
            random=chance,
            entropy=chance.randbytes,
            run_in_thread=lambda f, *a, **k: succeed(f(*a, **k)),
        )
        self.table = MemoryTable()
        self.repository = Repository(Path(self.mktemp()))
        self.repository.open_to_write()
        self.addCleanup(self.repository.close)
        self.said: list[str] = []

    def run_now(self, work: object) -> object:
        return self.successResultOf(Deferred.fromCoroutine(work))  # type: ignore[arg-type]

    def put(self, row: bytes, col: bytes, value: bytes, table: MemoryTable | None = None) -> None:
        self.run_now((table or self.table).put(row, col, value))

    def fill(self) -> None:
        for number in range(40):
            self.put(b"row%d" % (number % 13), b"col%d" % number, VALUES[number % len(VALUES)])

    def save(self, snapshot: MemorySnapshot | None = None, cluster: str = "c1") -> Manifest:
        self.now += 60
        snapshot = snapshot or MemorySnapshot(self.table, 3)
        made = self.run_now(
            save(snapshot, self.repository, self.environment, cluster, self.said.append)
        )
        assert isinstance(made, Manifest)
        return made

    def target(self, table: MemoryTable, count: int = 5) -> Target:
        tablets = TabletMap(
            1, [Tablet(n, lo, hi, 1, "s", ("s",)) for n, (lo, hi) in enumerate(even_ranges(count))]
        )

        async def take() -> MemorySnapshot:
            return MemorySnapshot(table, count)

        async def tablet_map() -> TabletMap:
            return tablets

        return Target(table, tablet_map, take, self.said.append)

    def contents(self, table: MemoryTable) -> dict[tuple[bytes, bytes], bytes]:
        return {
            (row, col): value
            for row, cells in table.rows().items()
            for col, (_, value) in cells.items()
        }


class SaveTests(BackupTestCase):
    def test_incremental(self) -> None:
        """A second backup reads and writes only values that are new; each is complete by itself."""
        self.fill()
        first = self.save()
        self.put(b"row0", b"new", b"n" * 50_000)
        snapshot = MemorySnapshot(self.table, 2)
        second = self.save(snapshot)
        self.assertEqual(snapshot.values_read, 1)
        self.assertEqual((first.cells, second.cells), (40, 41))
        self.assertEqual(len(second.packs), 2)
        for manifest in (first, second):
            self.assertEqual(verify_files(self.repository, manifest).cells, manifest.cells)

    def test_unchanged_tablets(self) -> None:
        """A tablet in which nothing was written is not read again; the backup has it all the same, also
        on a disk without links, and when the one before is removed."""
        self.fill()
        before = MemorySnapshot(self.table, 3)
        first = self.save(before)
        row = next(
            b"new%d" % n for n in range(99) if row_hash(b"new%d" % n) >= before.tablets[2].lo
        )
        self.put(row, b"c", b"n" * LARGE)
        for link in (os.link, _no_link):
            self.patch(os, "link", link)
            snapshot = MemorySnapshot(self.table, 3)
            snapshot.tablets[:2] = before.tablets[:2]
            snapshot.lost = {1, 2}  # Nobody could read them.
            second = self.save(snapshot)
            self.assertEqual(second.cells, first.cells + 1)
            self.assertEqual(verify_files(self.repository, second).hex(), second.digest)
        # After a change of the primary versions say nothing.
        epochs = [evolve(tablet, epoch=2) for tablet in snapshot.tablets]
        snapshot.tablets = epochs
        work = save(snapshot, self.repository, self.environment, "c1", self.said.append)
        self.now += 60
        self.failureResultOf(Deferred.fromCoroutine(work), SnapshotLost)
        self.repository.remove(first.name)
        target = MemoryTable()
        self.run_now(restore(self.repository, second, self.target(target), replace=False))
        self.assertEqual(self.contents(target), self.contents(self.table))

    def test_another_cluster(self) -> None:
        """Equal versions mean equal values within one cluster only."""
        self.fill()
        self.save(cluster="c1")
        snapshot = MemorySnapshot(self.table, 3)
        self.save(snapshot, cluster="c2")
        self.assertEqual(snapshot.values_read, 16)

    def test_overwritten(self) -> None:
        """A cell that was written again, even with as many bytes, is read again."""
        self.put(b"r", b"c", b"a" * LARGE)
        self.save()
        self.put(b"r", b"c", b"b" * LARGE)
        snapshot = MemorySnapshot(self.table, 1)
        self.save(snapshot)
        self.assertEqual(snapshot.values_read, 1)

    def test_remove(self) -> None:
        """Removing an old backup keeps what newer ones rest on, and frees the rest."""
        self.fill()
        first = self.save()
        self.run_now(self.table.delete(b"row3", b"col3"))
        second = self.save()
        self.repository.remove(first.name)
        self.assertEqual(self.repository.names(), [second.name])
        verify_files(self.repository, second)
        self.repository.remove(second.name)
        self.assertEqual(list((self.repository.root / "packs").iterdir()), [])
        with self.assertRaises(NoSuchBackup):
            self.repository.latest()

    def test_cut_off(self) -> None:
        """A backup that fails leaves none, and nothing on the disk."""
        self.fill()
        snapshot = MemorySnapshot(self.table, 3)
        snapshot.lost = {3}
        work = save(snapshot, self.repository, self.environment, "c1", self.said.append)
        self.failureResultOf(Deferred.fromCoroutine(work), SnapshotLost)
        self.assertEqual(self.repository.names(), [])
        self.assertEqual(list((self.repository.root / "packs").iterdir()), [])

    def test_killed(self) -> None:
        """What a killed backup left is removed by the next one, and never taken for a backup."""
        self.fill()
        kept = self.save()
        half = self.repository.begin("20990101T000000Z")
        half.begin_tablet(1)
        half.pack(b"v" * LARGE)
        self.assertEqual(self.repository.names(), [kept.name])
        self.repository.remove_unfinished()
        self.assertEqual(len(list((self.repository.root / "packs").iterdir())), 1)

    def test_cluster_id(self) -> None:
        """A cluster keeps its name, and no backup holds it: it is not to be copied."""
        name = self.run_now(cluster_id(self.table, self.environment))
        self.assertEqual(self.run_now(cluster_id(self.table, self.environment)), name)
        self.assertEqual(self.save().cells, 0)


class DirectoryTests(BackupTestCase):
    def test_something_else(self) -> None:
        """A directory that holds other things is not written into."""
        other = Path(self.mktemp())
        other.mkdir()
        (other / "thesis.tex").write_text("important")
        with self.assertRaises(ConfigurationError):
            Repository(other).open_to_write()
        self.assertEqual([path.name for path in other.iterdir()], ["thesis.tex"])

    def test_two_writers(self) -> None:
        """Two backups into one directory at a time: the second is refused."""
        with self.assertRaises(DirectoryLocked):
            Repository(self.repository.root).open_to_write()

    def test_names(self) -> None:
        """A name cannot lead out of the directory."""
        for name in ("..", "../x", "", "none"):
            with self.assertRaises(NoSuchBackup):
                self.repository.manifest(name)

    def test_damage(self) -> None:
        """A byte that changed, anywhere, is found, and the file named."""
        self.fill()
        made = self.save()
        root = self.repository.root
        files = [*root.glob("packs/*"), *root.glob("backups/*/*.cells")]
        self.assertGreater(len(files), 2)
        for path in files:
            whole = path.read_bytes()
            for place in (0, 5, len(whole) // 2, len(whole) - 1):
                bent = bytearray(whole)
                bent[place] ^= 0x10
                path.write_bytes(bytes(bent))
                with self.assertRaises(BackupDamaged) as caught:
                    verify_files(self.repository, made)
                self.assertIn(str(root), str(caught.exception))
            path.write_bytes(whole[:-1])
            with self.assertRaises(BackupDamaged):
                verify_files(self.repository, made)
            path.unlink()
            with self.assertRaises(BackupDamaged):
                verify_files(self.repository, made)
            path.write_bytes(whole)
        verify_files(self.repository, made)


class RestoreTests(BackupTestCase):
    def restore(
        self, table: MemoryTable, manifest: Manifest, replace: bool = False
    ) -> Deferred[None]:
        work = restore(self.repository, manifest, self.target(table), replace=replace)
        return Deferred.fromCoroutine(work)

    def test_another_size(self) -> None:
        """Every cell is there again, in a cluster with other tablets."""
        self.fill()
        made = self.save()
        other = MemoryTable()
        self.successResultOf(self.restore(other, made))
        self.assertEqual(self.contents(other), self.contents(self.table))

    def test_versions_go_on(self) -> None:
        """What is appended after a restore sorts behind all that was appended before it."""
        for _ in range(500):
            self.put(b"busy", b"c", b"")
        made = self.save()
        other = MemoryTable()
        self.successResultOf(self.restore(other, made))
        for tablet in self.target(other).table.rows():  # type: ignore[attr-defined]
            version = self.run_now(other.put(tablet, b"after", b""))
            assert isinstance(version, int)
            self.assertGreater(version, 500)

    def test_not_empty(self) -> None:
        """What is there is removed only by who says so; then nothing of it is left."""
        self.fill()
        made = self.save()
        other = MemoryTable()
        self.put(b"precious", b"c", b"v", other)
        self.failureResultOf(self.restore(other, made), NotEmpty)
        self.assertEqual(self.contents(other), {(b"precious", b"c"): b"v"})
        self.successResultOf(self.restore(other, made, replace=True))
        self.assertEqual(self.contents(other), self.contents(self.table))

    def test_somebody_writes(self) -> None:
        """A cell more or other than in the backup is noticed."""
        self.fill()
        made = self.save()
        other = MemoryTable()

        class Meddled(MemoryTable):
            async def delete(self, *args: object, **more: object) -> bool:
                await other.put(b"row0", b"col0", b"meddled")
                return await MemoryTable.delete(self, *args, **more)  # type: ignore[arg-type]

        other = Meddled()
        self.failureResultOf(self.restore(other, made), NotTheSame)

    def test_damaged(self) -> None:
        """A damaged backup is not written on as if it were whole."""
        self.fill()
        made = self.save()
        (pack,) = (self.repository.root / "packs").iterdir()
        pack.write_bytes(b"\x00" * pack.stat().st_size)
        self.failureResultOf(self.restore(MemoryTable(), made), BackupDamaged)

    def test_floor(self) -> None:
        """A tablet counts on from the greatest of those that its rows come from."""
        self.fill()
        made = self.save(MemorySnapshot(self.table, 2))
        half = HASH_SPACE // 2
        versions = {tablet.lo: tablet.version for tablet in made.tablets}
        low = Tablet(9, 0, half, 1, "s", ("s",))
        self.assertEqual(floor_of(made, low), versions[0])
        self.assertTrue(low.lo <= row_hash(row_within(low)) < low.hi)
