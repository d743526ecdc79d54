"""All replicas of one storage server: what comes in is given to them, and what they have to do is done.

Theory of operation
    Whatever happens to a replica (a request, a message, a tick, something persisted) marks it as
    touched. At the end of the reactor's turn all that were touched work: their Readys go into one append
    of the log, and their messages leave in one frame per peer. So what arrives together shares a sync
    and a packet, and nothing waits for company.

    While an append is under way, mutations are decided and held back, those of all tablets, and become one
    batch when it ends: the next append, and one frame of PREPs per peer. So batches grow with the load, and
    each server beats the time of its disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.engine import TabletRecovery
from penncloud.lsm.errors import TabletDamaged
from penncloud.lsm.manifest import TabletState
from penncloud.platform.errors import DiskError, PennCloudError
from penncloud.replication.lease import Promise
from penncloud.replication.messages import Configuration, Message
from penncloud.replication.primary import Refused
from penncloud.rpc.registration import Assign, TabletAssignment, Tip
from penncloud.storage.journal import Journal
from penncloud.storage.member import Member
from penncloud.storage.split import Split
from penncloud.storage.standing import Standing, Standings
from penncloud.storage.surroundings import Surroundings
from penncloud.storage.tablet import Place

# How often a replica that met a full disk looks for room, and how much has to be free for it.
ROOM_S: Final = 1.0
ROOM_BYTES: Final = 8 * 1024 * 1024
# How often sizes are estimated for the coordinators, and primaries look whether they have lost touch.
SIZES_S: Final = 1.0


class Replicas:
    """See the module. `clock` has IReactorTime, `disk` is the one that the engine writes on."""

    log = Logger()

    def __init__(self, around: Surroundings) -> None:
        self.members: dict[int, Member] = {}
        self.addresses: dict[str, str] = {}
        self.suspects: frozenset[str] = frozenset()
        self.journal = around.journal = Journal(around.engine, self.turn, freed=self._release)
        self._around = around
        self._node_id = around.node_id
        self._clock = around.clock
        self._disk = around.disk
        self._engine = around.engine
        self._outside = around.outside
        # A dict as an ordered set.
        self._touched: dict[Member, None] = {}
        # Primaries that hold mutations back until the log can take them.
        self._holding: dict[Member, None] = {}
        self._turn: Any = None
        self._working = False
        self._stopped = False
        self._leading = self._told = 0
        self._looking_for_room = False
        self._look_at = 0.0
        # Copies that were cut in two, since the start.
        self.cuts = 0
        self._size_at = 0.0
        self._beat = LoopingCall(self._tick)
        self._beat.clock = around.clock
        around.engine.on_checkpoint(self._checkpointed)

    # -- beginning and ending --------------------------------------------------------------------

    def open(self, incarnation: int, standings: Standings, found: list[TabletRecovery]) -> None:
        """Begin with the tablets that the engine found."""
        self._around.incarnation = incarnation
        self._around.standings = standings
        for tablet in found:
            if tablet.damaged:
                self.log.critical(
                    "tablet {tablet} is damaged: {why}", tablet=tablet.tablet, why=tablet.damaged
                )
            self._add(Place(tablet.tablet, tablet.lo, tablet.hi), tablet)

    def start(self) -> None:
        """Let time pass for them."""
        self._start_beat()

    def _start_beat(self) -> None:
        self._beat.start(self._around.options.beacon_s / 2, now=False).addErrback(self._beat_failed)

    def _beat_failed(self, failure: Failure) -> None:
        self.log.failure("a tick of the replicas failed; they go on", failure)
        self._start_beat()

    def stop(self) -> None:
        """Do nothing more."""
        self._stopped = True
        if self._beat.running:
            self._beat.stop()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        for member in self.members.values():
            member.end()

    @property
    def leading(self) -> int:
        """How many tablets this server serves as their primary."""
        return sum(member.tablet.serving for member in self.members.values())

    @property
    def in_flight(self) -> int:
        """Mutations of all tablets that are decided and not yet answered."""
        return sum(member.tablet.in_flight for member in self.members.values())

    def hand_over(self) -> bool:
        """Let other members become primary where this server is; whether there is any such tablet."""
        leads = False
        for member in self.members.values():
            replica, config = member.replica, member.replica.config
            if config is None or not replica.read_ticket():
                continue
            lag = {peer: lag for peer, lag in replica.lag().items() if peer in config.members}
            if lag:
                leads = True
                try:
                    replica.hand_over(min(lag, key=lambda peer: lag[peer]), self._clock.seconds())
                except Refused:
                    continue
                self.touched(member)
        return leads

    # -- what the coordinators say ---------------------------------------------------------------

    async def make(self, assigned: tuple[TabletAssignment, ...]) -> None:
        """Make those that are new in the world, durably, and those that come of a split of one that is here.

        A split's ids stand in one entry only, and the coordinators have them from a primary that had
        committed it. So an entry here that has them is committed, and nothing with effects follows it.
        Raises DiskError.
        """
        for new in assigned:
            if new.id in self.members:
                continue
            for member in self.members.values():
                split = None if member.blank else member.tablet.split_into(new.id)
                if split is not None:
                    await self._cut(member, split)
                    break
        for new in assigned:
            founding = new.epoch == 0 and self._node_id in new.members and not new.taken
            if founding and new.id not in self.members:
                await self._around.standings.update({new.id: Standing(0, False)})
                if not self._engine.has(new.id):
                    await self._engine.create_tablet(new.id, new.lo, new.hi)
                empty = TabletRecovery(new.id, new.lo, new.hi, 0, 0, 0, b"", [], "")
                self._add(Place(new.id, new.lo, new.hi), empty)

    async def _cut(self, whole: Member, split: Split) -> None:
        """Replace a tablet by the two that come of it, as they are at the split's place."""
        standings = self._around.standings
        sealed = max(standings[whole.id].sealed, whole.replica.state.sealed)
        # Before the tablets, or a crash in between would leave two of which nobody knows what was promised.
        half = Standing(sealed, False)
        await standings.update({split.low: half, split.high: half})
        del self.members[whole.id]
        try:
            found = await whole.cut(split)
        except TabletDamaged as error:
            # The two will be fetched from others; what there is of the whole stays until it may go.
            self.members[whole.id] = whole
            whole.damaged(error.reason)
            return
        except BaseException:
            self.members[whole.id] = whole
            self.touched(whole)
            raise
        self.cuts += 1
        whole.tablet.ended = True
        whole.end()
        for part in found:
            place = Place(part.tablet, part.lo, part.hi)
            forgets = self._around.broken("split-request-ids")
            begun = evolve(part, meta=b"") if forgets else part
            self._add(place, begun, whole.replica.promise)
        self.log.info(
            "tablet {tablet} is cut into {low} and {high} at version {version}",
            tablet=whole.id,
            low=split.low,
            high=split.high,
            version=split.version,
        )
        await standings.update({whole.id: None})

    def ask(self) -> None:
        """Let the coordinators say what the assignment is now."""
        self._outside.ask()

    async def drop(self, numbers: Sequence[int]) -> None:
        """Forget tablets that nobody needs here any more, durably. Raises DiskError."""
        for number in numbers:
            member = self.members.get(number)
            if member is not None and member.assignment is None:
                await member.keep_answered()
            if member is not self.members.get(number):
                continue  # the next assignment says it again
            if member is not None and (member.assignment is not None or member.lane.apart):
                continue  # what is persisted apart just now would stay behind
            if member is not None:
                del self.members[number]
                member.end()
            try:
                await self._forget(number)
            except PennCloudError:
                if member is not None:
                    # The coordinators say it again only as long as they are told that it is here.
                    member.begin(None)
                    self.members[number] = member
                raise
            if member is not None:
                self.log.info("tablet {tablet} has moved away: dropped", tablet=number)

    async def _forget(self, number: int) -> None:
        """Take a tablet from the disk, where no replica works on it any more. Raises as the engine does."""
        await self._around.copies.forget(number)
        if self._engine.has(number):
            await self._engine.drop_tablet(number)
        if self._around.standings.knows(number):
            await self._around.standings.update({number: None})

    def _add(
        self, place: Place, found: TabletRecovery | None, promise: Promise | None = None
    ) -> Member:
        member = Member(self._around, place, self.touched, self._proposed)
        member.begin(found, promise=promise)
        self.members[place.tablet] = member
        return member

    def act_on(self, assign: Assign) -> None:
        """Act on an assignment that is remembered durably."""
        now = self._clock.seconds()
        self.addresses = dict(assign.peers)
        self.suspects = frozenset(assign.suspects)
        self._outside.connect(self.addresses, assign.outranked)
        for assignment in assign.tablets:
            member = self.members.get(assignment.id)
            if member is None:
                place = Place(assignment.id, assignment.lo, assignment.hi)
                member = self._add(place, None)
            member.configure(assignment, now)
            for peer in assign.suspects:
                member.replica.suspect(peer, now)
        named = {assignment.id for assignment in assign.tablets}
        for number, member in self.members.items():
            if number not in named:
                member.unassigned(now)

    def applied(self, configuration: Configuration) -> None:
        """A proposal was applied."""
        member = self.members.get(configuration.group)
        if member is not None:
            member.applied(configuration, self._clock.seconds())

    def tips(self) -> list[Tip]:
        """For the next pong."""
        return [member.tip() for member in self.members.values()]

    # -- what peers say --------------------------------------------------------------------------

    def received(self, _sender: str, messages: list[Message]) -> None:
        """Messages of another server, in their order."""
        now = self._clock.seconds()
        for message in messages:
            member = self.members.get(message.group)
            if member is not None and member.replica.step(message, now):
                self.touched(member)

    def reconnected(self, peer: str) -> None:
        """The connection to a peer is a new one."""
        now = self._clock.seconds()
        for member in self.members.values():
            member.replica.reconnected(peer, now)
            self.touched(member)

    # -- working ---------------------------------------------------------------------------------

    def touched(self, member: Member) -> None:
        """Let a replica work at the end of this turn of the reactor."""
        self._touched[member] = None
        if self._turn is None and not self._working and not self._stopped:
            self._turn = self._clock.callLater(0, self._end_of_turn)

    def _proposed(self, member: Member) -> None:
        """A mutation was decided."""
        if self.journal.writing:
            self._holding[member] = None
        else:
            self.touched(member)

    def _release(self) -> None:
        """The log can take what was held back."""
        holding, self._holding = self._holding, {}
        working, self._working = self._working, True
        try:
            for member in holding:
                if self.members.get(member.id) is member:
                    self._work(member)
        finally:
            self._working = working

    def _end_of_turn(self) -> None:
        self._turn = None
        self.turn()

    def turn(self, first: Callable[[], None] = lambda: None) -> None:
        """Let all that were touched work, also by `first`, then write and send."""
        if self._working:
            first()
            return
        self._working = True
        try:
            first()
            if self._holding and not self.journal.writing:
                self._release()
            self.journal.write()
            while self._touched:
                touched, self._touched = self._touched, {}
                for member in touched:
                    if self.members.get(member.id) is member:
                        self._work(member)
                self.journal.write()
            self._outside.flush()
        finally:
            self._working = False

    def _work(self, member: Member, now: float | None = None) -> None:
        """Let one replica work; `now`: time has passed for it."""
        try:
            if now is not None:
                member.replica.tick(now)
            if member.work(hold=self.journal.writing):
                self._holding[member] = None
        except Exception:  # noqa: BLE001 (one replica that cannot go on must not stop the others)
            self.log.failure("tablet {tablet} cannot go on", Failure(), tablet=member.id)
            member.fail("an internal error, see the server's log")

    def _tick(self) -> None:
        now = self._clock.seconds()
        self._working = True
        try:
            for member in list(self.members.values()):
                self._work(member, now)
        finally:
            self._working = False
        self.turn()
        self._tell_how_many()
        if now >= self._look_at:
            self._look_at = now + ROOM_S
            self._look_for_room()
            self._look_for_damage()
        if now >= self._size_at:
            self._size_at = now + SIZES_S
            self._estimate()
            for member in self.members.values():
                member.tablet.doubt()

    def _tell_how_many(self) -> None:
        """Log how many tablets this server leads, once that has settled."""
        before, self._leading = self._leading, self.leading
        if self._leading == before != self._told:
            self._told = self._leading
            self.log.info("{id} serves {count} tablets", id=self._node_id, count=self._told)

    def _estimate(self) -> None:
        for member in self.members.values():
            if not member.blank:
                try:
                    member.size_bytes = self._engine.estimate(member.id).size_bytes
                except PennCloudError:
                    continue

    def _checkpointed(self, tablet: int, state: TabletState) -> None:
        member = self.members.get(tablet)
        if member is not None:
            member.checkpointed(state)

    # -- damage ----------------------------------------------------------------------------------

    def _look_for_damage(self) -> None:
        """Give up damaged copies of what another live server leads: they are fetched anew.

        Damage is found by reads, compactions, transfers and the scrub; the engine goes on with what is
        sound, and the tip tells the coordinators, who let another member lead if one can. Only then is
        the copy given up: the replica is blank, is removed, and joins again as a learner. A copy that
        leads because no other can stays, and most of it can be read.
        """
        for member in list(self.members.values()):
            # What is persisted apart may just put a sound copy in its place.
            if member.blank or member.lane.apart or not self._engine.has(member.id):
                continue
            reason = self._engine.damage(member.id)
            config = member.replica.config
            if not reason or config is None or config.primary in self.suspects:
                continue
            if config.primary != self._node_id and member.replica.hears(config.primary):
                member.damaged(reason)

    # -- a full disk -----------------------------------------------------------------------------

    def _look_for_room(self) -> None:
        if self._looking_for_room or not any(member.full for member in self.members.values()):
            return
        if self._engine.full or self._disk.free_bytes() < ROOM_BYTES:
            return
        self._looking_for_room = True
        Deferred.fromCoroutine(self._make_room()).addBoth(self._looked)

    async def _make_room(self) -> None:
        for member in list(self.members.values()):
            # The engine closes soon after the replicas have stopped.
            if member.full and not self._stopped:
                await member.make_room()

    def _looked(self, result: object) -> None:
        self._looking_for_room = False
        if isinstance(result, Failure) and not result.check(DiskError):
            self.log.failure("looking for room on the disk", result)
