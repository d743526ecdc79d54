"""The command log: what is acknowledged is found again, whatever the crash."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.log import CommandLog, LogCorrupt
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk

T = TypeVar("T")


class Step(msgspec.Struct, tag="step", frozen=True):
    number: int
    padding: bytes = b""


class LogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self._fresh(1)

    def _fresh(self, seed: int) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(seed))

    def _finish(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        """Let the disk's clock run until `work` is done."""
        outcome: list[T | Failure] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        for _ in range(200):
            if outcome:
                break
            self.clock.advance(0.001)
        [result] = outcome
        if isinstance(result, Failure):
            result.raiseException()
        assert not isinstance(result, Failure)
        return result

    def _open(
        self, rotate_bytes: int = 1 << 20
    ) -> tuple[CommandLog[Step], bytes | None, list[int]]:
        log: CommandLog[Step] = CommandLog(self.disk, Step, rotate_bytes)
        found = self._finish(log.open())
        snapshot = None if found.snapshot is None else bytes(found.snapshot)
        return log, snapshot, [step.number for step in found.commands]

    def _append(self, log: CommandLog[Step], *numbers: int) -> None:
        self._finish(log.append([Step(number) for number in numbers]))

    def test_found_again(self) -> None:
        """Commands come back in order after a restart, and the log goes on behind them."""
        log, snapshot, commands = self._open()
        self.assertEqual((snapshot, commands), (None, []))
        self._append(log, 0)
        self._append(log, 1, 2)
        self._finish(log.close())
        log, _, commands = self._open()
        self.assertEqual((commands, log.next_index), ([0, 1, 2], 3))
        self._append(log, 3)
        self.assertEqual(self._open()[2], [0, 1, 2, 3])

    def test_snapshot(self) -> None:
        """After a rotation the snapshot stands for what went before, and the old log is gone."""
        log, _, _ = self._open()
        self._append(log, 0, 1)
        self._finish(log.rotate(msgspec.msgpack.encode("state")))
        self._append(log, 2)
        self.assertEqual(self.disk.listdir(""), ["log-0000000000000002", "snapshot"])
        _, snapshot, commands = self._open()
        self.assertEqual((snapshot, commands), (msgspec.msgpack.encode("state"), [2]))

    def test_wants_snapshot(self) -> None:
        """A log beyond its bound asks for a snapshot; a new one does not."""
        log, _, _ = self._open(rotate_bytes=100)
        self.assertFalse(log.wants_snapshot)
        self._finish(log.append([Step(0, bytes(200))]))
        self.assertTrue(log.wants_snapshot)
        self._finish(log.rotate(b"\xc0"))
        self.assertFalse(log.wants_snapshot)
        self._finish(log.rotate(b"\xc0"))  # again, with nothing in between
        self._append(log, 1)
        self.assertEqual(self._open()[2], [1])

    @settings(max_examples=300)
    @given(st.integers(0, 2**32), st.lists(st.sampled_from(["append", "rotate"]), max_size=12))
    def test_power_cuts(self, seed: int, steps: list[str]) -> None:
        """Wherever the power goes: all that was acknowledged is there, then at most what was
        under way, and the log opens and goes on. Twice, as recovery may be cut as well."""
        self._fresh(seed)
        chance = random.Random(seed)
        acknowledged, proposed = 0, 0
        for life in range(3):
            self.disk.unplug_at = self.disk.operations + chance.randint(1, 20) if life < 2 else None
            try:
                log, snapshot, commands = self._open()
                first = 0 if snapshot is None else msgspec.msgpack.decode(snapshot)
                found = first + len(commands)
                self.assertEqual(commands, list(range(first, found)))
                self.assertTrue(acknowledged <= found <= proposed, f"{found} of {acknowledged}")
                acknowledged = proposed = found
                for step in steps:
                    if step == "append":
                        batch = chance.randint(1, 3)
                        proposed = acknowledged + batch
                        padding = bytes(chance.randint(0, 1500))
                        numbers = range(acknowledged, proposed)
                        self._finish(log.append([Step(number, padding) for number in numbers]))
                        acknowledged = proposed
                    else:
                        self._finish(log.rotate(msgspec.msgpack.encode(acknowledged)))
            except ValueError:  # the clock has run and nothing has happened: the power is gone
                self.assertTrue(self.disk.dead)
            self.disk = self.disk.crash()

    def test_torn_end(self) -> None:
        """A record that is not whole at the end is cut off, and the log goes on there."""
        log, _, _ = self._open()
        self._append(log, 0)
        size = self.disk.size_bytes("log-0000000000000000")
        self._append(log, 1)
        file = self.disk.open_append("log-0000000000000000", size + 17)
        self._finish(_close(file))
        log, _, commands = self._open()
        self.assertEqual(commands, [0])
        self._append(log, 7)
        self.assertEqual(self._open()[2], [0, 7])

    def test_damage_in_the_middle(self) -> None:
        """A flipped bit with good records behind it is corruption, said in words; nothing is cut."""
        log, _, _ = self._open()
        for number in range(3):
            self._append(log, number)
        size = self.disk.size_bytes("log-0000000000000000")
        for bit in range(8 * (2 * size // 3)):
            self.disk.flip_bit("log-0000000000000000", bit)
            with self.assertRaisesRegex(LogCorrupt, "log-0000000000000000: "):
                self._open()
            self.disk.flip_bit("log-0000000000000000", bit)
        self.assertEqual(self._open()[2], [0, 1, 2])

    def test_damaged_snapshot(self) -> None:
        """A flipped bit in the snapshot is corruption wherever it is."""
        log, _, _ = self._open()
        self._append(log, 0)
        self._finish(log.rotate(msgspec.msgpack.encode("state")))
        for bit in range(8 * self.disk.size_bytes("snapshot")):
            self.disk.flip_bit("snapshot", bit)
            with self.assertRaisesRegex(LogCorrupt, "snapshot"):
                self._open()
            self.disk.flip_bit("snapshot", bit)

    def test_missing_commands(self) -> None:
        """A log that begins later than the snapshot ends is corruption."""
        log, _, _ = self._open()
        self._append(log, 0)
        self._finish(log.rotate(b"\xc0"))
        self.disk.remove("snapshot")
        with self.assertRaisesRegex(LogCorrupt, "missing"):
            self._open()

    def test_foreign_commands(self) -> None:
        """A record whose commands are not of this kind is corruption, not a crash."""

        class Other(msgspec.Struct, tag="other"):
            pass

        other: CommandLog[Other] = CommandLog(self.disk, Other)
        self._finish(other.open())
        self._finish(other.append([Other()]))
        with self.assertRaises(LogCorrupt):
            self._open()

    def test_disk_full(self) -> None:
        """What found no room was not written, and the log takes the next one."""
        log, _, _ = self._open()
        self._append(log, 0)
        self.disk.faults[self.disk.operations] = Fault.FULL
        with self.assertRaises(DiskFull):
            self._append(log, 1)
        self._append(log, 2)
        self.assertEqual(self._open()[2], [0, 2])

    def test_full_while_rotating(self) -> None:
        """A rotation that finds no room at any of its steps leaves a log that goes on."""
        for step in range(3):
            self._fresh(step)
            log, _, _ = self._open()
            self._append(log, 0)
            self.disk.faults[self.disk.operations + step] = Fault.FULL
            with self.assertRaises(DiskFull):
                self._finish(log.rotate(msgspec.msgpack.encode(1)))
            self._append(log, 1)
            self._finish(log.rotate(msgspec.msgpack.encode(2)))
            self._append(log, 2)
            _, snapshot, commands = self._open()
            self.assertEqual((snapshot, commands), (msgspec.msgpack.encode(2), [2]))

    def test_disk_failed(self) -> None:
        """A failed sync is told as such."""
        log, _, _ = self._open()
        self.disk.faults[self.disk.operations] = Fault.FAIL
        with self.assertRaises(DiskFailed):
            self._append(log, 0)


async def _close(file: Any) -> None:
    await file.close()
