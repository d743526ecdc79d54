"""One storage server's part of a backup: hold writes for a moment, and keep snapshots while they are read.

See `backup_messages` for the protocol. Both end by themselves when nobody asks any more: a backup that was
killed leaves neither waiting writers nor files that cannot be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.errors import NoSuchTablet
from penncloud.lsm.memtable import StoredCell
from penncloud.lsm.snapshot import Snapshot
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol
from penncloud.storage.backup_messages import (
    HELD,
    HOLD_ENDED,
    NO_SNAPSHOT,
    CloseSnapshots,
    Done,
    Held,
    HeldTablet,
    HoldWrites,
    ReadCell,
    ReadSnapshot,
    ReleaseWrites,
    SnapshotCell,
    SnapshotPage,
    SnapshotsTaken,
    SnapshotTaken,
    TakeSnapshots,
)
from penncloud.storage.service import Service
from penncloud.storage.watches import Watcher
from penncloud.wire.limits import MAX_SCAN_BYTES, MAX_SCAN_CELLS
from penncloud.wire.messages import (
    Get,
    Mutation,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unwatch,
    Watch,
)

# Who may back up: a command of an administrator.
CALLERS: Final = frozenset(("admin",))

# The longest hold: as long as a client waits anyway when a primary dies.
MAX_HOLD_S: Final = 2.0
# Snapshots that nobody reads for so long are given up: their files cannot be removed meanwhile.
IDLE_S: Final = 120.0
# Sets of snapshots at the same time: a backup, and one whose program was just killed.
MAX_SETS: Final = 4


class WriteGate:
    """The service of the clients, whose mutations wait while the gate is closed.

    How many wait is bounded by the requests that connections may have under way.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: list[Callable[[], None]] = []
        self.is_closed = False

    def close(self) -> None:
        """Begin no mutation from now on."""
        self.is_closed = True

    def open(self) -> None:
        """Begin those that wait, in their order."""
        self.is_closed = False
        waiting, self._waiting = self._waiting, []
        for begin in waiting:
            begin()

    def mutate(self, mutation: Mutation, request_id: RequestId | None) -> Reply | Deferred[Reply]:
        if not self.is_closed:
            return self._service.mutate(mutation, request_id)
        result: Deferred[Reply] = Deferred()

        def begin() -> None:
            try:
                answer = self._service.mutate(mutation, request_id)
            except Exception:  # noqa: BLE001 - it is told to the one who waits
                result.errback(Failure())
                return
            if isinstance(answer, Deferred):
                answer.chainDeferred(result)
            else:
                result.callback(answer)

        self._waiting.append(begin)
        return result

    def get(self, request: Get) -> Reply | Deferred[Reply]:
        return self._service.get(request)

    def scan(self, request: Scan) -> Reply | Deferred[Reply]:
        return self._service.scan(request)

    def scan_tablet(self, request: ScanTablet) -> Reply | Deferred[Reply]:
        return self._service.scan_tablet(request)

    def watch(self, request: Watch, watcher: Watcher) -> Reply:
        return self._service.watch(request, watcher)

    def unwatch(self, request: Unwatch, watcher: Watcher) -> Reply:
        return self._service.unwatch(request, watcher)


class SnapshotEngine(Protocol):
    """The part of `lsm.engine.Engine` that is used here."""

    def snapshot(self, tablet: int) -> Snapshot: ...


@define
class _Set:
    """The snapshots of one backup, by tablet."""

    snapshots: dict[int, Snapshot]
    expiry: Any

    def close(self) -> None:
        if self.expiry.active():
            self.expiry.cancel()
        for snapshot in self.snapshots.values():
            snapshot.close()
        self.snapshots = {}


class BackupServer:
    """Answers the calls of a backup. `primary_of` gives the tablets that this server is the primary of.

    `clock` has IReactorTime.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        engine: SnapshotEngine,
        gate: WriteGate,
        primary_of: Callable[[], Sequence[HeldTablet]],
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._gate = gate
        self._primary_of = primary_of
        self._hold = 0
        self._hold_ends: Any = None
        self._sets: dict[int, _Set] = {}
        self._last_set = 0

    def serve(self, calls: Calls) -> None:
        calls.on_call(HoldWrites, self._hold_writes, CALLERS)
        calls.on_call(TakeSnapshots, self._take, CALLERS)
        calls.on_call(ReleaseWrites, self._release, CALLERS)
        calls.on_call(ReadSnapshot, self._read, CALLERS)
        calls.on_call(ReadCell, self._read_cell, CALLERS)
        calls.on_call(CloseSnapshots, self._close, CALLERS)

    def stop(self) -> None:
        """Let nobody wait, and hold no file."""
        self._let_go()
        for number in list(self._sets):
            self._sets.pop(number).close()

    # -- the hold --------------------------------------------------------------------------------

    def _hold_writes(self, connection: RpcProtocol, call: HoldWrites) -> Held:
        if self._hold_ends is not None:
            raise Refusal(HELD, "writes are held for another backup")
        lease_s = call.lease_ms / 1000
        if not 0 < lease_s <= MAX_HOLD_S:
            raise Refusal("FORMAT", f"a hold lasts up to {MAX_HOLD_S:g} s")
        self._hold += 1
        self._hold_ends = self._clock.callLater(lease_s, self._hold_expired)
        self._gate.close()
        return Held(self._hold, list(self._primary_of()))

    def _hold_expired(self) -> None:
        self._hold_ends = None
        self._gate.open()
        self.log.warn("a hold of writes has ended by itself: its backup was too slow, or is gone")

    def _let_go(self) -> None:
        if self._hold_ends is not None:
            self._hold_ends.cancel()
            self._hold_ends = None
            self._gate.open()

    def _release(self, connection: RpcProtocol, call: ReleaseWrites) -> Done:
        if call.hold == self._hold:
            self._let_go()
        return Done()

    def _check_hold(self, hold: int) -> None:
        if self._hold_ends is None or hold != self._hold:
            raise Refusal(HOLD_ENDED, "the hold of writes has ended before the snapshots")

    # -- snapshots -------------------------------------------------------------------------------

    def _take(self, connection: RpcProtocol, call: TakeSnapshots) -> SnapshotsTaken:
        self._check_hold(call.hold)
        if len(self._sets) >= MAX_SETS:
            raise Refusal("LIMIT", f"{MAX_SETS} backups are under way")
        taken: dict[int, Snapshot] = {}
        try:
            for tablet in call.tablets:
                taken[tablet] = self._engine.snapshot(tablet)
        except BaseException as error:
            for snapshot in taken.values():
                snapshot.close()
            if isinstance(error, NoSuchTablet):
                raise Refusal(NO_SNAPSHOT, str(error)) from error
            raise
        self._last_set += 1
        number = self._last_set
        expiry = self._clock.callLater(IDLE_S, self._expired, number)
        self._sets[number] = _Set(taken, expiry)
        versions = [SnapshotTaken(tablet, taken[tablet].version) for tablet in call.tablets]
        return SnapshotsTaken(number, versions)

    def _expired(self, number: int) -> None:
        self.log.warn("snapshots of a backup are given up: nobody reads them")
        self._sets.pop(number).close()

    def _snapshot(self, number: int, tablet: int) -> Snapshot:
        found = self._sets.get(number)
        if found is None or tablet not in found.snapshots:
            raise Refusal(NO_SNAPSHOT, f"there is no snapshot {number} of tablet {tablet}")
        found.expiry.reset(IDLE_S)
        return found.snapshots[tablet]

    def _read(self, connection: RpcProtocol, call: ReadSnapshot) -> SnapshotPage:
        if not 0 < call.limit <= MAX_SCAN_CELLS or call.max_value < 0:
            raise Refusal("FORMAT", f"a limit is between 1 and {MAX_SCAN_CELLS}")
        cells: list[SnapshotCell] = []
        held = 0
        for cell in self._snapshot(call.snapshot, call.tablet).scan_tablet(call.row, call.col):
            shown = cell.value[: call.max_value]
            if len(cells) == call.limit or (cells and held + len(shown) > MAX_SCAN_BYTES):
                return SnapshotPage(cells, True)
            cells.append(SnapshotCell(cell.row, cell.col, cell.version, len(cell.value), shown))
            held += len(shown)
        return SnapshotPage(cells, False)

    def _read_cell(self, connection: RpcProtocol, call: ReadCell) -> SnapshotPage:
        found: StoredCell | None
        found = self._snapshot(call.snapshot, call.tablet).get(call.row, call.col)
        if found is None:
            return SnapshotPage([], False)
        size = len(found.value)
        return SnapshotPage(
            [SnapshotCell(call.row, call.col, found.version, size, found.value)], False
        )

    def _close(self, connection: RpcProtocol, call: CloseSnapshots) -> Done:
        found = self._sets.pop(call.snapshot, None)
        if found is not None:
            found.close()
        return Done()
