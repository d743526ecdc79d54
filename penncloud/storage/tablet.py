"""One tablet at its primary: mutations decided in version order, made durable, committed, answered.

Theory of operation
    A mutation passes four stations. It is *decided* against the prepared state and gets the next
    version; its entry is *written* to the journal; once durable it is *committed* in version order
    (request id recorded, cells applied); then it is *answered* and watchers are told. With replication,
    "durable" will also mean: acknowledged by every member; nothing else changes here.

    A mutation that fails its comparison and has no request id leaves no entry: it is answered as soon as
    what it saw has committed. One with a request id does leave an entry, without effects: otherwise a
    delayed duplicate could succeed after the client had been told that it failed.

    What is under way is bounded in number and bytes; beyond that the answer is -BUSY.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.entry import Entry, PutEffect
from penncloud.lsm.errors import TabletDamaged
from penncloud.lsm.tablet import ScannedCell
from penncloud.platform.environment import nothing_broken
from penncloud.storage.decide import NOTHING, Decision, Seen, decide
from penncloud.storage.dedup import (
    DedupTable,
    Failed,
    Outcome,
    Refusal,
    decode_outcome,
    encode_outcome,
    outcome_of,
    reply_of,
)
from penncloud.storage.engine import Engine
from penncloud.storage.journal import DISK_FULL_RETRY_MS, Journal
from penncloud.storage.watches import Watches
from penncloud.wire.limits import MAX_SCAN_BYTES
from penncloud.wire.messages import (
    Busy,
    CellLine,
    Cells,
    Error,
    Mismatch,
    Missing,
    Mutation,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unknown,
    Value,
)

# Mutations of one tablet that are decided and not yet durable.
MAX_IN_FLIGHT: Final = 8192
MAX_IN_FLIGHT_BYTES: Final = 16 * 1024 * 1024
# What a client is told to wait when too much is under way.
RETRY_MS: Final = 20

Answer: TypeAlias = Reply | Deferred[Reply]


@define(eq=False)
class _Prepared:
    """A decided mutation on its way. `waiting` are the answers due when it commits."""

    entry: Entry
    request_id: RequestId | None
    outcome: Outcome | None
    reply: Reply
    size_bytes: int
    waiting: list[tuple[Deferred[Reply], Reply]] = field(factory=list)

    def when_committed(self, reply: Reply) -> Deferred[Reply]:
        answer: Deferred[Reply] = Deferred()
        self.waiting.append((answer, reply))
        return answer


def _recovered(entry: Entry) -> _Prepared:
    """An entry of the log, as it was before the restart; nobody waits for it any more."""
    if not entry.client:
        return _Prepared(entry, None, None, Unknown(), 0)
    request_id = RequestId(entry.client, entry.seq)
    return _Prepared(entry, request_id, decode_outcome(entry.result), Unknown(), 0)


class Tablet:
    """The primary of one tablet as the engine `found` it; `epoch` is that of its configuration.

    Requests raise `lsm.errors.TabletDamaged` once the tablet's files cannot be trusted, and DiskError
    when the disk does not give what was asked.
    """

    def __init__(
        self,
        found: TabletRecovery,
        epoch: int,
        engine: Engine,
        journal: Journal,
        watches: Watches,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        broken: Callable[[str], bool] = nothing_broken,
    ) -> None:
        self.id = found.tablet
        self.epoch = epoch
        self._engine = engine
        self._journal = journal
        self._watches = watches
        self._broken = broken
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._request_ids = DedupTable()
        self._in_flight: deque[_Prepared] = deque()
        self._in_flight_bytes = 0
        # The prepared state: what in-flight mutations will have written, by row and column.
        self._overlay: dict[bytes, dict[bytes, Seen]] = {}
        self._by_id: dict[RequestId, _Prepared] = {}
        self._damage = found.damaged
        self._request_ids.restore(found.meta)
        self.committed = found.version
        # With one member, what is durable is committed.
        if not self._damage:
            self._commit([_recovered(entry) for entry in found.tail])
        engine.set_meta(self.id, self._request_ids.encode)

    @property
    def prepared(self) -> int:
        """The version of the last decided mutation."""
        return self.committed + len(self._in_flight)

    @property
    def is_damaged(self) -> bool:
        """Whether its files cannot be trusted."""
        return bool(self._damage)

    @property
    def in_flight_bytes(self) -> int:
        """What the mutations that are not yet durable hold in memory."""
        return self._in_flight_bytes

    # -- mutations -------------------------------------------------------------------------------

    def mutate(self, mutation: Mutation, request_id: RequestId | None = None) -> Answer:
        """Execute a mutation; exactly once where it has a request id."""
        if self._damage:
            raise TabletDamaged(self.id, self._damage)
        if request_id is not None and not self._broken("request-ids"):
            earlier = self._by_id.get(request_id)
            if earlier is not None:
                return earlier.when_committed(earlier.reply)
            outcome = self._request_ids.find(request_id.client, request_id.seq)
            if outcome is Refusal.BELOW_WINDOW:
                return Error("RQID", "this request id is too old to know whether it was executed")
            if outcome is not None:
                return self._repeat(mutation.row, outcome)
        if self._journal.failed:
            return Busy(DISK_FULL_RETRY_MS)
        if (
            self._journal.full
            or len(self._in_flight) >= self._max_in_flight
            or self._in_flight_bytes >= self._max_in_flight_bytes
        ):
            return Busy(RETRY_MS)
        return self._prepare(mutation, request_id)

    def _prepare(self, mutation: Mutation, request_id: RequestId | None) -> Answer:
        row, version = mutation.row, self.prepared + 1
        decision = decide(mutation, lambda col: self._prepared_cell(row, col), version)
        if decision.failed_at is not None and request_id is None:
            return self._failed(row, decision)
        prepared = self._enter(decision, version, request_id)
        self._in_flight.append(prepared)
        self._in_flight_bytes += prepared.size_bytes
        self._overlay_with(prepared.entry)
        if request_id is not None:
            self._by_id[request_id] = prepared
        self._journal.write(self, prepared.entry)
        if self._broken("answer-when-durable"):
            return decision.reply
        return prepared.when_committed(decision.reply)

    def _enter(self, decision: Decision, version: int, request_id: RequestId | None) -> _Prepared:
        """The entry of a decision."""
        reply, outcome = decision.reply, None
        client, seq, result = b"", 0, b""
        if request_id is not None:
            outcome = outcome_of(reply, decision.failed_at)
            client, seq, result = request_id.client, request_id.seq, encode_outcome(outcome)
        entry = Entry(self.id, version, self.epoch, client, seq, decision.effects, result)
        held = len(reply.value or b"") if isinstance(reply, Mismatch) else 0
        return _Prepared(entry, request_id, outcome, reply, entry.size_bytes + held)

    def _prepared_cell(self, row: bytes, col: bytes) -> Seen:
        pending = self._overlay.get(row, {}).get(col)
        if pending is not None and not self._broken("decide-on-prepared"):
            return NOTHING if pending[1] is None else pending
        stored = self._engine.get(self.id, row, col)
        return NOTHING if stored is None else (stored.version, stored.value)

    def _failed(self, row: bytes, decision: Decision) -> Answer:
        """Answer a failed comparison once what it saw has committed."""
        assert decision.failed_at is not None
        pending = self._overlay.get(row, {}).get(decision.failed_at)
        if pending is None or self._broken("failed-after-what-it-saw"):
            return decision.reply
        writer = self._in_flight[pending[0] - self._in_flight[0].entry.version]
        return writer.when_committed(decision.reply)

    def _repeat(self, row: bytes, outcome: Outcome) -> Reply:
        """The first answer again; a value too long to be remembered is read anew."""
        now = None
        if isinstance(outcome, Failed) and outcome.cut:
            stored = self._engine.get(self.id, row, outcome.col)
            now = Mismatch(0, None) if stored is None else Mismatch(stored.version, stored.value)
        return reply_of(outcome, now)

    def _overlay_with(self, entry: Entry) -> None:
        for effect in entry.effects:
            value = effect.value if isinstance(effect, PutEffect) else None
            cells = self._overlay.setdefault(effect.row, {})
            cells[effect.col] = (entry.version, value)

    # -- what the journal tells ------------------------------------------------------------------

    def durable(self, version: int) -> None:
        """Commit every entry up to `version`, then answer."""
        done: list[_Prepared] = []
        while self._in_flight and self._in_flight[0].entry.version <= version:
            prepared = self._in_flight.popleft()
            self._in_flight_bytes -= prepared.size_bytes
            done.append(prepared)
        self._commit(done)
        for prepared in done:
            for answer, reply in prepared.waiting:
                answer.callback(reply)
        changed = {e.row: p.entry.version for p in done for e in p.entry.effects}
        for row, at in changed.items():
            self._watches.tell(row, at)

    def refused(self, version: int, retry_ms: int) -> None:
        """Take back every decision from `version` on: the disk kept none of them."""
        for prepared in self._take_back(version):
            for answer, _ in prepared.waiting:
                answer.callback(Busy(retry_ms))

    def damaged(self, reason: str) -> None:
        """Take no more mutations: the engine cannot keep them."""
        self._damage = reason

    def lost(self, version: int) -> None:
        """The disk failed: nobody knows what became of the mutations from `version` on."""
        for prepared in self._take_back(version):
            for answer, _ in prepared.waiting:
                answer.callback(Unknown())

    def _commit(self, done: list[_Prepared]) -> None:
        """Let the entries, the next ones in version order, become what reads see."""
        if not done:
            return
        for prepared in done:
            entry = prepared.entry
            if entry.version != self.committed + 1:
                raise AssertionError(
                    f"tablet {self.id}: version {entry.version} after {self.committed}"
                )
            self.committed = entry.version
            request_id, outcome = prepared.request_id, prepared.outcome
            if request_id is not None and outcome is not None:
                self._request_ids.record(request_id.client, request_id.seq, outcome)
                self._by_id.pop(request_id, None)
        self._engine.commit(self.id, self.committed)
        for prepared in done:
            self._uncover(prepared.entry)

    def _uncover(self, entry: Entry) -> None:
        """What is committed needs no overlay, unless something newer covers it."""
        for effect in entry.effects:
            cells = self._overlay.get(effect.row, {})
            if cells.get(effect.col, NOTHING)[0] == entry.version:
                del cells[effect.col]
                if not cells:
                    del self._overlay[effect.row]

    def _take_back(self, version: int) -> list[_Prepared]:
        back: list[_Prepared] = []
        while self._in_flight and self._in_flight[-1].entry.version >= version:
            prepared = self._in_flight.pop()
            self._in_flight_bytes -= prepared.size_bytes
            if prepared.request_id is not None:
                self._by_id.pop(prepared.request_id, None)
            back.append(prepared)
        self._overlay.clear()
        for kept in self._in_flight:
            self._overlay_with(kept.entry)
        return back[::-1]

    # -- reads: of what is committed -------------------------------------------------------------

    def get(self, row: bytes, col: bytes) -> Reply:
        if self._broken("read-committed"):
            version, value = self._prepared_cell(row, col)
            return Missing() if value is None else Value(version, value)
        stored = self._engine.get(self.id, row, col)
        return Missing() if stored is None else Value(stored.version, stored.value)

    def scan(self, request: Scan) -> Reply:
        found = self._engine.scan(
            self.id, request.row, request.start, request.stop, request.reverse
        )
        return _page(found, request.limit, request.max_value)

    def scan_all(self, request: ScanTablet) -> Reply:
        found = self._engine.scan_tablet(self.id, request.row, request.col)
        return _page(found, request.limit, request.max_value)


def _page(found: Iterator[ScannedCell], limit: int, max_value: int | None) -> Cells:
    """The first cells of a scan, within the bounds on their number and bytes; at least one."""
    cells: list[CellLine] = []
    held = 0
    for cell in found:
        shown = cell.value if max_value is None else cell.value[:max_value]
        if len(cells) == limit or (cells and held + len(shown) > MAX_SCAN_BYTES):
            return Cells(tuple(cells), True)
        cells.append(CellLine(cell.row, cell.col, cell.version, len(cell.value), shown))
        held += len(shown)
    return Cells(tuple(cells), False)
