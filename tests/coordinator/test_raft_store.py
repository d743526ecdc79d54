"""Term, vote, log and snapshot of a Raft node, through crashes."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator import raft_store
from penncloud.coordinator.raft_store import LOG, Kept, RaftStore, RaftStoreDamaged, inspect
from penncloud.platform.errors import DiskFailed, DiskFull
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.raft.messages import Entry, HardState, Membership, Snapshot

_T = TypeVar("_T")

MEMBERS = Membership(frozenset({"c1", "c2"}), frozenset({"c3"}))


def entry(index: int, term: int = 1, data: bytes = b"x") -> Entry:
    return Entry(index, term, "command", data)


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.disk = MemoryDisk(self.clock, random.Random(4))

    def _wait(self, work: Awaitable[_T]) -> _T:
        done: Deferred[_T] = Deferred.fromCoroutine(work)  # type: ignore[arg-type]
        for _ in range(400):
            if done.called:
                break
            self.clock.advance(0.001)
        return self.successResultOf(done)

    def _new(self) -> RaftStore:
        store = RaftStore(self.disk, self.clock, segment_bytes=4096)
        self.assertIsNone(self._wait(store.open()))
        self._wait(store.found(MEMBERS, b"state"))
        return store

    def _open(self) -> tuple[RaftStore, Kept]:
        store = RaftStore(self.disk, self.clock, segment_bytes=4096)
        kept = self._wait(store.open())
        assert kept is not None
        return store, kept

    def _crash(self) -> None:
        self.disk = self.disk.crash()

    def test_founded(self) -> None:
        """A new group is an empty log, and is remembered as one."""
        self._new()
        self._crash()
        _, kept = self._open()
        self.assertEqual(kept, Kept(HardState(), Snapshot(0, 0, MEMBERS, b"state"), ()))

    def test_save(self) -> None:
        """All that was saved is there after a power cut; a membership entry with its members."""
        store = self._new()
        change = Entry(2, 1, "membership", b"", MEMBERS)
        self._wait(store.save(HardState(1, "c2"), None, [entry(1), change]))
        self._wait(store.save(HardState(4, "c1"), None, []))
        self._wait(store.save(None, None, [entry(3, 4)]))
        self._crash()
        _, kept = self._open()
        self.assertEqual(kept.hard_state, HardState(4, "c1"))
        self.assertEqual(kept.entries, (entry(1), change, entry(3, 4)))

    def test_overwritten(self) -> None:
        """Entries of a new leader take the place of the old ones and of all behind them."""
        store = self._new()
        self._wait(store.save(None, None, [entry(1), entry(2), entry(3)]))
        self._wait(store.save(HardState(2, ""), None, [entry(2, 2)]))
        self._crash()
        _, kept = self._open()
        self.assertEqual(kept.entries, (entry(1), entry(2, 2)))

    def test_compacted(self) -> None:
        """The log is bounded: what a snapshot covers goes, what is behind it stays, and so do
        term and vote, though they were written long before."""
        store = self._new()
        self._wait(store.save(HardState(1, "c2"), None, []))
        for index in range(1, 101):
            self._wait(store.save(None, None, [entry(index, data=bytes(500))]))
            if index % 20 == 0:
                snapshot = Snapshot(index - 1, 1, MEMBERS, b"at %d" % index)
                self._wait(store.compact(snapshot, [entry(index, data=bytes(500))]))
        segments = [name for name in self.disk.listdir(LOG) if name.endswith(".log")]
        self.assertLess(len(segments), 6)
        self._crash()
        _, kept = self._open()
        expected = Snapshot(99, 1, MEMBERS, b"at 100"), (entry(100, data=bytes(500)),)
        self.assertEqual((kept.snapshot, kept.entries), expected)
        self.assertEqual(kept.hard_state, HardState(1, "c2"))

    def test_installed(self) -> None:
        """A leader's snapshot replaces the log, also where that was longer."""
        store = self._new()
        self._wait(store.save(None, None, [entry(i) for i in range(1, 10)]))
        snapshot = Snapshot(5, 3, MEMBERS, b"of the leader")
        self._wait(store.save(HardState(3, ""), snapshot, []))
        self._wait(store.save(None, None, [entry(6, 3)]))
        self._crash()
        _, kept = self._open()
        self.assertEqual((kept.snapshot, kept.entries), (snapshot, (entry(6, 3),)))

    @given(st.integers(0, 2**32), st.integers(1, 60))
    @settings(max_examples=150, deadline=None)
    def test_power_cut_anywhere(self, seed: int, operation: int) -> None:
        """At whatever moment the power goes: what was saved is there, what was being saved is there
        or not, and nothing else is."""
        chance = random.Random(seed)
        self.disk = MemoryDisk(self.clock, chance)
        store = self._new()
        self.disk.unplug_at = self.disk.operations + operation
        hard, snapshot, log = HardState(), Snapshot(0, 0, MEMBERS, b"state"), list[Entry]()
        possible = [(hard, snapshot, tuple(log))]
        while not self.disk.dead:
            before = hard, snapshot, tuple(log)
            roll = chance.random()
            term = max(1, hard.term + (roll < 0.3))
            last = snapshot.index + len(log)
            if roll < 0.75:
                start = chance.randint(snapshot.index + 1, last + 1)
                new = [entry(start + i, term, chance.randbytes(60)) for i in range(3)]
                hard = HardState(term, "c1")
                log[start - snapshot.index - 1 :] = new
                work = store.save(hard, None, new)
            elif log and roll < 0.9:
                snapshot = Snapshot(log[0].index, log[0].term, MEMBERS, chance.randbytes(40))
                del log[0]
                work = store.compact(snapshot, tuple(log))
            else:
                snapshot = Snapshot(last + 2, hard.term + 1, MEMBERS, b"installed")
                hard = HardState(hard.term + 1, "")
                log.clear()
                work = store.save(hard, snapshot, [])
            done = Deferred.fromCoroutine(work)
            for _ in range(60):
                if done.called or self.disk.dead:
                    break
                self.clock.advance(0.001)
            after = hard, snapshot, tuple(log)
            possible = [after] if done.called else [before, after]
            done.addErrback(lambda _: None)
        self.disk = self.disk.crash()
        _, kept = self._open()
        found = kept.hard_state, kept.snapshot, kept.entries
        if found in possible:
            return
        # Of a write under way the snapshot may be there without the rest, or a batch in part.
        (old_hard, old_snapshot, old_log), (new_hard, new_snapshot, new_log) = possible
        self.assertIn(kept.snapshot, (old_snapshot, new_snapshot))
        self.assertIn(kept.hard_state.term, (old_hard.term, new_hard.term))
        self.assertTrue(all(e in old_log or e in new_log for e in kept.entries))

    def test_torn_end(self) -> None:
        """What was being written is cut off; it was never acknowledged."""
        store = self._new()
        self._wait(store.save(HardState(1, "c1"), None, [entry(1)]))
        Deferred.fromCoroutine(store.save(None, None, [entry(2)])).addErrback(lambda _: None)
        self._crash()
        store, kept = self._open()
        self.assertEqual(kept.entries[:1], (entry(1),))
        self._wait(store.save(None, None, [entry(len(kept.entries) + 1)]))

    def _flip(self, path: str, needle: bytes) -> None:
        content = bytearray(self.disk.read(path))
        content[content.index(needle)] ^= 1
        self.disk.replace(path, bytes(content))
        self.clock.advance(1)

    def test_corrupt_log(self) -> None:
        """Damage to what had been synced is an error in words, not a shorter log."""
        store = self._new()
        self._wait(store.save(HardState(1, "c1"), None, [entry(1, data=b"needle")]))
        for index in range(2, 5):
            self._wait(store.save(None, None, [entry(index)]))
        self._crash()
        [path] = [
            f"{LOG}/{name}"
            for name in self.disk.listdir(LOG)
            if b"needle" in self.disk.read(f"{LOG}/{name}")
        ]
        self._flip(path, b"needle")
        _, damages = inspect(self.disk)
        self.assertTrue(damages)
        opened = Deferred.fromCoroutine(RaftStore(self.disk, self.clock).open())
        for _ in range(100):
            self.clock.advance(0.001)
        self.failureResultOf(opened, RaftStoreDamaged)

    def test_corrupt_snapshot(self) -> None:
        """So is a damaged snapshot."""
        self._new()
        self._flip(raft_store.SNAPSHOT, b"state")
        opened = Deferred.fromCoroutine(RaftStore(self.disk, self.clock).open())
        self.failureResultOf(opened, RaftStoreDamaged)

    def test_inspect(self) -> None:
        """Looking changes nothing and shows what a start would find."""
        store = self._new()
        self._wait(store.save(HardState(2, "c1"), None, [entry(1), entry(2, 2)]))
        names = self.disk.listdir(LOG)
        kept, damages = inspect(self.disk)
        assert kept is not None
        self.assertEqual(
            (kept.hard_state, kept.entries), (HardState(2, "c1"), (entry(1), entry(2, 2)))
        )
        self.assertEqual(damages, [])
        self.assertEqual(self.disk.listdir(LOG), names)

    def test_disk_full(self) -> None:
        """Without room nothing is saved; with room the same can be saved again."""
        store = self._new()
        self._wait(store.save(HardState(1, "c1"), None, [entry(1)]))
        self.disk.faults[self.disk.operations] = Fault.FULL
        refused = Deferred.fromCoroutine(store.save(None, None, [entry(2)]))
        for _ in range(20):
            self.clock.advance(0.001)
        self.failureResultOf(refused, DiskFull)
        self._wait(store.save(None, None, [entry(2)]))
        self._crash()
        self.assertEqual(self._open()[1].entries, (entry(1), entry(2)))

    def test_disk_failed(self) -> None:
        """After a failed sync nothing is called saved."""
        store = self._new()
        self.disk.faults[self.disk.operations] = Fault.FAIL
        refused = Deferred.fromCoroutine(store.save(None, None, [entry(1)]))
        for _ in range(20):
            self.clock.advance(0.001)
        self.failureResultOf(refused, DiskFailed)
