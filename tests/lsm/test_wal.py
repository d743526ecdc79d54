"""The log: what was synced is read back after any crash, and a loss is never silent."""

from __future__ import annotations

import random

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import NewerFormat, StoreDamaged
from penncloud.lsm.record import encode
from penncloud.lsm.wal import Damage, WriteAheadLog
from penncloud.lsm.wal_reader import HEADER
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from tests.lsm.machine import Machine


class Node(Machine):
    """A machine that uses the log alone."""

    def __init__(self, seed: int = 0, segment_bytes: int = 300) -> None:
        self.clock = Clock()
        self.random = random.Random(seed)
        self.disk = MemoryDisk(self.clock, self.random)
        self.segment_bytes = segment_bytes
        self.disk.makedirs("log")
        self.run(self.disk.sync_dir(""))
        self.log = self._log()

    def _log(self) -> WriteAheadLog:
        return WriteAheadLog(self.disk, "log", self.clock, self.segment_bytes)

    def start(self, first: int = 0) -> tuple[list[bytes], list[Damage]]:
        found: list[bytes] = []
        self.log = self._log()
        damages = self.run(self.log.open(first, lambda _position, data: found.append(data)))
        return found, damages

    def restart(self, first: int = 0) -> tuple[list[bytes], list[Damage]]:
        self.disk = self.disk.crash()
        return self.start(first)

    def add(self, *payloads: bytes) -> list[int]:
        positions = [self.log.append([payload]) for payload in payloads]
        self.run(self.log.sync())
        return positions

    def stop(self) -> None:
        self.run(self.log.close())
        self.settle()


class LogTests(SynchronousTestCase):
    """Append, sync, restart."""

    def setUp(self) -> None:
        self.node = Node()
        self.assertEqual(self.node.start(), ([], []))

    def test_read_back(self) -> None:
        """Records come back in order, after an orderly stop and after a crash, again and again."""
        expected: list[bytes] = []
        for number in range(12):
            self.node.add(b"%d" % number, b"second")
            expected += [b"%d" % number, b"second"]
            if number % 2:
                self.node.stop()
            self.assertEqual(self.node.restart(), (expected, []))

    def test_segments(self) -> None:
        """Full segments are sealed and the log goes on in the next; positions grow."""
        positions = [self.node.add(bytes([n]) * 100)[0] for n in range(30)]
        self.assertEqual(positions, sorted(set(positions)))
        self.assertGreater(self.node.log.segments, 5)
        self.assertEqual(self.node.restart(), ([bytes([n]) * 100 for n in range(30)], []))

    def test_remove_before(self) -> None:
        """Old segments go when nothing in them is needed; reading begins with the first one left."""
        positions = [self.node.add(bytes([n]) * 100)[0] for n in range(30)]
        first = self.node.log.floor(positions[20])
        self.node.log.remove_before(positions[20])
        found, damages = self.node.restart(first)
        self.assertEqual(damages, [])
        self.assertIn(bytes([20]) * 100, found)
        self.assertLess(len(found), 15)

    def test_many_waiters(self) -> None:
        """Everything appended while a segment is being sealed becomes durable as well, in order."""
        fired: list[int] = []
        waiting: list[Deferred[None]] = []

        def note(_ignored: None, number: int) -> None:
            fired.append(number)

        for number in range(200):
            self.node.log.append([b"%d" % number])
            waiting.append(self.node.log.sync().addCallback(note, number))
            if number % 7 == 0:
                self.node.clock.advance(0.0005)
        self.node.settle()
        self.assertEqual(fired, list(range(200)))
        self.assertEqual(self.node.restart()[0], [b"%d" % number for number in range(200)])

    def test_unsynced_tail(self) -> None:
        """After a crash the synced records are there, then perhaps some of the unsynced, in order."""
        longest = 0
        for seed in range(60):
            node = Node(seed)
            node.start()
            node.add(b"a" * 50, b"b" * 50)
            unsynced = [bytes([n]) * 400 for n in range(1, 5)]
            for payload in unsynced:
                node.log.append([payload])
            node.log.sync()
            found, damages = node.restart()
            self.assertEqual(damages, [])
            self.assertEqual(found[:2], [b"a" * 50, b"b" * 50])
            self.assertEqual(found[2:], unsynced[: len(found) - 2])
            longest = max(longest, len(found))
            # What was found is durable from now on.
            self.assertEqual(node.restart(), (found, []))
        self.assertGreater(longest, 2)

    def test_crash_at_every_operation(self) -> None:
        """Wherever the power goes, every acknowledged record is there, at most followed by others."""
        for operation in range(1000):
            node = Node(operation)
            node.disk.unplug_at = node.disk.operations + operation
            acknowledged = self._work(node)
            found, damages = node.restart()
            self.assertEqual(damages, [], f"at {operation}")
            self.assertEqual(found[: len(acknowledged)], acknowledged, f"at {operation}")
            self.assertEqual(node.restart(), (found, []))
            if len(acknowledged) == 30:
                break
        else:
            self.fail("the work never ended")

    def _work(self, node: Node) -> list[bytes]:
        acknowledged: list[bytes] = []
        try:
            node.start()
            for number in range(30):
                node.add(b"%02d" % number * 30)
                acknowledged.append(b"%02d" % number * 30)
                if number == 15:
                    node.stop()
                    node.start()
        except AssertionError:
            pass
        return acknowledged


class DamageTests(SynchronousTestCase):
    """What was synced and is not there any more is reported, never dropped."""

    def _filled(self) -> Node:
        node = Node()
        node.start()
        for number in range(8):
            node.add(b"%02d" % number * 20)
        # The pause in which the log notes that it is all synced.
        node.settle()
        return node

    def test_every_bit(self) -> None:
        """Any flipped bit in any file is harmless or reported; the rest is still given."""
        expected = [b"%02d" % number * 20 for number in range(8)]
        reported = 0
        sample = self._filled().disk
        for name in sample.listdir("log"):
            for bit in range(0, sample.size_bytes(f"log/{name}") * 8, 3):
                node = self._filled()
                content = node.disk.read(f"log/{name}")
                if bit // 8 >= len(content.rstrip(b"\0")):
                    break
                node.disk = node.disk.crash()
                node.disk.flip_bit(f"log/{name}", bit)
                try:
                    found, damages = node.start()
                except StoreDamaged:
                    reported += 1
                    continue
                if damages:
                    reported += 1
                    rest = iter(expected)
                    self.assertTrue(all(payload in rest for payload in found))
                else:
                    self.assertEqual(found, expected, f"{name} bit {bit}")
        self.assertGreater(reported, 500)

    def test_missing_segment(self) -> None:
        """A segment that is gone is reported; what was before and after it is given."""
        for number in (1, 2):
            node = self._filled()
            node.disk = node.disk.crash()
            node.disk.remove(f"log/{number:08x}.log")
            try:
                found, damages = node.start(1)
            except StoreDamaged:
                self.assertEqual(number, 1)
                continue
            self.assertEqual(len(damages), 1)
            self.assertIn("missing", damages[0].reason)
            self.assertTrue(0 < len(found) < 8)

    def test_newer_format(self) -> None:
        """A log of a later version is refused, and says so."""
        node = Node()
        file = node.disk.create("log/00000001.log")
        header = HEADER.pack(b"H", 99, 1)
        file.append(encode([header], 1 << 32, 0))
        node.run(file.close())
        with self.assertRaisesRegex(NewerFormat, "99"):
            node.start()

    def test_damaged_ends(self) -> None:
        """The small file that joins the segments is checked too."""
        node = self._filled()
        node.run(node.disk.replace("log/ends", msgspec.msgpack.encode({1: (0, 9)})))
        with self.assertRaisesRegex(StoreDamaged, "ends"):
            node.start()


class FaultTests(SynchronousTestCase):
    """A disk that is full or broken."""

    def test_full_at_every_operation(self) -> None:
        """Records refused for lack of room are not there later; the others all are."""
        for operation in range(200):
            node = Node(operation)
            node.disk.faults[node.disk.operations + operation] = Fault.FULL
            try:
                node.start()
            except DiskFull:
                node.restart()
            acknowledged = []
            for number in range(20):
                payload = b"%02d" % number * 20
                try:
                    node.add(payload)
                except DiskFull:
                    continue
                acknowledged.append(payload)
            self.assertGreaterEqual(len(acknowledged), 19)
            node.settle(20)
            self.assertEqual(node.restart(), (acknowledged, []), f"at {operation}")

    def test_failed_sync(self) -> None:
        """After a failed sync nothing is taken any more; a restart finds what was acknowledged."""
        for operation in range(60):
            node = Node(operation)
            node.disk.faults[node.disk.operations + operation] = Fault.FAIL
            acknowledged = []
            try:
                node.start()
                for number in range(12):
                    node.add(b"%02d" % number * 20)
                    acknowledged.append(b"%02d" % number * 20)
            except DiskFailed:
                with self.assertRaises(DiskFailed):
                    node.disk.check()
            found, damages = node.restart()
            self.assertEqual(damages, [])
            self.assertEqual(found[: len(acknowledged)], acknowledged)
