"""Twin of `penncloud.storage.backup`: the hold of writes, and snapshots that are read while writes go on."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import NoSuchTablet
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.tablet import ScannedCell
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.storage.backup import IDLE_S, MAX_HOLD_S, MAX_SETS, BackupServer, WriteGate
from penncloud.storage.backup_messages import (
    CloseSnapshots,
    Held,
    HeldTablet,
    HoldWrites,
    ReadCell,
    ReadSnapshot,
    ReleaseWrites,
    SnapshotPage,
    SnapshotsTaken,
    TakeSnapshots,
)
from penncloud.wire.messages import Get, Missing, Ok, Put

TABLET = HeldTablet(1, 0, 1 << 32, 4)
_CELLS = [(b"r", b"a", b"x" * 10), (b"r", b"b", b"y"), (b"s", b"a", b"z")]


class _Snapshot:
    version = 7

    def __init__(self, held: list[_Snapshot]) -> None:
        self._held = held
        held.append(self)

    def scan_tablet(self, row: bytes = b"", col: bytes = b"") -> Any:
        for at_row, at_col, value in _CELLS:
            if (at_row, at_col) >= (row, col):
                yield ScannedCell(at_row, at_col, 3, value)

    def get(self, row: bytes, col: bytes) -> StoredCell | None:
        for at_row, at_col, value in _CELLS:
            if (at_row, at_col) == (row, col):
                return StoredCell(3, value)
        return None

    def close(self) -> None:
        self._held.remove(self)


class _Engine:
    def __init__(self) -> None:
        self.held: list[_Snapshot] = []

    def snapshot(self, tablet: int) -> Any:
        if tablet != 1:
            raise NoSuchTablet(tablet)
        return _Snapshot(self.held)


class _Service:
    """Notes the order in which mutations begin."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []

    def mutate(self, mutation: Put, request_id: object) -> Ok | Deferred[Ok]:
        self.begun.append(mutation.row)
        if mutation.row == b"broken":
            raise ValueError("broken")
        return Ok(len(self.begun))

    def get(self, request: Get) -> Missing:
        return Missing()


class BackupTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.service = _Service()
        self.gate = WriteGate(cast(Any, self.service))
        self.engine = _Engine()
        self.server = BackupServer(self.clock, self.engine, self.gate, lambda: [TABLET])
        self.calls = Calls()
        self.server.serve(self.calls)

    def ask(self, call: object) -> Any:
        serve, message = self.calls.decode_call(msgspec.Raw(msgspec.msgpack.encode(call)))
        return serve(cast(Any, None), message)

    def refused(self, call: object) -> str:
        with self.assertRaises(Refusal) as caught:
            self.ask(call)
        return str(caught.exception.code)

    def write(self, row: bytes) -> Any:
        return self.gate.mutate(Put(row, b"c", b""), None)

    def snapshots(self) -> SnapshotsTaken:
        held: Held = self.ask(HoldWrites(1000))
        taken: SnapshotsTaken = self.ask(TakeSnapshots(held.hold, [1]))
        self.ask(ReleaseWrites(held.hold))
        return taken


class HoldTests(BackupTestCase):
    def test_writes_wait(self) -> None:
        """Mutations wait while writes are held, and begin in their order; reads go on."""
        held = self.ask(HoldWrites(1000))
        self.assertEqual(held.tablets, [TABLET])
        first, second = self.write(b"first"), self.write(b"second")
        self.assertEqual(self.service.begun, [])
        self.assertEqual(self.gate.get(Get(b"r", b"c")), Missing())
        self.ask(ReleaseWrites(held.hold))
        self.assertEqual(self.service.begun, [b"first", b"second"])
        self.assertEqual(self.successResultOf(first), Ok(1))
        self.assertEqual(self.successResultOf(second), Ok(2))
        self.assertEqual(self.write(b"third"), Ok(3))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_ends_by_itself(self) -> None:
        """A backup that is gone holds nobody up for longer than it said."""
        held = self.ask(HoldWrites(1000))
        waiting = self.write(b"r")
        self.clock.advance(1)
        self.successResultOf(waiting)
        # Too late for a snapshot of that moment.
        self.assertEqual(self.refused(TakeSnapshots(held.hold, [1])), "HOLD_ENDED")
        self.ask(ReleaseWrites(held.hold))

    def test_a_mistake_in_the_service(self) -> None:
        """What a mutation raises reaches the one who waits for it, and nobody else."""
        held = self.ask(HoldWrites(1000))
        broken, fine = self.write(b"broken"), self.write(b"fine")
        self.ask(ReleaseWrites(held.hold))
        self.failureResultOf(broken, ValueError)
        self.successResultOf(fine)

    def test_bounds(self) -> None:
        """One hold at a time, of a bounded length; another backup's hold is not ended."""
        for lease_ms in (0, -1, round(MAX_HOLD_S * 1000) + 1):
            self.assertEqual(self.refused(HoldWrites(lease_ms)), "FORMAT")
        held = self.ask(HoldWrites(1000))
        self.assertEqual(self.refused(HoldWrites(1000)), "HELD")
        self.ask(ReleaseWrites(held.hold - 1))
        self.assertTrue(self.gate.is_closed)
        self.ask(ReleaseWrites(held.hold))

    def test_stop(self) -> None:
        """A server that stops lets nobody wait and holds no file."""
        self.snapshots()
        self.ask(HoldWrites(1000))
        waiting = self.write(b"r")
        self.server.stop()
        self.successResultOf(waiting)
        self.assertEqual(self.engine.held, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SnapshotTests(BackupTestCase):
    def read(self, snapshot: int, row: bytes = b"", col: bytes = b"", limit: int = 100) -> Any:
        page: SnapshotPage = self.ask(ReadSnapshot(snapshot, 1, row, col, limit, 4))
        return [(cell.row, cell.col, cell.size, cell.value) for cell in page.cells], page.more

    def test_pages(self) -> None:
        """Cells come page by page, long values cut; one value can be had whole."""
        taken = self.snapshots()
        self.assertEqual([(t.tablet, t.version) for t in taken.tablets], [(1, 7)])
        page, more = self.read(taken.snapshot, limit=2)
        self.assertEqual(page, [(b"r", b"a", 10, b"xxxx"), (b"r", b"b", 1, b"y")])
        self.assertTrue(more)
        self.assertEqual(
            self.read(taken.snapshot, b"r", b"b\x00"), ([(b"s", b"a", 1, b"z")], False)
        )
        whole = self.ask(ReadCell(taken.snapshot, 1, b"r", b"a"))
        self.assertEqual(whole.cells[0].value, b"x" * 10)
        self.assertEqual(self.ask(ReadCell(taken.snapshot, 1, b"r", b"none")).cells, [])

    def test_closed(self) -> None:
        """A closed snapshot lets go of its files and cannot be read."""
        taken = self.snapshots()
        self.ask(CloseSnapshots(taken.snapshot))
        self.assertEqual(self.engine.held, [])
        self.assertEqual(
            self.refused(ReadSnapshot(taken.snapshot, 1, b"", b"", 1, 1)), "NO_SNAPSHOT"
        )
        self.ask(CloseSnapshots(taken.snapshot))

    def test_given_up(self) -> None:
        """One that nobody reads is given up; each read keeps it."""
        taken = self.snapshots()
        self.clock.advance(IDLE_S - 1)
        self.read(taken.snapshot)
        self.clock.advance(IDLE_S - 1)
        self.assertEqual(len(self.engine.held), 1)
        self.clock.advance(1)
        self.assertEqual(self.engine.held, [])

    def test_unknown_tablet(self) -> None:
        """A tablet that has left is a refusal, and what was taken before it is let go of."""
        held = self.ask(HoldWrites(1000))
        self.assertEqual(self.refused(TakeSnapshots(held.hold, [1, 2])), "NO_SNAPSHOT")
        self.assertEqual(self.engine.held, [])
        self.ask(ReleaseWrites(held.hold))

    def test_bounds(self) -> None:
        """So many backups at a time, and so many cells of a page."""
        for _ in range(MAX_SETS):
            taken = self.snapshots()
        held = self.ask(HoldWrites(1000))
        self.assertEqual(self.refused(TakeSnapshots(held.hold, [1])), "LIMIT")
        self.ask(ReleaseWrites(held.hold))
        for limit in (0, 1001):
            self.assertEqual(
                self.refused(ReadSnapshot(taken.snapshot, 1, b"", b"", limit, 1)), "FORMAT"
            )
        self.server.stop()
