"""Several storage servers as a group: writes, failover, rejoin, leases, a full disk, a split brain."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import PutEffect
from penncloud.platform.errors import DiskFull
from penncloud.platform.memory_disk import Fault
from penncloud.rpc.registration import Assign
from penncloud.storage.quarantine import kept_cuts, kept_entries
from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Get,
    Missing,
    Moved,
    Mutate,
    Ok,
    Put,
    RequestId,
    Unknown,
    Value,
    Watch,
)
from tests.storage.servers import WHOLE, Servers

R = b"row"
ID = RequestId(b"me", 1)


class ServersTestCase(SynchronousTestCase):
    """Three servers, whole."""

    def serve(self, **settings: object) -> Servers:
        servers = Servers(**settings)  # type: ignore[arg-type]
        servers.ready()
        self.addCleanup(self.check, servers)
        return servers

    def check(self, servers: Servers) -> None:
        self.flushLoggedErrors()
        self.assertFalse(servers.world.errors, "\n".join(servers.world.errors))


class WritePathTests(ServersTestCase):
    """All members have what was answered."""

    def test_a_write_reaches_everybody(self) -> None:
        """Answered by the primary, durable and soon committed on all; others say who leads."""
        servers = self.serve()
        primary = servers.primary()
        reply = servers.asked(primary, Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        self.assertEqual(servers.asked(primary, Get(R, b"c")), Value(reply.version, b"v"))
        servers.run(0.1)
        for name in servers.hosts:
            self.assertEqual(servers.cells(name, R), {b"c": (reply.version, b"v")})
            if name != primary:
                moved = servers.asked(name, Get(R, b"c"))
                self.assertEqual(moved, Moved(f"{primary}:8700", 1))

    def test_a_burst_of_writes(self) -> None:
        """Many at once, in order, on every member."""
        servers = self.serve()
        primary = servers.primary()
        answers = [
            servers.ask(primary, Mutate(R, (AppendCell(b"", b"%d" % n),))) for n in range(500)
        ]
        servers.until(lambda: all(answers))
        versions = [reply.version for [reply] in answers if isinstance(reply, Ok)]
        self.assertEqual(versions, list(range(versions[0], versions[0] + 500)))
        servers.run(0.2)
        held = [servers.cells(name, R) for name in servers.hosts]
        self.assertEqual(len(held[0]), 500)
        self.assertEqual(held[1:], [held[0]] * 2)

    def test_in_async_mode(self) -> None:
        """The answer says that others may not have it; a read behind it sees it all the same."""
        servers = self.serve(replication="async")
        primary = servers.primary()
        reply = servers.asked(primary, Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        self.assertTrue(reply.local)
        self.assertEqual(servers.asked(primary, Get(R, b"c")), Value(reply.version, b"v"))

    def test_async_lag_is_bounded(self) -> None:
        """Nobody else has them: after so many the primary takes no more."""
        servers = self.serve(replication="async", async_max_lag=10)
        primary = servers.primary()
        others = [name for name in servers.hosts if name != primary]
        servers.isolate(primary, *others)
        answers = [servers.ask(primary, Put(R, b"%d" % n, b"")) for n in range(12)]
        servers.until(lambda: all(answers), 0.4)
        self.assertEqual([type(reply) for [reply] in answers], [Ok] * 10 + [Busy] * 2)

    def test_what_was_answered_early_and_moves_away(self) -> None:
        """A tablet whose answered writes nobody else has is dropped: they are kept to be read."""
        servers = self.serve(replication="async")
        coordinator, primary = servers.coordinator, servers.primary()
        servers.isolate(primary, *[name for name in servers.hosts if name != primary])
        answers = [servers.ask(primary, Put(R, b"%d" % n, b"early")) for n in range(3)]
        servers.until(lambda: all(answers), 0.4)
        self.assertEqual([type(reply) for [reply] in answers], [Ok] * 3)
        coordinator.tablets = []
        coordinator.dropped[primary] = [WHOLE]
        coordinator.map_version += 1
        coordinator.assign_all()
        servers.until(lambda: not servers.node(primary)._engine.has(WHOLE))
        disk = servers.hosts[primary].disk
        [cut] = kept_cuts(disk)
        effects = [one for entry in kept_entries(disk, cut.name) for one in entry.effects]
        kept = [effect.col for effect in effects if isinstance(effect, PutEffect)]
        self.assertEqual(kept, [b"0", b"1", b"2"])

    def test_comes_back_while_it_is_dropped(self) -> None:
        """A slow server is to have again what it is about to drop: what it obeys stays on its disk."""
        for tenths in range(1, 6):
            servers = self.serve(seed=tenths)
            coordinator, primary = servers.coordinator, servers.primary()
            other = next(name for name in servers.hosts if name != primary)
            servers.hosts[other].disk.slowness = 300.0
            coordinator.strangers.add(other)
            coordinator.dropped[other] = [WHOLE]
            coordinator.configure(WHOLE, primary, [n for n in servers.hosts if n != other])
            servers.run(tenths / 10)
            coordinator.strangers.clear()
            coordinator.dropped.clear()
            coordinator.map_version += 1
            coordinator.assign_all()
            for _ in range(200):
                servers.run(0.02)
                replicas = servers.node(other)._replicas
                if WHOLE in replicas.members:
                    kept = replicas._around.standings[WHOLE].sealed
                    self.assertGreaterEqual(kept, servers.replica(other).state.sealed_stable)
            servers.hosts[other].disk.slowness = 1.0
            servers.ready()

    def test_dropped_while_it_begins(self) -> None:
        """A learner is to let go of a tablet while the first of it goes to its disk: nothing stays behind."""
        for hundredths in range(0, 60, 4):
            servers, name = self._learner_that_begins()
            replicas = servers.node(name)._replicas
            servers.run(hundredths / 100)
            for _ in range(3):
                # As the coordinators do: as long as it says that it has the tablet.
                if WHOLE in replicas.members:
                    replicas.act_on(Assign(0, []))
                    Deferred.fromCoroutine(replicas.drop([WHOLE]))
                servers.run(1)
            left = replicas._engine.has(WHOLE), replicas._around.standings.knows(WHOLE)
            self.assertEqual(left, (False, False), hundredths)
            self.assertNotIn(WHOLE, replicas.members)

    def test_no_room_to_drop(self) -> None:
        """What a full disk did not let a server drop it still tells of, and drops when it has room."""
        servers = self.serve()
        name = next(name for name in servers.hosts if name != servers.primary())
        replicas = servers.node(name)._replicas
        servers.coordinator.silent = True
        replicas.act_on(Assign(0, []))
        begin = servers.hosts[name].disk.begin
        full = self.patch(
            servers.hosts[name].disk,
            "begin",
            lambda what: Fault.FULL if what == "replace lsm/MANIFEST" else begin(what),
        )
        refused = Deferred.fromCoroutine(replicas.drop([WHOLE]))
        servers.run(1)
        self.failureResultOf(refused, DiskFull)
        self.assertIn(WHOLE, [tip.tablet for tip in replicas.tips()])
        full.restore()
        Deferred.fromCoroutine(replicas.drop([WHOLE]))
        servers.run(1)
        self.assertFalse(replicas._engine.has(WHOLE))
        self.assertEqual(replicas.tips(), [])

    def test_no_room_to_drop_what_is_to_stay(self) -> None:
        """What could not be dropped, and is to be had again, is fetched as if it were gone."""
        servers = self.serve()
        name = next(name for name in servers.hosts if name != servers.primary())
        node = servers.node(name)
        begin = servers.hosts[name].disk.begin
        full = self.patch(
            servers.hosts[name].disk,
            "begin",
            lambda what: Fault.FULL if what == "replace lsm/MANIFEST" else begin(what),
        )
        node._replicas.act_on(Assign(0, []))
        refused = Deferred.fromCoroutine(node._replicas.drop([WHOLE]))
        servers.run(0.1)
        self.failureResultOf(refused, DiskFull)
        full.restore()
        servers.coordinator.map_version += 1
        servers.coordinator.assign_all()
        servers.until(lambda: not servers.member(name).blank)
        servers.ready()
        self.assertIsInstance(servers.asked(servers.primary(), Put(R, b"c", b"v")), Ok)
        servers.run(0.1)
        self.assertEqual(servers.cells(name, R)[b"c"][1], b"v")

    def _learner_that_begins(self) -> tuple[Servers, str]:
        """A server with a slow disk whose blank replica is just being filled, and its name."""
        servers = self.serve()
        name = next(name for name in servers.hosts if name != servers.primary())
        servers.kill(name, wiped=True)
        servers.until(lambda: name not in servers.coordinator.tablet().members)
        servers.hosts[name].start()
        servers.until(lambda: WHOLE in servers.node(name)._replicas.members)
        servers.hosts[name].disk.slowness = 100.0
        lane = servers.member(name).lane
        servers.until(lambda: lane.apart and bool(lane.waiting[0].entries))
        servers.coordinator.silent = True
        return servers, name

    def test_reads_that_are_confirmed(self) -> None:
        """Without trust in clocks a read costs a round to the members."""
        servers = self.serve(read_mode="confirm")
        primary = servers.primary()
        reply = servers.asked(primary, Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        answers = servers.ask(primary, Get(R, b"c"))
        self.assertEqual(answers, [])
        servers.until(lambda: bool(answers))
        self.assertEqual(answers, [Value(reply.version, b"v")])


class FailoverTests(ServersTestCase):
    """A member goes; the others go on, and it comes back."""

    def test_a_retry_gets_the_first_answer(self) -> None:
        """The primary dies with the answer on its way: the next one knows the request."""
        servers = self.serve()
        primary = servers.primary()
        append = Mutate(R, (AppendCell(b"", b"v"),))
        first = servers.asked(primary, append, ID)
        servers.hosts[primary].kill(power=True)
        servers.until(lambda: servers.primary() not in ("", primary))
        again = servers.asked(servers.primary(), append, ID)
        self.assertEqual(again, first)
        self.assertEqual(len(servers.cells(servers.primary(), R)), 1)

    def test_a_member_whose_disk_is_slow(self) -> None:
        """Every write waits for it, until it is removed; once its disk is in time it joins again."""
        servers = self.serve()
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        disk = servers.hosts[other].disk
        # A sync takes one to three seconds.
        disk.slowness = 2000.0
        waited = 0
        while other in servers.coordinator.tablet().members:
            waited += 1
            self.assertLess(waited, 30)
            self.assertIsInstance(servers.asked(primary, Put(R, b"%d" % waited, b"v")), Ok)
        self.assertGreater(waited, 2)
        before = servers.world.timeline.now_s
        for number in range(20):
            self.assertIsInstance(servers.asked(primary, Put(R, b"more%d" % number, b"v")), Ok)
        self.assertLess(servers.world.timeline.now_s - before, 2.0)
        self.assertNotIn(other, servers.coordinator.tablet().members)
        disk.slowness = 1.0
        servers.ready()
        self.assertEqual(servers.cells(other, R), servers.cells(primary, R))

    def test_a_member_that_dies_is_waited_for_only_shortly(self) -> None:
        """It is removed; a write that waited is done; then it comes back by entries and is whole."""
        servers = self.serve()
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        servers.hosts[other].kill(power=False)
        reply = servers.asked(primary, Put(R, b"c", b"v"), ID)
        assert isinstance(reply, Ok)
        self.assertNotIn(other, servers.coordinator.tablet().members)
        servers.hosts[other].start()
        servers.ready()
        self.assertEqual(servers.cells(other, R), {b"c": (reply.version, b"v")})

    def test_three_two_one_and_back(self) -> None:
        """Each loss is survived, and nobody has to be restarted for the way back."""
        servers = self.serve()
        gone = []
        for number in range(2):
            primary = servers.primary()
            servers.hosts[primary].kill(power=True)
            gone.append(primary)
            servers.until(lambda: servers.primary() not in ("", *gone))
            reply = servers.asked(servers.primary(), Put(R, b"%d" % number, b"v"))
            self.assertIsInstance(reply, Ok)
        for name in gone:
            servers.hosts[name].start()
        servers.ready()
        servers.run(0.5)
        held = [servers.cells(name, R) for name in servers.hosts]
        self.assertEqual(len(held[0]), 2)
        self.assertEqual(held[1:], [held[0]] * 2)

    def test_all_restart(self) -> None:
        """What was answered is there; nothing is committed for having been on one disk only."""
        servers = self.serve()
        primary = servers.primary()
        reply = servers.asked(primary, Put(R, b"c", b"v"), ID)
        for host in servers.hosts.values():
            host.kill(power=True)
        for host in servers.hosts.values():
            host.start()
        servers.ready()
        primary = servers.primary()
        self.assertEqual(servers.asked(primary, Put(R, b"c", b"v"), ID), reply)
        servers.run(0.2)
        held = [servers.cells(name, R) for name in servers.hosts]
        self.assertEqual(held, [held[0]] * 3)

    def test_a_primary_that_is_cut_off(self) -> None:
        """It answers no read by its lease, and UNKNOWN once it hears of its successor; what it alone had
        goes to quarantine, not into cells."""
        servers = self.serve()
        old = servers.primary()
        servers.asked(old, Put(R, b"c", b"old"))
        servers.isolate(old)
        doubtful = servers.ask(old, Put(R, b"lost", b"x"))
        servers.until(lambda: bool(servers.primary_but(old)))
        new = servers.primary_but(old)
        written = servers.asked(new, Put(R, b"c", b"new"))
        assert isinstance(written, Ok)
        self.assertIsInstance(servers.asked(old, Get(R, b"c")), Busy)
        self.assertEqual(doubtful, [])
        servers.mend()
        servers.until(lambda: bool(doubtful))
        self.assertEqual(doubtful, [Unknown()])
        servers.ready()
        servers.run(0.3)
        self.assertEqual(servers.cells(old, R), {b"c": (written.version, b"new")})
        disk = servers.hosts[old].disk
        self.assertTrue(disk.listdir("quarantine"))

    def test_a_wiped_server(self) -> None:
        """It is no member until it has everything again."""
        servers = self.serve()
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        reply = servers.asked(primary, Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        servers.kill(other, wiped=True)
        servers.hosts[other].start()
        servers.until(lambda: len(servers.coordinator.tablet().members) == 2)
        servers.ready()
        servers.run(0.2)
        self.assertEqual(servers.cells(other, R), {b"c": (reply.version, b"v")})

    def test_a_wiped_server_gets_a_checkpoint(self) -> None:
        """Where the logs do not reach back, the files come."""
        servers = self.serve(checkpoint_writes=10, memtable_bytes=64 * 1024)
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        servers.kill(other, wiped=True)
        for number in range(60):
            servers.asked(primary, Put(R, b"%d" % number, b"v" * 1000), RequestId(b"x", number))
        servers.hosts[other].start()
        servers.ready()
        servers.run(0.5)
        self.assertEqual(servers.cells(other, R), servers.cells(primary, R))
        servers.hosts[primary].kill(power=True)
        servers.until(lambda: servers.primary() not in ("", primary))
        again = servers.asked(servers.primary(), Put(R, b"5", b"v" * 1000), RequestId(b"x", 5))
        self.assertIsInstance(again, Ok)
        self.assertNotEqual(servers.cells(servers.primary(), R), {})


class WatchTests(ServersTestCase):
    """Hints may come twice; none gets lost."""

    def watch(self, servers: Servers, name: str) -> list[tuple[bytes, int]]:
        """Watch the row at a server; what is heard of it."""
        heard: list[tuple[bytes, int]] = []

        class Watcher:
            def changed(self, row: bytes, version: int) -> None:
                heard.append((row, version))

        process = servers.hosts[name].process
        assert process is not None
        tablets = servers.node(name)._tablets
        process.execute(lambda: tablets.watch(Watch(R), Watcher()))
        return heard

    def test_a_commit(self) -> None:
        """The primary tells of it."""
        servers = self.serve()
        primary = servers.primary()
        heard = self.watch(servers, primary)
        reply = servers.asked(primary, Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        self.assertEqual(heard, [(R, reply.version)])

    def test_a_primary_that_is_cut_off(self) -> None:
        """What its successor commits it cannot know: its watchers are sent to look, once."""
        servers = self.serve()
        old = servers.primary()
        heard = self.watch(servers, old)
        servers.isolate(old)
        servers.run(6.0)
        self.assertEqual(heard, [(R, 0)])

    def test_a_hand_over(self) -> None:
        """A server that stops in order lets another lead first, and says so."""
        servers = self.serve()
        old = servers.primary()
        heard = self.watch(servers, old)
        servers.hosts[old].restart()
        servers.until(lambda: servers.primary_but(old) != "")
        self.assertEqual(set(heard), {(R, 0)})
        servers.ready()


class DiskTests(ServersTestCase):
    """A disk that is full, and one that fails."""

    def test_stopped_while_it_makes_room(self) -> None:
        """The engine closes then: nothing is asked of it for further tablets."""
        servers = self.serve()
        replicas = servers.node(servers.primary())._replicas
        asked: list[Any] = []

        class Full:
            full = True

            async def make_room(self) -> None:
                asked.append(self)
                replicas.stop()

            def end(self) -> None:
                """Nothing."""

        ones: Any = {1: Full(), 2: Full()}
        self.patch(replicas, "members", ones)
        self.successResultOf(Deferred.fromCoroutine(replicas._make_room()))
        self.assertEqual(asked, [ones[1]])

    def test_a_full_disk_of_a_secondary(self) -> None:
        """It is removed, the others go on; with room it comes back."""
        servers = self.serve(memtable_bytes=64 * 1024)
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        servers.hosts[other].full(True)
        for number in range(200):
            reply = servers.asked(primary, Put(R, b"%d" % number, b"v" * 10_000))
            self.assertIsInstance(reply, Ok)
        self.assertNotIn(other, servers.coordinator.tablet().members)
        servers.hosts[other].full(False)
        servers.ready()
        servers.run(0.5)
        self.assertEqual(len(servers.cells(other, R)), 200)

    def test_a_full_disk_of_the_primary(self) -> None:
        """Somebody else leads; what waited may be repeated there."""
        servers = self.serve(memtable_bytes=64 * 1024)
        primary = servers.primary()
        servers.hosts[primary].full(True)
        number = 0
        while servers.primary() == primary:
            number += 1
            servers.ask(primary, Put(R, b"%d" % number, b"v" * 10_000))
            servers.run(0.01)
            self.assertLess(number, 2000)
        servers.until(lambda: servers.primary() not in ("", primary))
        self.assertIsInstance(servers.asked(servers.primary(), Put(R, b"c", b"v"), ID), Ok)
        servers.hosts[primary].full(False)
        servers.ready()

    def test_a_failed_sync(self) -> None:
        """The process ends; the others go on without it, and it comes back."""
        servers = self.serve()
        primary = servers.primary()
        servers.hosts[primary].disk.fail_next_sync = True
        answers = servers.ask(primary, Put(R, b"c", b"v"), ID)
        servers.until(lambda: servers.primary() not in ("", primary))
        self.assertIn(answers, ([], [Unknown()]))
        again = servers.asked(servers.primary(), Put(R, b"c", b"v"), ID)
        self.assertIsInstance(again, Ok)
        servers.ready()


class AloneTests(ServersTestCase):
    """One server."""

    def test_one_server(self) -> None:
        """It serves, is restarted, and serves again when the coordinators say so."""
        servers = self.serve(count=1)
        reply = servers.asked("s1", Put(R, b"c", b"v"), ID)
        servers.hosts["s1"].kill(power=True)
        servers.hosts["s1"].start()
        servers.ready()
        self.assertEqual(servers.asked("s1", Put(R, b"c", b"v"), ID), reply)
        self.assertEqual(servers.asked("s1", Get(R, b"none")), Missing())

    def test_a_full_disk_heals(self) -> None:
        """Writes are refused for as long, reads wait for a new configuration, nothing is lost."""
        servers = self.serve(count=1, memtable_bytes=64 * 1024)
        reply = servers.asked("s1", Put(R, b"c", b"v"))
        assert isinstance(reply, Ok)
        servers.hosts["s1"].full(True)
        for number in range(300):
            servers.ask("s1", Put(b"other", b"%d" % number, b"v" * 10_000))
            servers.run(0.01)
        self.assertIsInstance(servers.asked("s1", Put(R, b"d", b"v")), Busy)
        servers.hosts["s1"].full(False)
        servers.ready()
        self.assertEqual(servers.asked("s1", Get(R, b"c")), Value(reply.version, b"v"))
        self.assertIsInstance(servers.asked("s1", Put(R, b"d", b"v")), Ok)
