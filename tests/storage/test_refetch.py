"""A damaged copy is given up where another server has the tablet, and fetched anew; nothing else changes."""

from __future__ import annotations

from penncloud.lsm.aside import names_of
from penncloud.lsm.errors import TabletDamaged
from penncloud.platform.memory_disk import Fault
from penncloud.storage.quarantine import kept_cuts, kept_entries
from penncloud.wire.messages import Error, Get, Ok, Put, Value
from tests.storage.servers import WHOLE, Servers
from tests.storage.test_servers import ServersTestCase

ROWS = [b"row%d" % number for number in range(60)]


class RefetchTests(ServersTestCase):
    """Three servers with a flushed tablet each; a bit of one's table flips."""

    def filled(self, **settings: object) -> Servers:
        servers = self.serve(**settings)
        for row in ROWS:
            reply = servers.asked(servers.primary(), Put(row, b"c", row * 100))
            self.assertIsInstance(reply, Ok)
        servers.run(0.5)
        for name in servers.hosts:
            servers.node(name)._engine.checkpoint(WHOLE)
        servers.run(0.5)
        return servers

    def check(self, servers: Servers) -> None:
        # Damage is logged as critical, rightly.
        servers.world.errors = [e for e in servers.world.errors if "is damaged:" not in e]
        super().check(servers)

    def flip(self, servers: Servers, name: str) -> None:
        """Damage the first block of the oldest table."""
        ref = servers.node(name)._engine.checkpoint_of(WHOLE).tables[-1]
        servers.hosts[name].disk.flip_bit(f"lsm/tables/{ref.file:08x}.table", 8 * 200)

    def whole_and_sound(self, servers: Servers) -> None:
        def sound() -> bool:
            members = set(servers.coordinator.tablet().members) == set(servers.hosts)
            return members and not any(
                servers.member(name).blank or servers.node(name)._engine.damage(WHOLE)
                for name in servers.hosts
            )

        servers.until(sound, 60)
        servers.run(0.5)
        for name in servers.hosts:
            for row in ROWS:
                self.assertEqual(servers.cells(name, row)[b"c"][1], row * 100)

    def test_a_member_scrubs(self) -> None:
        """A block that nobody reads at a secondary is found, and the copy replaced, beside writes."""
        servers = self.filled()
        other = next(name for name in servers.hosts if name != servers.primary())
        self.flip(servers, other)
        servers.until(lambda: bool(servers.node(other)._engine.damage(WHOLE)), 700)
        self.assertIsInstance(servers.asked(servers.primary(), Put(b"x", b"c", b"")), Ok)
        self.whole_and_sound(servers)
        self.assertEqual(len(names_of(servers.hosts[other].disk)), 1)

    def test_the_primary_reads(self) -> None:
        """One read fails; another member leads soon and answers it; the old primary fetches anew."""
        servers = self.filled()
        primary = servers.primary()
        self.flip(servers, primary)
        failed = [row for row in ROWS if isinstance(self.get(servers, primary, row), Error | None)]
        self.assertTrue(0 < len(failed) < len(ROWS), failed)
        servers.coordinator.damaged_step_down = True
        servers.until(lambda: servers.primary() not in ("", primary))
        for row in failed:
            self.assertIsInstance(servers.asked(servers.primary(), Get(row, b"c")), Value)
        self.whole_and_sound(servers)

    def get(self, servers: Servers, name: str, row: bytes) -> object:
        try:
            return servers.node(name)._tablets.get(Get(row, b"c"))
        except TabletDamaged:
            return None

    def test_the_last_copy_stays(self) -> None:
        """Nobody else has the tablet: the copy is not given up, and what is sound of it is served."""
        servers = self.filled()
        primary = servers.primary()
        for name in servers.hosts:
            if name != primary:
                servers.hosts[name].kill(power=True)
        servers.until(lambda: servers.coordinator.tablet().members == [primary])
        servers.run(0.5)
        self.flip(servers, primary)
        answers = [self.get(servers, primary, row) for row in ROWS]
        self.assertIn(None, answers, answers)
        self.assertGreater(sum(isinstance(answer, Value) for answer in answers), 20, answers)
        servers.run(5)
        self.assertFalse(servers.member(primary).blank)
        self.assertIsInstance(servers.asked(primary, Put(b"new", b"c", b"v")), Ok)

    def test_what_was_answered_early(self) -> None:
        """In async mode a damaged copy may be the only one that has what was answered: it goes to
        quarantine before the fetched copy takes its place."""
        servers = self.filled(replication="async")
        old = servers.primary()
        servers.isolate(old)
        self.assertIsInstance(servers.asked(old, Put(b"only", b"c", b"here")), Ok)
        servers.member(old).damaged("as if a bit had flipped")
        servers.run(1)
        self.assertFalse(servers.hosts[old].disk.listdir("quarantine"))
        servers.mend()
        self.whole_and_sound(servers)
        disk = servers.hosts[old].disk
        [kept] = kept_cuts(disk)
        rows = [cell.row for entry in kept_entries(disk, kept.name) for cell in entry.effects]
        self.assertEqual(rows, [b"only"])

    def test_found_while_it_is_replaced(self) -> None:
        """A copy that is being replaced by a fetched one turns out to be damaged: the fetched one counts."""
        servers, other = self.fetching()
        fetched = servers.node(other)._copies.received_bytes
        servers.hosts[other].disk.slowness = 2000.0
        self.flip(servers, other)
        with self.assertRaises(TabletDamaged):
            for row in ROWS:
                servers.cells(other, row)
        servers.run(3)
        servers.hosts[other].disk.slowness = 1.0
        self.whole_and_sound(servers)
        self.assertLess(servers.node(other)._copies.received_bytes, 2 * fetched)

    def test_no_room_when_it_is_replaced(self) -> None:
        """The disk is full right after a fetched copy has taken the old one's place: it goes on with room."""
        servers, other = self.fetching()
        disk = servers.hosts[other].disk
        begin = disk.begin
        refused: list[str] = []

        def full_once(what: str) -> Fault | None:
            if what == "replace replicas" and not refused:
                refused.append(what)
                return Fault.FULL
            return begin(what)

        self.patch(disk, "begin", full_once)
        servers.until(lambda: not servers.replica(other).state.installing)
        self.assertIsInstance(servers.asked(servers.primary(), Put(b"x", b"c", b"")), Ok)
        self.whole_and_sound(servers)

    def test_damaged_as_it_takes_its_place(self) -> None:
        """The blob of a fetched copy goes bad once it is in: it is never taken for a tablet without one."""
        servers, other = self.fetching()
        disk = servers.hosts[other].disk
        read = disk.read
        looked: list[str] = []

        def bad_the_second_time(path: str) -> bytes:
            if path.endswith(".meta"):
                looked.append(path)
                if len(looked) == 2:
                    disk.flip_bit(path, 8 * 21)
            return read(path)

        self.patch(disk, "read", bad_the_second_time)
        engine = servers.node(other)._engine
        for _ in range(100):
            servers.run(0.02)
            if engine.has(WHOLE) and engine.damage(WHOLE):
                self.assertTrue(servers.member(other).blank)
        self.assertEqual(len(set(looked)), 2)
        self.whole_and_sound(servers)

    def fetching(self) -> tuple[Servers, str]:
        """One of the servers has been away, has all of a newer copy, and is about to put it in its place."""
        servers = self.filled()
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        servers.isolate(other)
        servers.until(lambda: other not in servers.coordinator.tablet().members)
        for row in ROWS:
            self.assertIsInstance(servers.asked(primary, Put(row, b"c", row * 100)), Ok)
        servers.run(0.5)
        servers.node(primary)._engine.checkpoint(WHOLE)
        servers.run(0.5)
        servers.mend()
        servers.until(lambda: servers.replica(other).state.installing)
        return servers, other
