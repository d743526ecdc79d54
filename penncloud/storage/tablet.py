"""One tablet: what its replica agrees on means something here.

Theory of operation
    At the primary a mutation passes four stations. It is *decided* against the prepared state and gets
    the next version; its entry is *proposed* to the replica, which brings it to every member's disk; it is
    *committed* in version order (request id recorded, cells applied); then it is *answered* and watchers
    are told. The other members commit the same entries and so have the same cells and request ids.

    A mutation that fails its comparison and has no request id leaves no entry: it is answered as soon as
    what it saw has committed. One with a request id does leave an entry, without effects: otherwise a
    delayed duplicate could succeed after the client had been told that it failed.

    Reads see what is committed (`reads`).

    Whoever stops being primary answers all that waits with UNKNOWN: the next one knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen

from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import row_hash
from penncloud.replication.messages import Ready
from penncloud.replication.primary import Refused
from penncloud.replication.replica import Replica
from penncloud.storage.decide import NOTHING, Decision, RowView, Seen, decide
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
from penncloud.storage.prepared import Prepared, PreparedState
from penncloud.storage.reads import NOT_SERVING_RETRY_MS, RETRY_MS, Answer, Asked, SureReads, page
from penncloud.storage.split import (
    HINT,
    Split,
    decode_blob,
    encode_blob,
    last_split,
    split_entry,
    split_of,
)
from penncloud.storage.surroundings import Surroundings
from penncloud.wire.messages import (
    Busy,
    Error,
    Get,
    Mismatch,
    Missing,
    Mutation,
    Ok,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unknown,
    Value,
)

# What clients are told to wait while the disk is full.
DISK_FULL_RETRY_MS: Final = 1000


@frozen
class Place:
    """A tablet's number, and which rows it has: those with lo <= hash < hi."""

    tablet: int
    lo: int
    hi: int


class Tablet:
    """See the module. `touched` is told when the replica has new work, `proposed` when it has an entry to
    replicate.

    Requests raise `lsm.errors.TabletDamaged` when the tablet's files cannot be trusted, and DiskError
    when the disk does not give what was asked.
    """

    def __init__(
        self,
        around: Surroundings,
        place: Place,
        touched: Callable[[], None],
        proposed: Callable[[], None],
    ) -> None:
        self.id = place.tablet
        self.lo = place.lo
        self.hi = place.hi
        # Set before anything is asked of it, and again when the replica begins anew.
        self.replica: Replica
        # Why there is nothing here that can be read.
        self.damage = ""
        # The two that come of its split have taken its place.
        self.ended = False
        self.committed = 0
        self._engine = around.engine
        self._watches = around.watches
        self._clock = around.clock
        self._touched = touched
        self._proposed = proposed
        self._broken = around.broken
        self._request_ids = DedupTable()
        # A split that is committed, and whether one of this primary is on its way: nothing is decided then.
        self.split: Split | None = None
        self._splitting = False
        self._prepared = PreparedState()
        # Given up by this primary, and overwritten when every member has that.
        self._withdrawn: list[Prepared] = []
        self._reads = SureReads(around.clock, touched)
        # How often in a row it was the primary without leases when it looked.
        self._doubts = 0

    def restore(self, meta: bytes, version: int) -> None:
        """Be what a checkpoint of the engine holds; `meta` is what `encode` gave. Raises CorruptTable."""
        request_ids, split = decode_blob(meta)
        self._request_ids.restore(request_ids)
        # One of the two that come of a split has it in the blob that it got from the whole.
        self.split = None if split is None or split.makes(self.id) else split
        self.committed = version

    def encode(self) -> bytes:
        """What belongs to a checkpoint beside the cells."""
        return encode_blob(self._request_ids.encode(), self.split)

    @property
    def serving(self) -> bool:
        """Whether this is the primary, with everything committed that was ever answered."""
        return not self.ended and self.replica.read_ticket() != 0

    @property
    def frozen(self) -> bool:
        """Whether no mutation is decided because the tablet is being split."""
        return self._splitting or self.split is not None

    @property
    def agreed_split(self) -> Split | None:
        """The split that the coordinators may be asked for: every member has its entry."""
        if self.split is None and self._splitting and self._broken("split-when-committed"):
            entries: list[Any] = self.replica.entries(self.committed, self.replica.prepared)
            return last_split(entries)
        return self.split

    @property
    def cfg(self) -> int:
        """The number of the newest configuration that is known here."""
        config = self.replica.config
        return 0 if config is None else config.cfg

    @property
    def in_flight_bytes(self) -> int:
        """What the mutations that are not yet committed hold in memory."""
        return self._prepared.size_bytes

    @property
    def in_flight(self) -> int:
        """How many mutations are decided and not yet committed."""
        return len(self._prepared.in_flight)

    def _check(self) -> None:
        if self.damage:
            raise TabletDamaged(self.id, self.damage)

    # -- mutations -------------------------------------------------------------------------------

    def mutate(self, mutation: Mutation, request_id: RequestId | None, full: bool) -> Answer:
        """Execute a mutation; exactly once where it has a request id. `full`: take nothing new."""
        self._check()
        if not self.serving:
            return Busy(NOT_SERVING_RETRY_MS)
        if request_id is not None and not self._broken("request-ids"):
            earlier = self._prepared.find(request_id)
            if earlier is not None:
                if earlier.answered:
                    return _local(earlier.reply)
                return earlier.when_committed(earlier.reply)
            outcome = self._request_ids.find(request_id.client, request_id.seq)
            if outcome is Refusal.BELOW_WINDOW:
                return Error("RQID", "this request id is too old to know whether it was executed")
            if outcome is not None:
                return self._repeat(mutation.row, outcome)
        if full or (self.frozen and not self._broken("split-freezes")):
            return Busy(RETRY_MS)
        return self._prepare(mutation, request_id)

    def hint_at_split(self) -> bool:
        """Let every member make a checkpoint; false where that is not possible now."""
        return self._write(lambda version, cfg: Entry(self.id, version, cfg, b"", 0, (), HINT))

    def _write(self, entry_at: Callable[[int, int], Entry]) -> bool:
        """Write an entry of the tablet's own, at the place that is next."""
        now = self._clock.seconds()
        if not self.serving or self.frozen:
            return False
        try:
            entry = entry_at(*self.replica.next_place(now))
            self.replica.propose(entry, now)
        except Refused:
            return False
        self._prepared.add(Prepared(entry, None, None, Unknown(), entry.size_bytes))
        self._proposed()
        return True

    def begin_split(self, at: int, first: int) -> bool:
        """Write a split at the hash `at`, into tablets `first` and the next, behind what is prepared.

        False where that is not possible now.
        """
        self._splitting = self._write(
            lambda version, cfg: split_entry(self.id, Split(at, first, first + 1, version, cfg))
        )
        return self._splitting

    def split_into(self, tablet: int) -> Split | None:
        """The split that makes `tablet`, committed or only in the log; see `Replicas.make`."""
        split = self.split
        if split is None:
            entries: list[Any] = self.replica.entries(self.committed, self.replica.stable)
            split = last_split(entries)
        return split if split is not None and split.makes(tablet) else None

    def commit_split(self, split: Split) -> None:
        """The coordinators have the two tablets: so the entry is committed, and it is the last one."""
        if self.committed < split.version:
            self._commit(split.version)

    def _prepare(self, mutation: Mutation, request_id: RequestId | None) -> Answer:
        now = self._clock.seconds()
        try:
            version, cfg = self.replica.next_place(now)
            view = RowView(self._prepared_cell, mutation.row)
            decision = decide(mutation, view, version)
            if decision.failed_at is not None and request_id is None:
                return self._failed(decision, view.newest)
            prepared = self._enter(decision, version, cfg, request_id)
            self.replica.propose(prepared.entry, now)
        except Refused:
            return Busy(RETRY_MS)
        self._prepared.add(prepared)
        self._proposed()
        if self._broken("answer-when-durable"):
            return decision.reply
        return prepared.when_committed(decision.reply)

    def _enter(
        self, decision: Decision, version: int, cfg: int, request_id: RequestId | None
    ) -> Prepared:
        """The entry of a decision."""
        reply, outcome = decision.reply, None
        client, seq, result = b"", 0, b""
        if request_id is not None:
            outcome = outcome_of(reply, decision.failed_at)
            client, seq, result = request_id.client, request_id.seq, encode_outcome(outcome)
        entry = Entry(self.id, version, cfg, client, seq, decision.effects, result)
        held = len(reply.value or b"") if isinstance(reply, Mismatch) else 0
        return Prepared(entry, request_id, outcome, reply, entry.size_bytes + held)

    def _prepared_cell(self, row: bytes, col: bytes) -> Seen:
        """A cell with what is under way; of one that is being deleted, the deletion's version."""
        pending = self._prepared.seen(row, col)
        if pending is not None and not self._broken("decide-on-prepared"):
            return pending
        stored = self._engine.get(self.id, row, col)
        return NOTHING if stored is None else (stored.version, stored.value)

    def _failed(self, decision: Decision, saw: int) -> Answer:
        """Answer a failed comparison once what it saw has committed; `saw` is the newest of that."""
        if self._broken("failed-after-what-it-saw"):
            return decision.reply
        if saw > self.committed:
            return self._prepared.writer(saw).when_committed(decision.reply)
        # It is committed: then this is a read, and answered as one.
        return self._reads.read(self.replica, lambda decided: decided.reply, decision)

    def _repeat(self, row: bytes, outcome: Outcome) -> Answer:
        """The first answer again; a value too long to be remembered is read anew."""
        if isinstance(outcome, Failed) and outcome.cut:
            return self._reads.read(
                self.replica,
                lambda failed: reply_of(failed, self._mismatch(row, failed.col)),
                outcome,
            )
        return reply_of(outcome)

    def _mismatch(self, row: bytes, col: bytes) -> Mismatch:
        stored = self._engine.get(self.id, row, col)
        return Mismatch(0, None) if stored is None else Mismatch(stored.version, stored.value)

    # -- what the replica tells ------------------------------------------------------------------

    def take(self, ready: Ready) -> None:
        """The owner's part of a Ready: what is to be done at once."""
        if ready.stepped_down:
            self.give_up()
        if ready.withdrawn:
            self._splitting = False
            self._withdrawn += self._prepared.take_back()
        if ready.aborted:
            aborted, self._withdrawn = self._withdrawn, []
            for prepared in aborted:
                prepared.answer(Busy(RETRY_MS))
        if ready.committed > self.committed:
            self._commit(ready.committed)
        if ready.answered > self.committed:
            self._prepared.answer_up_to(ready.answered, _local)
        for context in ready.confirmed:
            self._reads.confirmed(context)

    def give_up(self) -> None:
        """This replica is the primary no more, or cannot know any more what becomes of its entries."""
        unknown = self._withdrawn + self._prepared.take_back()
        self._withdrawn = []
        self._splitting = False
        for prepared in unknown:
            prepared.answer(Unknown())
        self._reads.give_up()
        self.tell_watchers()

    def _commit(self, version: int) -> None:
        """Let the entries up to `version` become what reads see; then answer."""
        entries: list[Any] = self.replica.entries(self.committed, version)
        record = self._request_ids.record
        for entry in entries:
            if entry.client:
                record(entry.client, entry.seq, decode_outcome(entry.result))
            elif entry.result:
                self.split = split_of(entry) or self.split
                if entry.result == HINT:
                    # Nobody waits for it, and a failure of the disk is told by the disk.
                    self._engine.checkpoint(self.id).addErrback(lambda _failure: None)
        self.committed = version
        self._engine.commit(self.id, version)
        for prepared in self._prepared.take(version):
            prepared.answer()
        if len(self._watches):
            changed = {e.row: entry.version for entry in entries for e in entry.effects}
            for row, at in changed.items():
                self._watches.tell(row, at)

    def doubt(self) -> None:
        """Called now and then: a primary that has lost touch may not hear of what its successor commits,
        so its watchers are sent to look for one."""
        lost = self.serving and not self.may_watch()
        self._doubts = self._doubts + 1 if lost else 0
        if self._doubts == 2:
            self.tell_watchers()

    def tell_watchers(self) -> None:
        """A hint to read again leads the watchers to whoever serves their rows now."""
        if len(self._watches):
            for row in self._watches.rows():
                if self.lo <= row_hash(row) < self.hi:
                    self._watches.tell(row, 0)

    # -- reads: of what is committed -------------------------------------------------------------

    def get(self, request: Get) -> Answer:
        """One cell."""
        self._check()
        return self._read(request.row, self._get, request)

    def _get(self, request: Get) -> Reply:
        row, col = request.row, request.col
        if self._broken("read-committed"):
            version, value = self._prepared_cell(row, col)
            return Missing() if value is None else Value(version, value)
        stored = self._engine.get(self.id, row, col)
        return Missing() if stored is None else Value(stored.version, stored.value)

    def scan(self, request: Scan) -> Answer:
        """Cells of a row."""
        self._check()
        return self._read(request.row, self._scan, request)

    def _scan(self, request: Scan) -> Reply:
        found = self._engine.scan(
            self.id, request.row, request.start, request.stop, request.reverse
        )
        return page(found, request.limit, request.max_value)

    def scan_all(self, request: ScanTablet) -> Answer:
        """Cells of the whole tablet."""
        self._check()
        return self._reads.read(self.replica, self._scan_all, request)

    def _scan_all(self, request: ScanTablet) -> Reply:
        found = self._engine.scan_tablet(self.id, request.row, request.col)
        return page(found, request.limit, request.max_value)

    def may_watch(self) -> bool:
        """Whether a watch may begin: what commits from now on is told."""
        return self._reads.may_watch(self.replica)

    def _read(self, row: bytes, look: Callable[[Asked], Reply], asked: Asked) -> Answer:
        """Read in one row. In async mode a write may have been answered before reads see it: then they
        wait for it."""
        last = self._prepared.answered_in(row) if self.replica.answers_early else None
        if last is None:
            return self._reads.read(self.replica, look, asked)
        committed = last.when_visible()
        committed.addCallback(self._read_now, look, asked)
        return committed

    def _read_now(self, _seen: Reply, look: Callable[[Asked], Reply], asked: Asked) -> Answer:
        return self._reads.read(self.replica, look, asked)


def _local(reply: Reply) -> Reply:
    """Async mode: it is on this disk, and will reach the others later."""
    return Ok(reply.version, local=True) if isinstance(reply, Ok) else reply
