"""One replica of this server: does what its Readys say, with the disk, the peers and the tablet it keeps.

Where it stands
    A replica begins with what the disk has of it: a checkpoint, the entries behind it, the sealed
    configuration. None of these entries is committed because it is here; that is for the group to say.
    A replica whose state is lost, damaged or was never here is *blank*: it becomes a learner, and from
    the first thing that it is sent as one it has a state again. What is on the disk of a blank replica is
    dropped then, not before: it may be all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.entry import Entry
from penncloud.lsm.errors import Overloaded, StoreDamaged, TableDamaged, TabletDamaged
from penncloud.lsm.manifest import TabletState
from penncloud.platform.errors import PennCloudError
from penncloud.replication.lease import Promise
from penncloud.replication.messages import (
    Checkpoint,
    Configuration,
    Piece,
    ReadPiece,
    Ready,
)
from penncloud.replication.replica import Replica
from penncloud.replication.state import Durable
from penncloud.rpc.registration import TabletAssignment, Tip
from penncloud.storage.dedup import CorruptTable
from penncloud.storage.journal import Lane
from penncloud.storage.split import Split
from penncloud.storage.standing import Standing
from penncloud.storage.surroundings import Surroundings
from penncloud.storage.tablet import Place, Tablet

# How long a split waits for what the replica has under way.
CUT_S: Final = 10.0
_LOOK_S: Final = 0.002
# Why a tablet cannot be used that the data directory should hold and does not.
LOST: Final = "its files are gone from the data directory of this server, which had them"
# Why entries are put into quarantine.
_DROPPED: Final = (
    "this server has no part in the tablet any more, and does not know that they were committed"
)
_DAMAGED: Final = "this copy of the tablet is damaged, and had answered them before others had them"
_DIVERGED: Final = "they were never committed, and the primary of configuration {cfg} has others"


class Member:
    """See the module. Part of `journal.Author`."""

    log = Logger()

    def __init__(
        self,
        around: Surroundings,
        place: Place,
        touched: Callable[[Member], None],
        proposed: Callable[[Member], None],
    ) -> None:
        """`touched` is told when there is work to do, `proposed` when that is a mutation to replicate."""
        self.id = place.tablet
        self.lo = place.lo
        self.hi = place.hi
        self.lane = Lane(self)
        self.replica: Replica
        self.tablet: Tablet
        self.assignment: TabletAssignment | None = None
        # What is on the disk is of no use, and the replica is in nobody's count.
        self.blank = True
        self.size_bytes = 0
        # What a copy that is no good any more had answered early, and may be nowhere else.
        self._left: Sequence[Entry] = ()
        self._ended = False
        self._around = around
        self._tell = touched
        self._tell_proposed = proposed

    # -- beginning -------------------------------------------------------------------------------

    def begin(
        self, found: TabletRecovery | None, damage: str = "", promise: Promise | None = None
    ) -> None:
        """Start from what is on the disk, or as blank: without `found`, and with `damage` to it.

        `promise`: what the replica of the whole had promised, for one of the two that come of a split.
        """
        around = self._around
        self._ended = False
        standing = around.standings[self.id]
        if found is not None and not damage:
            damage = found.damaged
        place = Place(self.id, self.lo, self.hi)
        self.tablet = Tablet(around, place, self._touched, self._proposed)
        self.blank = found is None or bool(damage) or standing.blank
        self.tablet.damage = damage
        if found is not None and not self.blank:
            try:
                self._keep(found)
            except CorruptTable as error:
                self.blank, self.tablet.damage = True, str(error)
        if self.blank or found is None:
            if found is not None and self.tablet.damage and around.options.mode == "async":
                # Which of them are committed is not known.
                self._left = found.tail
            durable = Durable(
                around.incarnation,
                not around.broken("blank-is-no-member"),
                standing.sealed,
                staged=around.copies.staged(self.id),
            )
        else:
            durable = Durable(
                around.incarnation,
                False,
                standing.sealed,
                Checkpoint(found.checkpoint_no, found.version, found.entry_cfg),
                tuple(found.tail),
                around.copies.staged(self.id),
            )
        self.replica = Replica(
            around.node_id,
            self.id,
            durable,
            self._noop,
            around.clock.seconds(),
            options=around.options,
            promise=promise,
            broken=around.broken,
        )
        self.tablet.replica = self.replica

    def _keep(self, found: TabletRecovery) -> None:
        """The tablet is what the engine holds. Raises CorruptTable."""
        self.tablet.restore(found.meta, found.version)
        self._around.engine.set_meta(self.id, self.tablet.encode)

    def _noop(self, version: int, cfg: int) -> Entry:
        return Entry(self.id, version, cfg, b"", 0, (), b"")

    def configure(self, assignment: TabletAssignment, now: float) -> None:
        """Act on what the coordinators say of this tablet."""
        self.assignment = assignment
        own = self._around.node_id
        if self.blank and not self.tablet.damage and own in assignment.members:
            self.tablet.damage = LOST
            self.log.error("tablet {tablet}: {why}", tablet=self.id, why=LOST)
        if assignment.epoch:
            configuration = Configuration(
                self.id,
                assignment.epoch,
                assignment.primary,
                tuple(assignment.members),
                assignment.incarnation,
            )
            self.replica.configure(configuration, now, join=own in assignment.learners)
            self.replica.release(assignment.leaving)
        self._touched()

    def applied(self, configuration: Configuration, now: float) -> None:
        """The coordinators have applied what this replica proposed; an assignment will say it, too."""
        if configuration.incarnation:
            self.replica.configure(configuration, now)
            self._touched()

    def unassigned(self, now: float) -> None:
        """The coordinators name this server neither member nor learner: it is kept, and does nothing."""
        self.assignment = None
        if self.replica.config is not None and self.replica.role == "learner":
            self.replica.configure(self.replica.config, now, join=False)

    async def cut(self, split: Split) -> tuple[TabletRecovery, TabletRecovery]:
        """Cut the tablet in two on the disk. Nobody lets this replica work meanwhile, or after.

        Raises Overloaded when what is under way does not end, and what the engine raises.
        """
        around = self._around
        deadline = around.clock.seconds() + CUT_S
        while self.lane.busy:
            if around.clock.seconds() >= deadline:
                raise Overloaded(f"tablet {self.id} has writes under way that do not end")
            await deferLater(around.clock, _LOOK_S)
        self.tablet.commit_split(split)
        place = split.version, split.entry_cfg
        return await around.engine.split_tablet(self.id, split.at, split.low, split.high, place)

    async def keep_answered(self) -> None:
        """Before the tablet is dropped: keep what was answered early and may be nowhere else.

        Raises DiskError.
        """
        kept = 0
        # Until it hears of its successor a primary goes on, at most as far as others may lag behind.
        while (early := self._answered_early()) and kept < early[-1].version:
            kept = early[-1].version
            await self._around.quarantine.keep(self.id, early, _DROPPED)
        await self._keep_left()

    def _answered_early(self) -> Sequence[Entry]:
        """What this copy has that may have been answered and may be nowhere else."""
        replica = self.replica
        if self.blank or not replica.answers_early:
            return ()
        found: list[Any] = replica.entries(replica.committed, replica.stable)
        return found

    async def _keep_left(self) -> None:
        """Before what is on the disk is replaced. Raises DiskError."""
        if self._left:
            await self._around.quarantine.keep(self.id, self._left, _DAMAGED)
            self._left = ()

    def end(self) -> None:
        """Nothing more comes of this replica, unless it begins anew."""
        self._ended = True
        self.lane.void()
        self.tablet.give_up()

    def _touched(self) -> None:
        self._tell(self)

    def _proposed(self) -> None:
        self._tell_proposed(self)

    # -- working ---------------------------------------------------------------------------------

    def work(self, hold: bool) -> bool:
        """Do what there is to do; `hold`: the log takes nothing now. Whether something is held back."""
        around, replica = self._around, self.replica
        if self._ended:
            return False
        ready = replica.ready(hold)
        if ready is not None:
            # Whatever this leads to touches the member again.
            self.tablet.take(ready)
            for message in ready.prompt:
                around.outside.send(message)
            if ready.proposal is not None:
                around.outside.propose(ready.proposal)
            if ready.ask:
                around.outside.ask()
            for wanted in ready.pieces:
                self._spawn(self._send_piece(wanted))
            around.journal.submit(self.lane, ready)
        return hold and replica.holds_back

    async def _send_piece(self, wanted: ReadPiece) -> None:
        piece = await self._around.copies.read(self.id, wanted.number, wanted.offset)
        if piece is None:
            self.replica.piece_gone(wanted.to, wanted.number, self._around.clock.seconds())
        else:
            place = self.id, wanted.cfg, wanted.number, wanted.offset
            sent = Piece(
                self._around.node_id, wanted.to, *place, piece.data, piece.checksum, piece.done
            )
            self._around.outside.send(sent)
            self._touched()

    def _spawn(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(self._piece_failed)

    def _piece_failed(self, failure: Failure) -> None:
        if failure.check(PennCloudError):
            why = failure.getErrorMessage()
            self.log.warn("no piece of tablet {tablet} is sent: {why}", tablet=self.id, why=why)
        else:
            self.log.failure("a piece of tablet {tablet}", failure, tablet=self.id)

    def checkpointed(self, state: TabletState) -> None:
        """The engine has a new checkpoint of committed entries."""
        made = Checkpoint(state.checkpoint_no, state.version, state.entry_cfg)
        log = self.replica.state.log
        if not self.blank and log.checkpoint.version <= made.version <= log.committed:
            self.replica.checkpointed(made)

    # -- part of journal.Author ------------------------------------------------------------------

    def needs_apart(self, ready: Ready) -> bool:
        """Whether there is more to persist than entries."""
        return bool(
            ready.seal is not None
            or ready.cut is not None
            or ready.stage
            or ready.install is not None
            or (self.blank and ready.entries)
        )

    async def persist_apart(self, ready: Ready) -> bool:
        """See `journal.Author`."""
        around, engine = self._around, self._around.engine
        if ready.seal is not None:
            blank = around.standings[self.id].blank
            await around.standings.update({self.id: Standing(ready.seal, blank)})
        if ready.cut is not None:
            cut: Any = ready.quarantine
            why = _DIVERGED.format(cfg=self.replica.state.sealed)
            if cut:
                await around.quarantine.keep(self.id, cut, why)
            if not self.blank:
                await engine.void(self.id, ready.cut - 1)
        try:
            for piece in ready.stage:
                await around.copies.stage(self.id, piece)
            if ready.install is not None:
                await self._install(ready.install)
        except (StoreDamaged, TableDamaged) as error:
            raise TabletDamaged(self.id, str(error)) from error
        if self.blank and ready.entries:
            await self._fill(ready)
            return True
        return False

    async def _install(self, checkpoint: Checkpoint) -> None:
        copies = self._around.copies
        staged = copies.staged(self.id)
        if staged is None:
            raise StoreDamaged("nothing of the checkpoint is staged")
        await self._keep_left()
        found = await copies.install(self.id, staged.source, checkpoint)
        if found.damaged:
            raise TabletDamaged(self.id, found.damaged)
        self._keep(found)
        await self._sound()

    async def _fill(self, ready: Ready) -> None:
        """The first entries of a blank replica: they begin at version 1, in a new tablet."""
        around, engine = self._around, self._around.engine
        standing = around.standings[self.id]
        await self._keep_left()
        if not standing.blank:
            # Otherwise a crash from here on would leave what looks like a member's state.
            await around.standings.update({self.id: Standing(standing.sealed, True)})
        if engine.has(self.id):
            await engine.drop_tablet(self.id)
        await engine.create_tablet(self.id, self.lo, self.hi)
        engine.set_meta(self.id, self.tablet.encode)
        entries: list[Any] = list(ready.entries)
        await engine.append(entries)
        await self._sound()

    async def _sound(self) -> None:
        """What is on the disk is a replica's state again."""
        standings = self._around.standings
        standing = standings[self.id]
        if standing.blank:
            # Of another one the disk knows it: it could only refuse what has been done already.
            await standings.update({self.id: Standing(standing.sealed, False)})
        self.blank = False
        self.tablet.damage = ""

    def persisted(self, ready: Ready) -> None:
        """See `journal.Author`."""
        send = self._around.outside.send
        for message in ready.messages:
            send(message)
        if self.replica.advance(ready):
            self._touched()

    def refused(self) -> None:
        """See `journal.Author`."""
        if self.blank:
            self._anew(self.tablet.damage)
        self.replica.refuse()
        self._touched()

    def damaged(self, reason: str) -> None:
        """See `journal.Author`; also called when damage is found otherwise."""
        self.log.error("tablet {tablet}: {why}", tablet=self.id, why=reason)
        self._anew(reason)

    def lost(self) -> None:
        """See `journal.Author`."""
        self.tablet.give_up()

    def _anew(self, damage: str) -> None:
        """Be blank from now on."""
        if not self.blank:
            self._left = self._answered_early()
        self.end()
        self.begin(None, damage)
        if self.assignment is not None:
            self.configure(self.assignment, self._around.clock.seconds())
        self._touched()

    def fail(self, reason: str) -> None:
        """Take part no more: something happened that must not happen."""
        self.replica.state.alarm = reason
        self.tablet.damage = reason
        self.end()

    # -- for others ------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether it keeps nothing, because the disk had no room."""
        return self.replica.state.full

    async def make_room(self) -> None:
        """Go on after a full disk. Raises DiskFull when there is no room still."""
        if not self.blank:
            # What the disk kept of what was refused goes; and this shows that it takes something again.
            await self._around.engine.void(self.id, self.replica.stable)
        self.replica.room_again()
        self._touched()

    def tip(self) -> Tip:
        """What the coordinators are told."""
        tip = self.replica.tip
        engine, damage = self._around.engine, self.tablet.damage
        # While a fetched checkpoint takes the place of what was here, the engine has neither.
        if not damage and not self.blank and engine.has(self.id):
            damage = engine.damage(self.id)
        return Tip(
            self.id,
            tip.entry_cfg,
            tip.version,
            bool(damage),
            tip.eligible,
            tip.declined,
            self.size_bytes,
            self.replica.lag(),
        )
