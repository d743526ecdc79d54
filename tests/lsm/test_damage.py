"""Damage is looked for, told of once, and what is left of a damaged tablet is kept aside."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import tool
from penncloud.lsm.aside import ASIDE, names_of, read_aside, size_of
from penncloud.lsm.errors import TabletDamaged
from penncloud.lsm.keys import HASH_SPACE
from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault
from tests.lsm.machine import SMALL, Machine, put

_REST_S = 60.0
_OPTIONS = evolve(
    SMALL,
    scrub_bytes_per_s=1000,
    scrub_rest_s=_REST_S,
    memtable_bytes=200_000,
    aside_bytes=20_000,
    block_cache_bytes=10_000_000,
)


class DamageTests(SynchronousTestCase):
    """Two tablets with a table and a blob each."""

    def setUp(self) -> None:
        self.machine = machine = Machine(options=_OPTIONS)
        machine.open()
        self.told: list[tuple[int, str]] = []
        machine.engine.on_damage(lambda tablet, why: self.told.append((tablet, why)))
        for tablet in (1, 2):
            self._make(tablet)

    def _make(self, tablet: int) -> None:
        machine = self.machine
        machine.run(machine.engine.create_tablet(tablet, 0, HASH_SPACE))
        machine.engine.set_meta(tablet, lambda: b"blob")
        machine.write(tablet, 1, *(put(f"row{n}", "c", "x" * 100) for n in range(40)))
        machine.run(machine.engine.checkpoint(tablet))

    def _flip(self, tablet: int, offset: int = 700) -> None:
        (ref,) = self.machine.engine.checkpoint_of(tablet).tables
        self.machine.disk.flip_bit(f"lsm/tables/{ref.file:08x}.table", 8 * offset)

    def test_scrub_finds_a_block(self) -> None:
        """A block that nobody reads is found within a round, at the rate that was set, and told once."""
        machine = self.machine
        self._flip(2)
        machine.settle(_REST_S + 2)
        self.assertEqual(self.told, [])
        machine.settle(3 * _REST_S)
        self.assertEqual([tablet for tablet, _why in self.told], [2])
        self.assertGreater(machine.engine.scrubs, 1)
        self.assertIn("checksum", machine.engine.damage(2))
        self.assertEqual(machine.engine.damage(1), "")

    def test_logged_once(self) -> None:
        """Each damaged block is logged once, however many reads meet it, and the tablet told of once."""
        machine = self.machine
        for offset in (700, 2500):
            self._flip(2, offset)
        refused = 0
        with capturedLogs() as events:
            for _ in range(5):
                for number in range(40):
                    try:
                        machine.engine.get(2, b"row%d" % number, b"c")
                    except TabletDamaged:
                        refused += 1
        self.assertGreater(refused, 20)
        logged = [formatEvent(event) for event in events]
        self.assertEqual(len(logged), 2, logged)
        self.assertEqual(len(set(logged)), 2)
        self.assertEqual([tablet for tablet, _why in self.told], [2])
        machine.settle()

    def test_scrub_reads_beside_the_cache(self) -> None:
        """A block that the cache has is checked on the disk all the same."""
        for flipped in (False, True):
            for number in range(40):
                self.assertIsNotNone(self.machine.engine.get(2, b"row%d" % number, b"c"))
            if not flipped:
                self._flip(2)
        self.machine.settle(3 * _REST_S)
        self.assertEqual([tablet for tablet, _why in self.told], [2])

    def test_scrub_tells_every_half_of_a_split(self) -> None:
        """Siblings share a file and so its damage."""
        self.machine.run(self.machine.engine.split_tablet(2, HASH_SPACE // 2, 3, 4))
        self._flip(3)
        self.machine.settle(3 * _REST_S)
        self.assertEqual(sorted(tablet for tablet, _why in self.told), [3, 4])

    def test_scrub_renews_a_blob(self) -> None:
        """A damaged blob is written anew from memory; nothing is lost by it."""
        machine = self.machine
        number = machine.engine.checkpoint_of(1).meta
        machine.disk.flip_bit(f"lsm/tables/{number:08x}.meta", 8 * 22)
        machine.settle(3 * _REST_S)
        self.assertNotEqual(machine.engine.checkpoint_of(1).meta, number)
        self.assertEqual(self.told, [])
        self.assertEqual(machine.reopen(crash=True)[1].meta, b"blob")

    def test_scrub_ends(self) -> None:
        """A stop in the middle of a round leaves nothing behind, and no rate means no scrub."""
        self.machine.settle(_REST_S + 1)
        self.machine.run(self.machine.engine.close())
        self.machine.settle(1)
        self.assertEqual(self.machine.clock.getDelayedCalls(), [])
        machine = Machine()
        machine.open()
        machine.settle(1)
        self.assertEqual(machine.clock.getDelayedCalls(), [])

    def _damage(self, tablet: int) -> None:
        self._flip(tablet)
        with self.assertRaises(TabletDamaged):
            self.machine.cells(tablet)

    def test_set_aside(self) -> None:
        """The files of a damaged tablet that is dropped are kept and shown; those of a sound one are not."""
        machine = self.machine
        self._damage(1)
        machine.run(machine.engine.append([machine.entry(1, 2, put("row1", "d", "waits"))]))
        for tablet in (1, 2):
            machine.run(machine.engine.drop_tablet(tablet))
        machine.reopen(crash=True)
        (name,) = names_of(machine.disk)
        found = read_aside(machine.disk, name)
        assert found is not None
        self.assertEqual((found.tablet, found.state.version), (1, 1))
        self.assertEqual([entry.version for entry in found.entries], [2])
        self.assertEqual(len(machine.disk.listdir(f"{ASIDE}/{name}")), 3)
        ((path, size, why),) = tool.inspect(machine.disk).aside
        self.assertEqual((path, size > 4000, "checksum" in why), (f"{ASIDE}/{name}", True, True))

    def test_set_aside_is_bounded(self) -> None:
        """Beyond the bound the oldest go."""
        for tablet in range(10, 16):
            self._make(tablet)
            self._damage(tablet)
            self.machine.run(self.machine.engine.drop_tablet(tablet))
            names = names_of(self.machine.disk)
            self.assertLess(sum(size_of(self.machine.disk, name) for name in names), 21_000)
        self.assertEqual(names[-1][:8], "0000000f")
        self.assertGreater(len(names), 1)

    def test_set_aside_on_a_full_disk(self) -> None:
        """Without room for that the tablet goes all the same."""
        machine = self.machine
        self._damage(1)
        for at in range(machine.disk.operations, machine.disk.operations + 4):
            machine.disk.faults[at] = Fault.FULL
        for _attempt in range(5):
            try:
                machine.run(machine.engine.drop_tablet(1))
                break
            except DiskFull:
                # The drop itself has met it: the tablet is still there.
                self.assertTrue(machine.engine.has(1))
        self.assertFalse(machine.engine.has(1))

    def test_crash_at_every_operation(self) -> None:
        """Whenever the power goes, the tablet is there, or set aside."""
        for operation in range(40):
            self.setUp()
            machine = self.machine
            self._damage(1)
            machine.settle(0.5)
            machine.disk.unplug_at = machine.disk.operations + operation
            d = Deferred.fromCoroutine(machine.engine.drop_tablet(1))
            d.addErrback(lambda _failure: None)
            machine.settle(5)
            found = machine.reopen(crash=True)
            if 1 not in found:
                (name,) = names_of(machine.disk)
                self.assertIsNotNone(read_aside(machine.disk, name))
