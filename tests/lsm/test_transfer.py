"""A checkpoint goes from one machine to another, whole or not at all."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import transfer
from penncloud.lsm.errors import NoSuchTablet, StoreDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.transfer import (
    CheckpointExport,
    Description,
    decode_description,
    encode_description,
)
from tests.lsm.machine import SMALL, Machine, Stuck, put


class TransferTests(SynchronousTestCase):
    """From a machine with two tables and a blob, in small chunks."""

    def setUp(self) -> None:
        self.patch(transfer, "CHUNK_BYTES", 700)
        self.sender = sender = Machine(1)
        sender.open()
        sender.run(sender.engine.create_tablet(1, 0, HASH_SPACE))
        sender.engine.set_meta(1, lambda: b"blob " * 300)
        for version in (1, 2):
            cells = [put(f"row{n}", str(version), "x" * 90) for n in range(20)]
            sender.write(1, version, *cells)
            sender.run(sender.engine.checkpoint(1))
        self.export, self.description = sender.run(sender.engine.export(1))
        self.cells = sender.cells(1)

    def _receiver(self, seed: int = 2) -> Machine:
        machine = Machine(seed, evolve(SMALL, memtable_bytes=100_000))
        machine.open()
        return machine

    def _receive(self, machine: Machine, export: CheckpointExport, description: Description) -> int:
        """Everything that is still wanted; returns how many chunks that was."""
        engine, count = machine.engine, 0
        coming = machine.run(engine.begin_import(description))
        while (wanted := coming.wanted()) is not None:
            machine.run(coming.write(export.read(*wanted)))
            count += 1
        found = machine.run(engine.finish_import(coming))
        self.assertEqual((found.version, found.meta), (2, b"blob " * 300))
        return count

    def test_transfer(self) -> None:
        """The receiver has the same cells, goes on writing, and still has all after a crash."""
        machine = self._receiver()
        self.assertGreater(self._receive(machine, self.export, self.description), 10)
        self.assertEqual(machine.cells(1), self.cells)
        machine.write(1, 3, put("row0", "new", "here"))
        found = machine.reopen(crash=True)[1]
        self.assertEqual((found.version, len(found.tail), found.meta), (2, 1, b"blob " * 300))
        machine.engine.commit(1, 3)
        self.assertEqual(len(machine.cells(1)), len(self.cells) + 1)
        self.assertEqual(machine.disk.listdir("lsm/incoming"), [])

    def test_sender_goes_on(self) -> None:
        """Writes, checkpoints and compactions at the sender do not change what is sent."""
        sender = self.sender
        sender.write(1, 3, put("row0", "1", "changed"))
        sender.run(sender.engine.checkpoint(1))
        sender.run(sender.engine.compact(1))
        machine = self._receiver()
        self._receive(machine, self.export, self.description)
        self.assertEqual(machine.cells(1), self.cells)
        self.export.close()

    def test_replaces_an_older_tablet(self) -> None:
        """A tablet of the same number, of another history, is replaced as a whole."""
        machine = self._receiver()
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        for version in (1, 2, 3, 4):
            machine.write(1, version, put("other", "history", "x"))
        self._receive(machine, self.export, self.description)
        self.assertEqual(machine.cells(1), self.cells)
        self.assertEqual(machine.reopen(crash=True)[1].tail, [])
        self.assertEqual(machine.cells(1), self.cells)

    def test_replaces_a_tablet_at_work(self) -> None:
        """A checkpoint of the older tablet, whenever that begins, does not end in the new one."""
        for events in range(40):
            machine = self._receiver()
            machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
            for version in range(1, 5):
                machine.write(1, version, put("row1", "1", "another history"))
            coming = machine.run(machine.engine.begin_import(self.description))
            while (wanted := coming.wanted()) is not None:
                machine.run(coming.write(self.export.read(*wanted)))
            installed = Deferred.fromCoroutine(machine.engine.finish_import(coming))
            for _ in range(events):
                machine.clock.advance(0.0001)
            made = machine.engine.checkpoint(1)
            made.addErrback(lambda failure: failure.trap(NoSuchTablet))
            self.assertEqual(machine.run(installed).version, 2)
            machine.settle()
            found = machine.reopen(crash=True)[1]
            self.assertEqual((found.version, found.meta), (2, b"blob " * 300), events)
            self.assertEqual(machine.cells(1), self.cells, events)

    def test_damaged_chunk(self) -> None:
        """A chunk that is not the wanted one is refused, and can be sent again."""
        machine = self._receiver()
        coming = machine.run(machine.engine.begin_import(self.description))
        wanted = coming.wanted()
        assert wanted is not None
        good = self.export.read(*wanted)
        with self.assertRaises(StoreDamaged):
            machine.run(coming.write(good[:-1] + b"?"))
        machine.run(coming.write(good))
        with self.assertRaises(ValueError):
            machine.run(machine.engine.finish_import(coming))

    def test_another_checkpoint(self) -> None:
        """What has come of one checkpoint is not used for another."""
        machine = self._receiver()
        coming = machine.run(machine.engine.begin_import(self.description))
        wanted = coming.wanted()
        assert wanted is not None
        machine.run(coming.write(self.export.read(*wanted)))
        coming.close()
        self.sender.write(1, 3, put("row0", "1", "changed"))
        export, description = self.sender.run(self.sender.engine.export(1))
        again = machine.run(machine.engine.begin_import(description))
        self.assertEqual(again.wanted(), (0, 0))
        machine.run(again.discard())
        self.assertEqual(machine.disk.listdir("lsm/incoming"), [])
        export.close()

    def test_crash_at_every_operation(self) -> None:
        """A receiver that dies at any moment goes on where it was, with what had been synced."""
        least = most = 0
        for operation in range(1000):
            machine = self._receiver(operation)
            start = machine.disk.operations
            machine.disk.unplug_at = start + operation
            try:
                self._receive(machine, self.export, self.description)
                return_ = True
            except Stuck:
                return_ = False
            found = machine.reopen(crash=True)
            if 1 not in found:
                count = self._receive(machine, self.export, self.description)
                least, most = min(least, count), max(most, count)
            self.assertEqual(machine.cells(1), self.cells, f"crash at {operation}")
            if return_:
                break
        self.assertEqual(least, 0)
        self.assertGreater(most, 10)

    def test_description(self) -> None:
        """A description is checked like everything else."""
        data = encode_description(self.description)
        self.assertEqual(decode_description(data), self.description)
        for broken in (data[:-1], data[:-1] + b"?", b""):
            with self.assertRaises(StoreDamaged):
                decode_description(broken)
