"""Damage to a part of the log takes from the tablets that had something there, and from no others."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import (
    Entries,
    Entry,
    Void,
    decode,
    encode,
    encode_entries,
    encode_note,
)
from penncloud.lsm.errors import StoreDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.lsm.manifest import TabletState
from penncloud.lsm.record import Record, read_records
from penncloud.lsm.recovery import Replay, TabletTail
from penncloud.lsm.store import LOG, TABLES
from penncloud.lsm.wal import Damage
from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault
from tests.lsm.machine import SMALL, Machine, put


class LogDamageTests(SynchronousTestCase):
    """A machine whose tablets wrote to the log by turns, one of them once and never again."""

    def _filled(self) -> Machine:
        machine = Machine(3, evolve(SMALL, segment_bytes=500))
        machine.open()
        for tablet in (1, 2, 3):
            machine.run(machine.engine.create_tablet(tablet, 0, HASH_SPACE))
        machine.write(3, 1, put("idle", "a", "x"))
        for version in range(1, 6):
            for tablet in (1, 2):
                machine.write(tablet, version, put("row", str(version), "y" * 60))
        # The pause in which the log notes that it is all synced.
        machine.settle()
        machine.disk = machine.disk.crash()
        return machine

    def _owners(self, machine: Machine) -> dict[str, list[tuple[int, int, int]]]:
        """For every file: first and last byte of each data record, and its tablet."""
        found: dict[str, list[tuple[int, int, int]]] = {}
        for name in machine.disk.listdir(LOG):
            if not name.endswith(".log"):
                continue
            base = int(name[:8], 16) << 32
            for record in read_records(machine.disk.read(f"{LOG}/{name}"), base):
                assert isinstance(record, Record)
                tablet = 0
                if record.payload[:1] == b"D":
                    (entry,) = decode_entries(record.payload[1:])
                    tablet = entry.tablet
                found.setdefault(name, []).append(
                    (record.position - base, record.end - base, tablet)
                )
        return found

    def test_every_byte(self) -> None:
        """Whatever byte is changed, only the tablet of that record may be damaged, and no entry is wrong."""
        expected = {1: 5, 2: 5, 3: 1}
        damaged = 0
        for name, records in self._owners(self._filled()).items():
            for start, end, owner in records:
                for offset in range(start, end, 4):
                    machine = self._filled()
                    machine.disk.flip_bit(f"{LOG}/{name}", 8 * offset + offset % 8)
                    machine.engine = machine._engine()
                    try:
                        found = machine.open()
                    except StoreDamaged:
                        self.fail(f"{name} {offset}")
                    for tablet, recovery in found.items():
                        what = f"{name} {offset} tablet {tablet}: {recovery.damaged}"
                        if recovery.damaged:
                            self.assertEqual(tablet, owner, what)
                            damaged += 1
                        else:
                            self.assertEqual(len(recovery.tail), expected[tablet], what)
        self.assertGreater(damaged, 100)

    def test_segment_gone(self) -> None:
        """A whole segment is missing: who wrote to it is damaged, the idle tablet is not."""
        machine = self._filled()
        names = [name for name in machine.disk.listdir(LOG) if name.endswith(".log")]
        self.assertGreater(len(names), 2)
        machine.disk.remove(f"{LOG}/{names[1]}")
        machine.engine = machine._engine()
        found = machine.open()
        self.assertEqual([bool(found[tablet].damaged) for tablet in (1, 2, 3)], [True, True, False])


class OpeningTests(SynchronousTestCase):
    """A start that finds a tablet damaged, beside others whose entries only the log has."""

    def test_others_keep_their_log(self) -> None:
        """To remember the damage takes nothing of the log from those that are yet to be opened."""
        machine = Machine(3, evolve(SMALL, segment_bytes=500))
        machine.open()
        for tablet in (1, 2):
            machine.run(machine.engine.create_tablet(tablet, 0, HASH_SPACE))
        machine.write(1, 1, put("row", "1", "x"))
        machine.run(machine.engine.checkpoint(1))
        for version in range(1, 6):
            machine.write(2, version, put("row", str(version), "y" * 60))
        machine.settle()
        (ref,) = machine.engine.checkpoint_of(1).tables
        machine.disk.flip_bit(f"{TABLES}/{ref.file:08x}.table", 8 * (ref.bytes - 20))
        for _start in range(2):
            found = machine.reopen(crash=True)
            self.assertTrue(found[1].damaged)
            self.assertEqual((found[2].damaged, len(found[2].tail)), ("", 5))
            machine.settle()

    def test_no_room_to_remember(self) -> None:
        """Damage that a full disk did not let it remember is found again, whatever was written since."""
        for operation in range(16):
            machine = Machine(3, evolve(SMALL, segment_bytes=500))
            machine.open()
            for tablet in (1, 2):
                machine.run(machine.engine.create_tablet(tablet, 0, HASH_SPACE))
            for version in range(1, 6):
                for tablet in (1, 2):
                    machine.write(tablet, version, put("row", str(version), "y" * 60))
            machine.run(machine.engine.checkpoint(2))
            machine.settle()
            machine.disk = machine.disk.crash()
            names = [name for name in machine.disk.listdir(LOG) if name.endswith(".log")]
            machine.disk.remove(f"{LOG}/{names[1]}")
            machine.disk.faults[machine.disk.operations + operation] = Fault.FULL
            machine.engine = machine._engine()
            try:
                self.assertTrue(machine.open()[1].damaged)
            except DiskFull:
                continue  # That is a start which does not succeed.
            for version in range(6, 16):
                machine.write(2, version, put("row", str(version), "y" * 60))
            machine.run(machine.engine.checkpoint(2))
            machine.settle()
            self.assertTrue(machine.reopen(crash=True)[1].damaged, operation)


def decode_entries(data: bytes) -> tuple[Entry, ...]:

    record = decode(data)
    assert isinstance(record, Entries)
    return record.entries


class ReplayTests(SynchronousTestCase):
    """One tablet's log by hand: records of one position each; what is between 10 and 20 is lost."""

    def tail(self, *records: object, state: TabletState | None = None) -> TabletTail:
        state = state or TabletState(0, HASH_SPACE, 0, 0, 0, 0)
        replay = Replay({1: state})
        for record in records:
            match record:
                case (int() as position, int() as version, int() as cfg):
                    entry = Entry(1, version, cfg, b"", 0, (), b"")
                    replay.visit(position, b"".join(encode_entries([entry])))
                case (int() as position, "cut", int() as version):
                    replay.visit(position, b"".join(encode(Void(1, version))))
                case (int() as position, "note", int() as version, int() as cfg):
                    replay.noted(position, encode_note({1: (version, cfg)}))
                case _:
                    raise AssertionError(record)
        replay.finish([Damage(10, 20, "lost")])
        return replay.tails[1]

    def test_sound(self) -> None:
        """Nothing was lost where a note, the checkpoint, or the entries that follow show it."""
        for records in (
            [(1, 1, 1), (20, "note", 1, 1)],
            [(1, 1, 1), (20, 2, 1)],
            [(20, 1, 3), (21, 2, 3)],
            # A note between the damage and an entry of a later configuration.
            [(1, 1, 1), (20, "note", 1, 1), (21, 2, 2)],
        ):
            self.assertEqual(self.tail(*records).damaged, "", records)
        covered = TabletState(0, HASH_SPACE, 1, 7, 1, 30)
        self.assertEqual(self.tail((1, 6, 1), state=covered).damaged, "")

    def test_lost(self) -> None:
        """Something was lost, or nobody can tell."""
        for records in (
            [(1, 1, 1)],
            [(1, 1, 1), (5, "note", 1, 1)],
            [(1, 1, 1), (20, 3, 1)],
            [(1, 1, 1), (20, "note", 2, 1)],
            # Entry 2 was cut, written anew, and followed by 3: both in the lost part, or not.
            [(1, 1, 1), (2, 2, 1), (20, 3, 2)],
            [(1, 1, 1), (2, 2, 1), (20, 3, 2), (21, "note", 3, 2)],
            # It was cut twice, and entry 1 written anew in between, or not.
            [(1, 1, 1), (2, 2, 1), (20, "cut", 1), (21, 2, 2), (22, "note", 2, 2)],
            # The cut itself is lost.
            [(1, 1, 1), (2, 2, 1), (20, 2, 2)],
            [(1, 1, 1), (2, 2, 1), (20, "note", 1, 1)],
            [(1, 1, 1), (2, 2, 1), (20, "note", 2, 2)],
        ):
            self.assertNotEqual(self.tail(*records).damaged, "", records)

    def test_note_that_is_none(self) -> None:
        """What has the right checksum and is no note was written by something else."""
        with self.assertRaises(StoreDamaged):
            Replay({}).noted(1, b"\xc1")
