"""The simulated disk: the contract, and that its crashes lose what a power cut may lose."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import DiskError, DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from tests.platform import disk_contract

_T = TypeVar("_T")


class MemoryDiskContractTests(disk_contract.DiskContract):
    """MemoryDisk passes what RealDisk passes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk: MemoryDisk = MemoryDisk(self.clock, random.Random(0))

    def settle(self, result: Deferred[_T]) -> Awaitable[_T]:
        for _ in range(1000):
            if result.called:
                break
            self.clock.advance(0.001)
        return result

    def fail_next_write(self) -> None:
        self.disk.faults[self.disk.operations] = Fault.FULL

    def fail_next_sync(self) -> None:
        self.disk.faults[self.disk.operations] = Fault.FAIL


class CrashTests(SynchronousTestCase):
    """What is there after `crash`, over many chances."""

    def setUp(self) -> None:
        self.clock = Clock()

    def _disk(self, seed: int) -> MemoryDisk:
        return MemoryDisk(self.clock, random.Random(seed))

    def _durable_file(self, disk: MemoryDisk, path: str, content: bytes) -> None:
        file = disk.create(path)
        file.append(content)
        file.close()
        disk.sync_dir("")
        self.clock.advance(1)

    def test_synced_bytes_survive(self) -> None:
        """Bytes and names that were synced are always there."""
        for seed in range(50):
            disk = self._disk(seed)
            self._durable_file(disk, "log", b"kept")
            self.assertEqual(disk.crash().read("log"), b"kept")

    def test_unsynced_bytes_tear(self) -> None:
        """Unsynced bytes may be there, be cut, or miss sectors; synced ones before them stay."""
        seen = set()
        tail = b"y" * 5000
        for seed in range(200):
            disk = self._disk(seed)
            self._durable_file(disk, "log", b"kept")
            disk.open_append("log", 4).append(tail)
            content = disk.crash().read("log")
            self.assertEqual(content[:4], b"kept")
            rest = content[4:]
            self.assertLessEqual(set(rest), {0, ord("y")})
            if not rest:
                seen.add("none")
            elif rest == tail:
                seen.add("all")
            elif 0 in rest:
                seen.add("sectors")
            else:
                seen.add("cut")
        self.assertEqual(seen, {"none", "all", "sectors", "cut"})

    def test_sync_under_way(self) -> None:
        """A crash before the sync has fired promises nothing, and it never fires afterwards."""
        lost = 0
        for seed in range(50):
            disk = self._disk(seed)
            self._durable_file(disk, "log", b"")
            file = disk.open_append("log", 0)
            file.append(b"data")
            synced = file.sync()
            after = disk.crash()
            self.clock.advance(1)
            self.assertNoResult(synced)
            lost += after.read("log") != b"data"
        self.assertTrue(lost > 0)

    def test_names_without_sync_dir(self) -> None:
        """New names may be lost, removed ones may be back, each directory for itself."""
        outcomes = set()
        for seed in range(100):
            disk = self._disk(seed)
            self._durable_file(disk, "old", b"old")
            disk.remove("old")
            disk.create("new").close()
            self.clock.advance(1)
            outcomes.add(tuple(disk.crash().listdir("")))
        self.assertEqual(outcomes, {("old",), (), ("new",)})

    def test_lost_directory(self) -> None:
        """Files in a directory that was itself never durable are gone with it."""
        outcomes = set()
        for seed in range(100):
            disk = self._disk(seed)
            disk.makedirs("directory")
            disk.create("directory/file").close()
            disk.sync_dir("directory")
            self.clock.advance(1)
            outcomes.add(disk.crash().exists("directory/file"))
        self.assertEqual(outcomes, {True, False})

    def test_replace_is_atomic(self) -> None:
        """A crash within a replacement leaves the old or the new content, whole."""
        outcomes = set()
        for seed in range(100):
            disk = self._disk(seed)
            self._durable_file(disk, "manifest", b"old" * 1000)
            disk.replace("manifest", b"new" * 1000)
            outcomes.add(disk.crash().read("manifest"))
        self.assertEqual(outcomes, {b"old" * 1000, b"new" * 1000})

    def test_cut_without_sync(self) -> None:
        """What open_append cut may be back when the cut was never synced."""
        outcomes = set()
        for seed in range(50):
            disk = self._disk(seed)
            self._durable_file(disk, "log", b"0123456789")
            disk.open_append("log", 4)
            outcomes.add(disk.crash().read("log"))
        self.assertEqual(outcomes, {b"0123", b"0123456789"})

    def test_unplug(self) -> None:
        """From the chosen operation on nothing happens any more."""
        disk = self._disk(0)
        self._durable_file(disk, "log", b"kept")
        disk.unplug_at = disk.operations
        synced = disk.replace("manifest", b"never")
        self.clock.advance(1)
        self.assertNoResult(synced)
        self.assertEqual(disk.crash().listdir(""), ["log"])


class FaultTests(SynchronousTestCase):
    """Faults that only the simulation can order."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(1))

    def test_capacity(self) -> None:
        """A disk of a given size gets full, and is usable again when something is removed."""
        self.disk.capacity_bytes = 100
        first = self.disk.create("first")
        first.append(b"x" * 80)
        self.successResultOf(self._soon(first.close()))
        second = self.disk.create("second")
        second.append(b"y" * 50)
        self.failureResultOf(self._soon(second.sync()), DiskFull)
        self.disk.remove("first")
        second.append(b"y" * 50)
        self.successResultOf(self._soon(second.sync()))

    def _soon(self, result: Deferred[None]) -> Deferred[None]:
        self.clock.advance(0.01)
        return result

    def test_slow_sync(self) -> None:
        """A slow sync fires late, but fires."""
        file = self.disk.create("log")
        self.disk.faults[self.disk.operations] = Fault.SLOW
        synced = file.sync()
        self.clock.advance(0.5)
        self.assertNoResult(synced)
        self.clock.advance(1)
        self.successResultOf(synced)

    def test_flipped_bits(self) -> None:
        """A write can go wrong without anybody noticing."""
        file = self.disk.create("log")
        file.append(bytes(100))
        self.disk.faults[self.disk.operations] = Fault.FLIP
        self.successResultOf(self._soon(file.sync()))
        content = self.disk.read("log")
        self.assertEqual(sum(byte.bit_count() for byte in content), 1)
        self.disk.flip_bit("log", 8 * 7 + 3)
        self.assertNotEqual(self.disk.read("log"), content)

    def test_read_error(self) -> None:
        """A sector that cannot be read fails that read, not the disk."""
        file = self.disk.create("log")
        file.append(b"data")
        self.successResultOf(self._soon(file.sync()))
        self.disk.faults[self.disk.operations] = Fault.FAIL
        with self.assertRaises(DiskError):
            self.disk.read("log")
        self.assertEqual(self.disk.read("log"), b"data")

    def test_failing_name_change(self) -> None:
        """Directories can be full or broken as well."""
        self.disk.faults[self.disk.operations] = Fault.FULL
        with self.assertRaises(DiskFull):
            self.disk.create("log")
        self.disk.faults[self.disk.operations] = Fault.FAIL
        with self.assertRaises(DiskFailed):
            self.disk.create("log")
