"""What storage servers are told of their tablets, and when.

Only the leader tells. It tells a server whenever what concerns that server differs from what the server
has confirmed: a new configuration, an address, somebody who died. That is at once, since a tablet whose
primary has died waits for it.

A copy that nobody needs any more is told to be dropped only when its tablet is in order without it, and
after a majority has confirmed that this coordinator still leads: one that leads no more does not know
whether the server has become a member again.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.commands import TabletRecord, TakeTablets
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.members import Members, Session
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.errors import Disconnected
from penncloud.rpc.registration import Assign, Assigned, TabletAssignment

ASSIGN_TIMEOUT_S: Final = 5.0
# Pause after an assignment that a server did not take.
RETRY_S: Final = 1.0
# Pause after a server was told to drop a copy, before it is told again.
DROP_PAUSE_S: Final = 5.0


class Assignments:
    """`copies`: how many members a tablet should have."""

    log = Logger()

    def __init__(
        self, environment: Environment, copies: int, decisions: Decisions, members: Members
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._copies = copies
        self._decisions = decisions
        self._members = members
        # What each session has confirmed, without `dropped`.
        self._told: dict[Session, Assign] = {}
        self._telling: set[Session] = set()
        self._rest_until: dict[Session, float] = {}

    def of(self, node_id: str) -> Assign:
        """What the server of this id has to know now."""
        state = self._decisions.machine.state
        records = [t for t in state.tablets.values() if node_id in (*t.members, *t.learners)]
        named = {one for t in records for one in (*t.members, *t.learners)}
        peers = {
            one: address_text(state.nodes[one].node.host, state.nodes[one].node.port)
            for one in sorted(named)
            if one in state.nodes
        }
        suspects = [one for one in peers if self._members.detector.state(one) == "dead"]
        tablets = [_assignment(record, node_id) for record in records]
        known = {one: state.nodes[one] for one in peers}
        outranked = {
            one: (node.incarnation, node.outranked) for one, node in known.items() if node.outranked
        }
        return Assign(
            state.map_version, tablets, peers, suspects, outranked=outranked, term=state.term
        )

    def forget_all(self) -> None:
        """This coordinator begins to lead: what others have told is not known."""
        self._told.clear()

    def tell_all(self) -> None:
        """Tell every storage server that has not confirmed what concerns it."""
        state = self._decisions.machine.state
        if not self._decisions.leads or not state.map_version:
            return
        now = self._clock.seconds()
        sessions = self._members.sessions
        self._told = {one: told for one, told in self._told.items() if sessions.get(one.id) is one}
        self._rest_until = {one: until for one, until in self._rest_until.items() if until > now}
        for session in sessions.values():
            if session.role != "storage" or session in self._telling or session in self._rest_until:
                continue
            news = self.of(session.id)
            dropped = self._unneeded(session, news)
            if dropped or self._told.get(session) != news:
                self._telling.add(session)
                work = self._tell(session, news, dropped)
                Deferred.fromCoroutine(work).addBoth(self._told_to, session)

    async def _tell(self, session: Session, news: Assign, dropped: list[int]) -> None:
        message = news
        if dropped:
            await self._decisions.read_barrier()
            if self.of(session.id) != news:
                return  # told anew, by what is known now
            self.log.info("{id} may drop tablets {tablets}", id=session.id, tablets=dropped)
            change: dict[str, Any] = {"dropped": dropped}
            message = msgspec.structs.replace(news, **change)
        await session.connection.call(message, Assigned, ASSIGN_TIMEOUT_S)
        if dropped:
            session.drop_after = self._clock.seconds() + DROP_PAUSE_S
        made = [t.id for t in news.tablets if not t.taken and session.id in t.members]
        if made:
            taken = TakeTablets(self._environment.now(), session.id, made)
            await self._decisions.propose_here(taken)
        self._told[session] = news

    def _told_to(self, result: Any, session: Session) -> None:
        self._telling.discard(session)
        if not isinstance(result, Failure):
            self.tell_all()  # more may have changed meanwhile
            return
        self._rest_until[session] = self._clock.seconds() + RETRY_S
        if result.check(Disconnected):
            return
        if result.check(PennCloudError):
            why = result.getErrorMessage()
            self.log.warn("{id} has not taken its tablets: {why}", id=session.id, why=why)
        else:
            self.log.failure("assigning tablets to {id}", result, id=session.id)

    # -- copies that nobody needs ----------------------------------------------------------------

    def _unneeded(self, session: Session, news: Assign) -> list[int]:
        """The tablets that the server holds, and that are in order without it."""
        if session.tips is None or session.drop_after > self._clock.seconds():
            return []
        assigned = {tablet.id for tablet in news.tablets}
        return sorted(
            number
            for number in session.tips
            if number not in assigned and self._is_settled(number, session)
        )

    def _is_settled(self, number: int, session: Session) -> bool:
        """Whether the tablet, or all that it was split into, has its copies elsewhere."""
        state = self._decisions.machine.state
        present = [state.tablets[one] for one in state.children(number)]
        assert session.tips is not None
        mine = [record.id for record in present if session.id in record.members]
        return (
            bool(present)
            and all(number in session.tips for number in mine)
            and all(self._is_healthy(record) for record in present)
        )

    def _is_healthy(self, record: TabletRecord) -> bool:
        sight = self._members.sight()
        seen = sight.seen.get(record.primary)
        return (
            seen is not None
            and seen.incarnation == record.incarnation
            and len(record.members) >= self._copies
            and all(sight.usable(record.id, member) for member in record.members)
        )


def _assignment(record: TabletRecord, node_id: str) -> TabletAssignment:
    return TabletAssignment(
        record.id,
        record.lo,
        record.hi,
        record.epoch,
        record.primary,
        record.members,
        node_id in record.taken,
        record.incarnation,
        record.learners,
        record.leaving,
    )
