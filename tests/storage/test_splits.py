"""A tablet becomes two while it is used, whoever dies at whichever moment.

`PENNCLOUD_LONG_TESTS=1` in the environment tries many more moments.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from penncloud.placement.tablets import row_hash
from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Get,
    Mutate,
    Ok,
    Put,
    RequestId,
    Value,
    Watch,
)
from tests.storage.servers import WHOLE, Servers

_LONG = bool(os.environ.get("PENNCLOUD_LONG_TESTS"))
LIMIT = 100_000
ROWS = [b"row%d" % number for number in range(150)]


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, int]] = []

    def changed(self, row: bytes, version: int) -> None:
        self.told.append((row, version))


class SplitCase(SynchronousTestCase):
    """Three servers that split at 100 kB, and a client who comes back where it is told to."""

    def serve(self, **settings: object) -> Servers:
        servers = Servers(split_bytes=LIMIT, memtable_bytes=64 * 1024, **settings)  # type: ignore[arg-type]
        servers.ready()
        self.addCleanup(self.check, servers)
        return servers

    def check(self, servers: Servers) -> None:
        self.flushLoggedErrors()
        self.assertFalse(servers.world.errors, "\n".join(servers.world.errors))

    def tablet_of(self, servers: Servers, row: bytes) -> int:
        place = row_hash(row)
        return next(one.id for one in servers.coordinator.tablets if one.lo <= place < one.hi)

    def put(self, servers: Servers, row: bytes, value: bytes, seq: int, col: bytes = b"c") -> Ok:
        """Write until it is done, with one request id, at whoever serves the row."""
        for _attempt in range(200):
            primary = servers.primary(self.tablet_of(servers, row))
            if primary:
                answers = servers.ask(primary, Put(row, col, value), RequestId(b"me", seq))
                if servers.world.run(2.0, lambda a=answers: bool(a)) and isinstance(answers[0], Ok):  # type: ignore[misc]
                    return answers[0]
            servers.run(0.05)
        raise AssertionError("\n".join([f"{row!r} cannot be written", *servers._story()]))

    def fill(self, servers: Servers, rows: list[bytes] = ROWS) -> dict[bytes, Ok]:
        return {row: self.put(servers, row, row * 150, n) for n, row in enumerate(rows)}

    def split(self, servers: Servers) -> None:
        servers.until(lambda: len(servers.coordinator.tablets) > 1, 30)
        self.whole_again(servers)

    def whole_again(self, servers: Servers) -> None:
        """All tablets are served with everybody as a member."""

        def done() -> bool:
            return all(
                set(tablet.members) == set(servers.hosts) and servers.primary(tablet.id)
                for tablet in servers.coordinator.tablets
            )

        servers.until(done, 60)

    def tidy(self, servers: Servers) -> None:
        """The coordinators let everybody drop what is not on the map any more."""
        known = {tablet.id for tablet in servers.coordinator.tablets}
        for name in servers.hosts:
            old = set(servers.node(name)._replicas.members) - known
            servers.coordinator.dropped[name] = sorted(old)
        servers.coordinator.map_version += 1
        servers.coordinator.assign_all()
        servers.run(1)

    def agree(self, servers: Servers, written: dict[bytes, Ok]) -> None:
        """Every server has every row, in the right half, at the version that was answered."""
        servers.run(0.5)
        for row, reply in written.items():
            tablet = self.tablet_of(servers, row)
            for name in servers.hosts:
                self.assertEqual(
                    servers.cells(name, row, tablet)[b"c"], (reply.version, row * 150), (name, row)
                )
        for name in servers.hosts:
            self.assertEqual(
                sorted(servers.node(name)._replicas.members),
                sorted(tablet.id for tablet in servers.coordinator.tablets),
            )


class SplitTests(SplitCase):
    """While all is well."""

    def test_halves(self) -> None:
        """Both halves are served by whoever served the whole; every member has cut its copy alike."""
        servers = self.serve()
        primary = servers.primary()
        written = self.fill(servers)
        self.split(servers)
        self.assertEqual({t.primary for t in servers.coordinator.tablets}, {primary})
        self.assertEqual({t.epoch for t in servers.coordinator.tablets}, {2})
        self.agree(servers, written)
        sizes = [servers.node(primary)._engine.estimate(t.id) for t in servers.coordinator.tablets]
        # And a while later each has only what is its own.
        engine = servers.node(primary)._engine
        self.assertTrue(engine.reaches_out(101))
        servers.run(40)
        for name in servers.hosts:
            for number in servers.node(name)._replicas.members:
                self.assertFalse(servers.node(name)._engine.reaches_out(number))
        self.agree(servers, written)
        self.assertLess(max(s.size_bytes for s in sizes), 3 * min(s.size_bytes for s in sizes))

    def test_writes_go_on(self) -> None:
        """Who writes all the time sees at most BUSY for a moment, and every answer stays true."""
        servers = self.serve()
        self.fill(servers)
        refused = 0.0
        last: dict[bytes, Ok] = {}
        seq = 1000
        while len(servers.coordinator.tablets) == 1 or seq < 1100:
            row = ROWS[seq % len(ROWS)]
            began = servers.world.timeline.now_s
            last[row] = self.put(servers, row, row * 150, seq)
            refused = max(refused, servers.world.timeline.now_s - began)
            seq += 1
            servers.run(0.01)
        self.assertLess(refused, 1.0)
        self.whole_again(servers)
        self.agree(servers, last)

    def test_request_ids(self) -> None:
        """A retry of what was done before the split is answered as then, in either half."""
        servers = self.serve()
        written = self.fill(servers)
        self.split(servers)
        for number, (row, reply) in enumerate(written.items()):
            self.assertEqual(self.put(servers, row, b"other", number), reply)
        self.agree(servers, written)

    def test_watches(self) -> None:
        """A watch from before the split holds after it, in both halves."""
        servers = self.serve()
        self.fill(servers)
        watcher = Watcher()
        process = servers.hosts[servers.primary()].process
        assert process is not None
        tablets = servers.node(servers.primary())._tablets
        watched = ROWS[:10]
        process.execute(lambda: [tablets.watch(Watch(row), watcher) for row in watched])
        self.split(servers)
        self.assertEqual({self.tablet_of(servers, row) for row in watched}, {101, 102})
        watcher.told.clear()
        for number, row in enumerate(watched):
            reply = self.put(servers, row, b"new", 5000 + number)
            self.assertIn((row, reply.version), watcher.told)

    def test_frozen(self) -> None:
        """Until the coordinators have the halves nothing is written, everything is read."""
        servers = self.serve()
        servers.coordinator.deaf_to_splits = True
        self.fill(servers)
        servers.until(lambda: servers.coordinator.split_proposals > 3, 30)
        primary = servers.primary()
        self.assertIsInstance(servers.asked(primary, Put(b"row1", b"d", b"")), Busy)
        self.assertIsInstance(servers.asked(primary, Get(b"row1", b"c")), Value)
        servers.coordinator.deaf_to_splits = False
        self.split(servers)
        self.put(servers, b"row1", b"v", 9000, b"d")

    def test_not_frozen_for_nothing(self) -> None:
        """A tablet is only frozen when a majority of the coordinators has just decided something."""
        servers = self.serve()
        servers.coordinator.leaderless = True
        self.fill(servers)
        servers.until(lambda: servers.coordinator.reservations_refused > 2, 60)
        self.put(servers, b"row1", b"v", 9000, b"d")
        self.assertEqual(servers.coordinator.split_proposals, 0)
        servers.coordinator.leaderless = False
        self.split(servers)

    def test_one_large_row(self) -> None:
        """What cannot be cut is not, and goes on."""
        servers = self.serve()
        primary = servers.primary()
        for number in range(150):
            append = Mutate(b"row", (AppendCell(b"", b"x" * 1000),))
            self.assertIsInstance(servers.asked(primary, append, RequestId(b"me", number)), Ok)
        servers.run(20)
        self.assertEqual(len(servers.coordinator.tablets), 1)
        self.assertIsInstance(servers.asked(primary, Put(b"row", b"d", b"")), Ok)

    def test_dropped(self) -> None:
        """A tablet that has moved away goes from the disk when the coordinators say so, not before."""
        servers = self.serve()
        coordinator = servers.coordinator
        other = next(name for name in servers.hosts if name != servers.primary())
        self.put(servers, b"row", b"v", 1)
        coordinator.dropped[other] = [WHOLE]
        coordinator.assign_all()
        servers.run(1)
        self.assertTrue(servers.node(other)._engine.has(WHOLE))
        hidden = [tablet for tablet in coordinator.tablets if tablet.id == WHOLE]
        coordinator.tablets = []
        coordinator.map_version += 1
        coordinator.assign_all()
        servers.run(1)
        self.assertFalse(servers.node(other)._engine.has(WHOLE))
        self.assertTrue(servers.node(servers.up()[0])._engine.has(WHOLE) or hidden)


class SplitTroubleTests(SplitCase):
    """Somebody dies, or hears of it late."""

    def _until_frozen(self, servers: Servers) -> str:
        servers.coordinator.deaf_to_splits = True
        primary = servers.primary()
        servers.until(lambda: servers.member(primary).tablet.split is not None, 30)
        return primary

    def test_the_primary_dies_before_it_has_told(self) -> None:
        """The next primary finds the split in its log and goes on with it."""
        for power in (False, True):
            servers = self.serve()
            written = self.fill(servers)
            primary = self._until_frozen(servers)
            servers.hosts[primary].kill(power=power)
            servers.coordinator.deaf_to_splits = False
            servers.until(lambda s=servers: len(s.coordinator.tablets) > 1, 30)  # type: ignore[misc]
            servers.hosts[primary].start()
            self.whole_again(servers)
            self.agree(servers, written)

    def test_everybody_dies_in_between(self) -> None:
        """The split is on every disk, in the log or in a checkpoint's blob."""
        for flushed in (False, True):
            servers = self.serve()
            written = self.fill(servers)
            self._until_frozen(servers)
            servers.run(1)
            if flushed:
                for name in servers.hosts:
                    servers.node(name)._engine.checkpoint(WHOLE)
                servers.run(1)
            for host in servers.hosts.values():
                host.kill(power=True)
            servers.coordinator.deaf_to_splits = False
            for host in servers.hosts.values():
                host.start()
            servers.until(lambda s=servers: len(s.coordinator.tablets) > 1, 30)  # type: ignore[misc]
            self.whole_again(servers)
            self.agree(servers, written)

    def test_a_member_hears_of_it_late(self) -> None:
        """A member that was down when the map changed cuts its copy when it is back."""
        servers = self.serve()
        written = self.fill(servers)
        primary = self._until_frozen(servers)
        servers.run(0.5)
        other = next(name for name in servers.hosts if name != primary)
        servers.hosts[other].kill(power=True)
        servers.coordinator.deaf_to_splits = False
        servers.until(lambda: len(servers.coordinator.tablets) > 1, 30)
        fetched = sum(servers.node(name)._copies.sent_bytes for name in servers.up())
        servers.hosts[other].start()
        self.whole_again(servers)
        self.agree(servers, written)
        now = sum(servers.node(name)._copies.sent_bytes for name in servers.up())
        self.assertEqual(now, fetched, "it had everything")

    def test_a_member_that_was_away_all_the_time(self) -> None:
        """One that has not got the split's entry fetches both halves; its old copy goes when it may."""
        servers = self.serve()
        primary = servers.primary()
        other = next(name for name in servers.hosts if name != primary)
        self.put(servers, b"row1", b"v", 10_000)
        servers.hosts[other].kill(power=True)
        servers.until(lambda: other not in servers.coordinator.tablet().members)
        written = self.fill(servers)
        servers.until(lambda: len(servers.coordinator.tablets) > 1, 30)
        servers.hosts[other].start()
        self.whole_again(servers)
        servers.run(1)
        self.assertIn(WHOLE, servers.node(other)._replicas.members)
        self.tidy(servers)
        self.agree(servers, written)

    def test_a_wiped_member(self) -> None:
        """A member whose disk is gone fetches both halves from nothing."""
        servers = self.serve()
        written = self.fill(servers)
        self.split(servers)
        other = next(n for n in servers.hosts if n != servers.coordinator.tablets[0].primary)
        servers.kill(other, wiped=True)
        servers.run(2)
        servers.hosts[other].start()
        self.whole_again(servers)
        self.tidy(servers)
        self.agree(servers, written)

    def test_power_cuts_while_cutting(self) -> None:
        """A server that dies at any operation of its disk while it cuts has the whole, or both halves."""
        for operation in range(0, 40, 1 if _LONG else 7):
            servers = self.serve(seed=operation)
            written = self.fill(servers)
            primary = self._until_frozen(servers)
            other = next(name for name in servers.hosts if name != primary)
            servers.run(0.5)
            servers.hosts[other].disk.operations_left = operation
            servers.coordinator.deaf_to_splits = False
            servers.until(lambda s=servers: len(s.coordinator.tablets) > 1, 30)  # type: ignore[misc]
            servers.run(2)
            servers.hosts[other].kill(power=True)
            servers.hosts[other].disk.operations_left = None
            servers.hosts[other].start()
            self.whole_again(servers)
            self.tidy(servers)
            self.agree(servers, written)

    def test_rolling_kills(self) -> None:
        """Primaries die one after the other while tablets split again and again; nothing is lost."""
        servers = self.serve()
        written: dict[bytes, Ok] = {}
        seq = 0
        for round_ in range(6):
            rows = [b"r%d-%d" % (round_, n) for n in range(60)]
            for row in rows:
                written[row] = self.put(servers, row, row * 150, seq)
                seq += 1
            victim = servers.coordinator.tablets[round_ % len(servers.coordinator.tablets)].primary
            servers.hosts[victim].kill(power=True)
            servers.run(1)
            servers.hosts[victim].start()
        servers.until(lambda: len(servers.coordinator.tablets) > 2, 60)
        self.whole_again(servers)
        self.tidy(servers)
        self.whole_again(servers)
        self.agree(servers, written)
