"""Checkpoints go from server to server, piece by piece, whatever happens to the two on the way."""

from __future__ import annotations

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import transfer
from penncloud.lsm.errors import Overloaded, StoreDamaged, TableDamaged, TabletDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.store import meta_path
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault
from penncloud.replication.messages import Checkpoint, StagePiece
from penncloud.storage.checkpoints import IDLE_S, SENT_S, Copies, PieceRead
from penncloud.storage.throttle import Throttle
from tests.lsm.machine import SMALL, Machine, Stuck, put

_BLOB = b"blob " * 300


@define
class Server:
    """A machine with its copies."""

    seed: int
    bytes_per_s: int = 0
    transfers: int = 4
    machine: Machine = field(init=False)
    copies: Copies = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.machine = Machine(self.seed, evolve(SMALL, memtable_bytes=200_000))
        self.machine.open()
        self._begin()

    def _begin(self) -> None:
        machine = self.machine
        self.copies = Copies(
            machine.clock, machine.disk, machine.engine, self.bytes_per_s, self.transfers
        )
        machine.run(self.copies.open())

    def crash(self) -> None:
        self.machine.reopen(crash=True)
        self._begin()

    def checkpoint(self) -> Checkpoint:
        state = self.machine.engine.checkpoint_of(1)
        return Checkpoint(state.checkpoint_no, state.version, state.entry_cfg)

    def read(self, number: int, offset: int) -> PieceRead | None:
        return self.machine.run(self.copies.read(1, number, offset))


class Incomplete(AssertionError):
    """What was installed is not what was sent."""


class Spoiled(Exception):
    """The sender has nothing to give."""


def fetch(sender: Server, receiver: Server, checkpoint: Checkpoint) -> int:
    """What is not yet staged, then the installation; returns the number of pieces."""
    staged = receiver.copies.staged(1)
    offset = 0
    if staged is not None and (staged.source, staged.checkpoint) == ("sender", checkpoint):
        offset = staged.size_bytes
    run, pieces = receiver.machine.run, 0
    while True:
        piece = sender.read(checkpoint.number, offset)
        if piece is None:
            raise Spoiled
        run(receiver.copies.stage(1, StagePiece("sender", checkpoint, offset, piece.data)))
        offset += len(piece.data)
        pieces += 1
        if piece.done:
            break
    found = run(receiver.copies.install(1, "sender", checkpoint))
    if (found.version, found.meta) != (checkpoint.version, _BLOB):
        raise Incomplete(found)
    return pieces


class CopiesTests(SynchronousTestCase):
    """A sender with two tables and a blob, in small pieces."""

    def setUp(self) -> None:
        self.patch(transfer, "CHUNK_BYTES", 700)
        self.sender = Server(1)
        machine = self.sender.machine
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        machine.engine.set_meta(1, lambda: _BLOB)
        for version in (1, 2):
            cells = [put(f"row{n}", str(version), "x" * 90) for n in range(20)]
            machine.write(1, version, *cells)
            machine.run(machine.engine.checkpoint(1))
        self.cells = machine.cells(1)
        self.checkpoint = self.sender.checkpoint()

    def test_transfer(self) -> None:
        """The receiver has the same cells and the blob, also after a crash; nothing is left over."""
        receiver = Server(2)
        self.assertGreater(fetch(self.sender, receiver, self.checkpoint), 10)
        self.assertEqual(receiver.machine.cells(1), self.cells)
        receiver.crash()
        self.assertEqual(receiver.machine.cells(1), self.cells)
        self.assertIsNone(receiver.copies.staged(1))
        self.assertEqual(receiver.machine.disk.listdir("lsm/incoming"), [])

    def test_numbers_name_files(self) -> None:
        """A compaction is another checkpoint: what is held goes on, a new transfer needs the new one."""
        first = self.sender.read(self.checkpoint.number, 0)
        assert first is not None
        told: list[int] = []
        engine = self.sender.machine.engine
        engine.on_checkpoint(lambda _tablet, state: told.append(state.checkpoint_no))
        self.sender.machine.run(engine.compact(1))
        self.assertEqual(told, [self.checkpoint.number + 1])
        receiver = Server(2)
        fetch(self.sender, receiver, self.checkpoint)
        self.assertEqual(receiver.machine.cells(1), self.cells)
        # Let go of: the number alone finds nothing any more.
        self.sender.machine.settle(IDLE_S + 1)
        self.assertIsNone(self.sender.read(self.checkpoint.number, 0))
        self.assertIsNone(self.sender.read(self.checkpoint.number, len(first.data)))
        fetch(self.sender, Server(3), self.sender.checkpoint())

    def test_sender_restarts(self) -> None:
        """A sender that comes back with the same files goes on at any offset."""
        first = self.sender.read(self.checkpoint.number, 0)
        assert first is not None
        second = self.sender.read(self.checkpoint.number, len(first.data))
        self.sender.crash()
        self.assertEqual(self.sender.read(self.checkpoint.number, len(first.data)), second)

    def test_behind_the_end(self) -> None:
        """Whoever has everything is told that this is all; an offset inside a piece gets nothing."""
        size = 0
        while not (piece := self.sender.read(self.checkpoint.number, size)) or not piece.done:
            assert piece is not None
            size += len(piece.data)
        size += len(piece.data)
        end = self.sender.read(self.checkpoint.number, size)
        self.assertEqual(end, PieceRead(b"", 0, True))
        self.assertIsNone(self.sender.read(self.checkpoint.number, 1))

    def test_bounded(self) -> None:
        """One transfer more than allowed gets nothing until another one has ended."""
        sender = self.sender
        machine = sender.machine
        machine.run(machine.engine.create_tablet(2, 0, 1))
        copies = Copies(machine.clock, machine.disk, machine.engine, 0, 1)
        self.assertIsNotNone(machine.run(copies.read(1, self.checkpoint.number, 0)))
        self.assertIsNone(machine.run(copies.read(2, 0, 0)))
        self.assertEqual(copies.under_way, 1)
        machine.settle(IDLE_S + 1)
        self.assertEqual(copies.under_way, 0)
        self.assertIsNotNone(machine.run(copies.read(2, 0, 0)))
        copies.stop()
        self.assertEqual(machine.clock.getDelayedCalls(), [])

    def test_one_after_the_other(self) -> None:
        """A transfer that has come to its end keeps no other from beginning; its files go soon after."""
        machine = self.sender.machine
        machine.run(machine.engine.create_tablet(2, 0, 1))
        copies = Copies(machine.clock, machine.disk, machine.engine, 0, 1)
        offset = 0
        while True:
            piece = machine.run(copies.read(1, self.checkpoint.number, offset))
            assert piece is not None
            if piece.done:
                break
            offset += len(piece.data)
        self.assertIsNotNone(machine.run(copies.read(2, 0, 0)))
        # The last piece may have been lost on its way.
        again = machine.run(copies.read(1, self.checkpoint.number, offset))
        self.assertEqual(again, piece)
        self.assertEqual(copies.under_way, 2)
        machine.settle(SENT_S + 1)
        self.assertEqual(copies.under_way, 0)
        copies.stop()

    def test_crash_at_every_operation(self) -> None:
        """A receiver that dies at any moment goes on where it was, or has all of it."""
        saved = False
        for operation in range(2000):
            receiver = Server(operation)
            disk = receiver.machine.disk
            disk.unplug_at = disk.operations + operation
            try:
                fetch(self.sender, receiver, self.checkpoint)
                ended = True
            except Stuck:
                ended = False
            found = receiver.machine.reopen(crash=True)
            receiver._begin()
            if 1 not in found:
                staged = receiver.copies.staged(1)
                pieces = fetch(self.sender, receiver, self.checkpoint)
                saved = saved or (staged is not None and pieces < 5)
            self.assertEqual(receiver.machine.cells(1), self.cells, f"crash at {operation}")
            if ended:
                break
        else:
            self.fail("never came to an end")
        self.assertTrue(saved, "nothing was ever resumed")

    def test_full_at_every_operation(self) -> None:
        """A disk without room refuses; with room again the transfer comes to its end."""
        refused = 0
        for operation in range(2000):
            receiver = Server(2)
            disk = receiver.machine.disk
            fault_at = disk.operations + operation
            disk.faults[fault_at] = Fault.FULL
            for _attempt in range(4):
                try:
                    fetch(self.sender, receiver, self.checkpoint)
                    break
                except DiskFull:
                    refused += 1
            else:
                self.fail(f"full at {operation}: stays refused")
            self.assertEqual(receiver.machine.cells(1), self.cells)
            if disk.operations <= fault_at:
                break
        self.assertGreater(refused, 10)

    def test_failure_at_every_operation(self) -> None:
        """A receiver whose disk fails stops; started again it goes on, or has all of it."""
        failed = 0
        for operation in range(2000):
            receiver = Server(2)
            disk = receiver.machine.disk
            fault_at = disk.operations + operation
            disk.faults[fault_at] = Fault.FAIL
            try:
                fetch(self.sender, receiver, self.checkpoint)
            except (DiskFailed, TableDamaged, Incomplete):
                # A read that fails is taken for damage, and all is fetched anew.
                failed += 1
            reached = disk.operations > fault_at
            found = receiver.machine.reopen(crash=True)
            receiver._begin()
            if 1 not in found or found[1].damaged:
                fetch(self.sender, receiver, self.checkpoint)
            self.assertEqual(receiver.machine.cells(1), self.cells, f"failure at {operation}")
            if not reached:
                break
        self.assertGreater(failed, 10)

    def test_no_room_at_all(self) -> None:
        """A checkpoint that does not fit is refused before it fills the disk."""
        receiver = Server(2)
        receiver.machine.disk.capacity_bytes -= receiver.machine.disk.free_bytes() - 3000
        with self.assertRaises(DiskFull):
            fetch(self.sender, receiver, self.checkpoint)

    def test_flipped_bits_at_the_receiver(self) -> None:
        """What was changed on the way or on the disk is found, forgotten, and fetched anew."""
        spoiled = damaged = 0
        for operation in range(2000):
            receiver = Server(2)
            disk = receiver.machine.disk
            fault_at = disk.operations + operation
            disk.faults[fault_at] = Fault.FLIP
            for _attempt in range(3):
                try:
                    fetch(self.sender, receiver, self.checkpoint)
                    break
                except (StoreDamaged, TableDamaged):
                    spoiled += 1
                    self.assertIsNone(receiver.copies.staged(1))
            try:
                self.assertEqual(receiver.machine.cells(1), self.cells, f"flip at {operation}")
            except TabletDamaged:
                damaged += 1
            if disk.operations <= fault_at:
                break
        self.assertGreater(spoiled, 5)
        # The flip after the last check, in the manifest or the log, is not a matter of transfers.
        self.assertLess(damaged, 3)

    def test_every_staged_file_decays(self) -> None:
        """Whatever file of a transfer has a wrong bit after a restart: it goes on from there."""
        for name in ("origin", "description", "0", "1", "2"):
            receiver = Server(2)
            run, offset = receiver.machine.run, 0
            while True:
                piece = self.sender.read(self.checkpoint.number, offset)
                assert piece is not None
                wanted = StagePiece("sender", self.checkpoint, offset, piece.data)
                run(receiver.copies.stage(1, wanted))
                offset += len(piece.data)
                if piece.done:
                    break
            run(receiver.machine.disk.sync_dir("lsm/incoming/1"))
            receiver.machine.disk.flip_bit(f"lsm/incoming/1/{name}", 8 * 30)
            receiver.crash()
            self.assertGreater(fetch(self.sender, receiver, self.checkpoint), 0)
            self.assertEqual(receiver.machine.cells(1), self.cells)

    def test_damage_at_the_sender(self) -> None:
        """A damaged file is not sent: the sender's tablet is reported instead."""
        machine = self.sender.machine
        name = machine.disk.listdir("lsm/tables")[0]
        machine.disk.flip_bit(f"lsm/tables/{name}", 801)
        self.assertIsNone(self.sender.read(self.checkpoint.number, 0))
        self.assertIn("checksum", machine.engine.damage(1))
        machine.settle()
        self.assertIn("checksum", machine.engine.checkpoint_of(1).spoiled)

    def test_damaged_blob_at_the_sender(self) -> None:
        """Nor is a damaged blob: the next checkpoint has it again, and that one is sent."""
        for damage in ("flipped", "gone"):
            self.setUp()
            machine = self.sender.machine
            path = meta_path(machine.engine.checkpoint_of(1).meta)
            if damage == "gone":
                machine.disk.remove(path)
            else:
                machine.disk.flip_bit(path, 801)
            self.assertIsNone(self.sender.read(self.checkpoint.number, 0))
            machine.settle()
            receiver = Server(2)
            fetch(self.sender, receiver, self.sender.checkpoint())
            self.assertEqual(receiver.machine.cells(1), self.cells)
            self.assertEqual(machine.engine.damage(1), "")

    def test_damage_while_sending(self) -> None:
        """So is one that is damaged after it was described."""
        machine = self.sender.machine
        first = self.sender.read(self.checkpoint.number, 0)
        assert first is not None
        name = machine.disk.listdir("lsm/tables")[-2]
        machine.disk.flip_bit(f"lsm/tables/{name}", 801)
        self.assertIsNone(self.sender.read(self.checkpoint.number, len(first.data)))
        self.assertEqual(self.sender.copies.under_way, 0)

    def test_what_does_not_belong(self) -> None:
        """A piece of another transfer, of another place, or that was changed, is refused."""
        receiver = Server(2)
        first = self.sender.read(self.checkpoint.number, 0)
        assert first is not None
        second = self.sender.read(self.checkpoint.number, len(first.data))
        assert second is not None
        run, copies = receiver.machine.run, receiver.copies
        place = len(first.data)
        for piece in (
            StagePiece("sender", self.checkpoint, place, second.data),
            StagePiece("sender", evolve(self.checkpoint, version=7), 0, first.data),
            StagePiece("sender", self.checkpoint, 0, first.data[:-1] + b"?"),
        ):
            with self.assertRaises(StoreDamaged):
                run(copies.stage(1, piece))
        run(copies.stage(1, StagePiece("sender", self.checkpoint, 0, first.data)))
        for piece in (
            StagePiece("other", self.checkpoint, place, second.data),
            StagePiece("sender", evolve(self.checkpoint, number=9), place, second.data),
            StagePiece("sender", self.checkpoint, place + 1, second.data),
        ):
            with self.assertRaises(StoreDamaged):
                run(copies.stage(1, piece))
        with self.assertRaises(StoreDamaged):
            run(copies.install(1, "sender", self.checkpoint))
        changed = StagePiece("sender", self.checkpoint, place, second.data[:-1] + b"?")
        with self.assertRaises(StoreDamaged):
            run(copies.stage(1, changed))
        self.assertIsNone(copies.staged(1))
        self.assertEqual(receiver.machine.disk.listdir("lsm/incoming"), [])

    def test_throttled(self) -> None:
        """A transfer takes the time that its size asks for."""
        sender = Server(5, bytes_per_s=10_000)
        machine = sender.machine
        machine.run(machine.engine.create_tablet(1, 0, HASH_SPACE))
        machine.engine.set_meta(1, lambda: _BLOB)
        machine.write(1, 1, *(put(f"row{n}", "x", "y" * 1000) for n in range(100)))
        machine.run(machine.engine.checkpoint(1))
        began = machine.clock.seconds()
        fetch(sender, Server(2), sender.checkpoint())
        self.assertGreater(machine.clock.seconds() - began, 10.0)


class ThrottleTests(SynchronousTestCase):
    """Bytes by the second, in order, bounded."""

    def test_in_order_and_bounded(self) -> None:
        """Three of 100 bytes at 100 a second; the one beyond the bound is refused at once."""
        clock = Clock()
        throttle = Throttle(clock, 100, 2)
        passed: list[int] = []
        for number in range(3):
            throttle.pass_bytes(100).addCallback(lambda _none, n: passed.append(n), number)
        self.assertEqual(passed, [0])
        self.failureResultOf(throttle.pass_bytes(1), Overloaded)
        for expected in ([0, 1], [0, 1, 2]):
            clock.advance(1.0)
            self.assertEqual(passed, expected)

    def test_giving_up_and_stopping(self) -> None:
        """One who gives up frees the place; a stop refuses the others and leaves no timer."""
        clock = Clock()
        throttle = Throttle(clock, 100, 2)
        self.successResultOf(throttle.pass_bytes(100))
        waiting: list[Deferred[None]] = [throttle.pass_bytes(100) for _ in range(2)]
        waiting[0].addErrback(lambda _failure: None)
        waiting[0].cancel()
        another = throttle.pass_bytes(1)
        throttle.stop()
        self.failureResultOf(waiting[1], Overloaded)
        self.failureResultOf(another, Overloaded)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_without_limit(self) -> None:
        """Nobody waits."""
        throttle = Throttle(Clock(), 0, 1)
        for _ in range(5):
            self.successResultOf(throttle.pass_bytes(1 << 30))
