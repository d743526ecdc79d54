"""The coordinator's side of `rpc.registration`: registers servers, pings them, hands out tablets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.detector import Detector
from penncloud.coordinator.refusals import decided
from penncloud.coordinator.state import (
    CreateTablets,
    RegisterNode,
    Rejected,
    TabletRecord,
    TakeTablets,
)
from penncloud.placement.tablets import even_ranges
from penncloud.platform import config
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Disconnected, Refusal, RpcBusy
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import (
    LONGEST_PAUSE_S,
    Assign,
    Assigned,
    Identity,
    Leave,
    Left,
    Ping,
    Pong,
    Register,
    Registered,
    TabletAssignment,
    Tip,
)

ASSIGN_TIMEOUT_S: Final = 5.0
# Pause after an assignment that a server did not take.
ASSIGN_RETRY_S: Final = 1.0
# How long the servers known from an earlier run may take to come back: their longest pause between
# attempts, and as much again for a busy machine.
GRACE_S: Final = 2 * LONGEST_PAUSE_S

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@define(eq=False)
class _Session:
    """One registered server's connection."""

    node: Identity
    incarnation: int
    connection: RpcProtocol
    registering: bool = False
    # Map version of the assignment that the server has confirmed.
    assigned: int = -1
    assigning: bool = False
    assign_after: float = 0.0
    tips: dict[int, Tip] = field(factory=dict)

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def role(self) -> str:
        return self.node.role


class Members:
    """Who is there. `changed` is called when the state of a server has changed.

    Every coordinator is connected with every server and pings it, so that each knows for itself who
    lives. Only the leader acts on it: it writes registrations down, creates tablets and assigns them. It
    chooses nothing by who is alive before what its predecessor may have chosen by the same pings is
    certainly decided or lost: `_settled_at`.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        role: config.Coordinator,
        decisions: Decisions,
        changed: Callable[[], None],
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._role = role
        self._decisions = decisions
        self._changed = changed
        heartbeat_s = role.heartbeat_ms / 1000
        grace = round(GRACE_S / heartbeat_s) + role.dead_after_missed
        self.detector = Detector(role.dead_after_missed, grace)
        self._sessions: dict[str, _Session] = {}
        self._by_connection: dict[RpcProtocol, _Session] = {}
        self._ping_number = 0
        self._creating = False
        # While this coordinator leads: from when on it may choose by who is alive.
        self._settled_at: float | None = None
        self._heartbeat = LoopingCall(self._beat)
        self._heartbeat.clock = environment.reactor
        self._heartbeat_s = heartbeat_s

    def serve(self, calls: Calls) -> None:
        calls.on_call(Register, self._register)
        calls.on_call(Leave, self._leave)
        calls.on_note(Pong, self._pong)

    def start(self) -> None:
        """Expect those who are known, and begin to ping."""
        self._expect_known()
        self._heartbeat.start(self._heartbeat_s, now=False).addErrback(self._heart_failed)

    def _expect_known(self) -> None:
        now = self._clock.seconds()
        for record in self._decisions.machine.state.nodes.values():
            if record.node.role != "coordinator" and not self.detector.knows(record.node.id):
                self.detector.expect(record.node.id, record.incarnation, now)

    def stop(self) -> None:
        if self._heartbeat.running:
            self._heartbeat.stop()

    @property
    def tips(self) -> dict[str, dict[int, Tip]]:
        """How far each connected storage server's tablets reach."""
        return {session.id: session.tips for session in self._sessions.values()}

    def lost(self, connection: RpcProtocol) -> None:
        """A connection has ended; whether its server has too, the pings will tell."""
        session = self._by_connection.pop(connection, None)
        if session is not None and self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    # -- what servers say ------------------------------------------------------------------------

    async def _register(self, connection: RpcProtocol, register: Register) -> Registered:
        self._check(connection, register)
        if self._decisions.leads:
            # On the others its record arrives by the log.
            await self._write_down(register.node, register.incarnation)
        # Others may have registered under this id, or the connection been lost, during the write.
        self._check(connection, register)
        if not connection.is_open:
            raise Refusal("GONE", "the connection was lost meanwhile")
        self._admit(_Session(register.node, register.incarnation, connection))
        return Registered(self._role.heartbeat_ms)

    async def _write_down(self, node: Identity, incarnation: int) -> None:
        """Register it in the state, if it is not. Raises Refusal, RpcBusy."""
        known = self._decisions.machine.state.nodes.get(node.id)
        if known is None or (known.node, known.incarnation) != (node, incarnation):
            command = RegisterNode(self._environment.now(), node, incarnation)
            result = await decided(self._decisions.propose_here(command))
            if isinstance(result, Rejected):
                raise Refusal(result.code, result.text)

    def _check(self, connection: RpcProtocol, register: Register) -> None:
        node = register.node
        if not _ID.match(node.id) or not node.host or not 0 <= node.port < 65536:
            raise Refusal(
                "BAD_IDENTITY", "an id of letters, digits and ._- and an address are needed"
            )
        if node.role == "coordinator" or node.id == self._role.id:
            raise Refusal("BAD_IDENTITY", f"{node.id} is the id of a coordinator")
        present = self._sessions.get(node.id)
        if present is not None and present.incarnation > register.incarnation:
            raise Refusal(
                "SUPERSEDED",
                f"another {node.id}, started later, is registered: is this id used twice?",
            )

    def _admit(self, session: _Session) -> None:
        before = self._sessions.get(session.id)
        if before is not None and before.connection is not session.connection:
            self._by_connection.pop(before.connection, None)
            before.connection.drop(f"{session.id} has registered by another connection")
        self._sessions[session.id] = session
        self._by_connection[session.connection] = session
        now = self._clock.seconds()
        restarted = self.detector.registered(session.id, session.incarnation, now)
        event = "has started" if restarted else "is here"
        self.log.info("{role} {id} {event}", role=session.role, id=session.id, event=event)
        self._changed()
        self._assign_all()

    def _leave(self, connection: RpcProtocol, leave: Leave) -> Left:
        session = self._by_connection.get(connection)
        if session is not None:
            self.lost(connection)
            self.detector.left(session.id)
            self.log.info("{id} stops in order", id=session.id)
            self._changed()
        return Left()

    def _pong(self, connection: RpcProtocol, pong: Pong) -> None:
        session = self._by_connection.get(connection)
        if session is None:
            return
        before = self.detector.state(session.id)
        if self.detector.heard(session.id, pong.incarnation, self._clock.seconds()):
            session.tips = {tip.tablet: tip for tip in pong.tips}
            if before != "live":
                self.log.info("{id} is back", id=session.id)
                self._changed()

    # -- what servers are told -------------------------------------------------------------------

    def _beat(self) -> None:
        missed = self.detector.tick()
        for node_id in missed:
            state = self.detector.state(node_id)
            self.log.warn("{id} is {state}: it does not answer", id=node_id, state=state)
        if missed:
            self._changed()
        self._ping_number += 1
        for session in list(self._sessions.values()):
            try:
                session.connection.note(Ping(self._ping_number))
            except (Disconnected, RpcBusy) as error:
                self.log.debug("no ping to {id}: {why}", id=session.id, why=str(error))
        self._expect_known()
        if self._leads_now():
            self._write_down_all()
            self._create_tablets()
            self._assign_all()

    def _leads_now(self) -> bool:
        """Whether this coordinator leads; notes when it began to."""
        now = self._clock.seconds()
        leads = self._decisions.leads
        if leads and self._settled_at is None:
            patience = self._role.dead_after_missed * self._heartbeat_s
            self._settled_at = now + patience + self._decisions.timing.election_s
            for session in self._sessions.values():
                session.assigned = -1
        elif not leads:
            self._settled_at = None
        return leads

    def _write_down_all(self) -> None:
        """Those who registered here while another led, or nobody."""
        for session in self._sessions.values():
            if not session.registering:
                session.registering = True
                work = self._write_down(session.node, session.incarnation)
                Deferred.fromCoroutine(work).addBoth(self._written_down, session)

    def _written_down(self, result: Any, session: _Session) -> None:
        session.registering = False
        if not isinstance(result, Failure):
            return
        error = result.value
        if isinstance(error, Refusal):
            if error.code not in ("NOT_LEADER", "UNKNOWN"):
                session.connection.drop(f"{session.id} is refused: {error.text}")
        elif not isinstance(error, PennCloudError):
            self.log.failure("registering {id}", result, id=session.id)

    def _heart_failed(self, failure: Failure) -> None:
        self.log.failure("the coordinator's heartbeat failed and goes on", failure)
        self._heartbeat.start(self._heartbeat_s, now=False).addErrback(self._heart_failed)

    def _create_tablets(self) -> None:
        """Cut the hash space once enough storage servers live: one member each, in turn."""
        if self._creating or self._decisions.machine.state.tablets:
            return
        if self._settled_at is None or self._clock.seconds() < self._settled_at:
            return
        present = sorted(
            session.id
            for session in self._sessions.values()
            if session.role == "storage" and self.detector.state(session.id) == "live"
        )
        if len(present) < self._role.expect_storage:
            return
        tablets = [
            TabletRecord(number, lo, hi, 1, owner, [owner])
            for number, (lo, hi) in enumerate(even_ranges(self._role.initial_tablets), 1)
            for owner in [present[number % len(present)]]
        ]
        self._creating = True
        command = CreateTablets(self._environment.now(), tablets)
        Deferred.fromCoroutine(self._create(command)).addErrback(self._not_created)

    async def _create(self, command: CreateTablets) -> None:
        try:
            result = await self._decisions.propose_here(command)
        finally:
            self._creating = False
        if isinstance(result, Rejected):
            self.log.warn("tablets not created: {text}", text=result.text)
        else:
            self.log.info("{count} tablets created", count=len(command.tablets))
            self._assign_all()

    def _not_created(self, failure: Failure) -> None:
        if failure.check(PennCloudError):
            self.log.warn("tablets not created: {why}", why=failure.getErrorMessage())
        else:
            self.log.failure("creating tablets", failure)

    def _assign_all(self) -> None:
        """Tell every storage server that has not yet confirmed the present map."""
        if not self._decisions.leads:
            return
        version = self._decisions.machine.state.map_version
        now = self._clock.seconds()
        for session in self._sessions.values():
            current = session.assigned == version or session.role != "storage" or not version
            if not current and not session.assigning and session.assign_after <= now:
                session.assigning = True
                Deferred.fromCoroutine(self._assign(session)).addErrback(
                    self._not_assigned, session
                )

    async def _assign(self, session: _Session) -> None:
        state = self._decisions.machine.state
        tablets = [
            TabletAssignment(t.id, t.lo, t.hi, t.epoch, t.primary, t.members, session.id in t.taken)
            for t in state.tablets.values()
            if session.id in t.members
        ]
        message = Assign(state.map_version, tablets)
        try:
            await session.connection.call(message, Assigned, ASSIGN_TIMEOUT_S)
            if new := [tablet.id for tablet in tablets if not tablet.taken]:
                await self._decisions.propose_here(
                    TakeTablets(self._environment.now(), session.id, new)
                )
            session.assigned = message.map_version
        finally:
            session.assigning = False

    def _not_assigned(self, failure: Failure, session: _Session) -> None:
        session.assign_after = self._clock.seconds() + ASSIGN_RETRY_S
        if failure.check(Disconnected):
            return
        if failure.check(PennCloudError):
            why = failure.getErrorMessage()
            self.log.warn("{id} has not taken its tablets: {why}", id=session.id, why=why)
        else:
            self.log.failure("assigning tablets to {id}", failure, id=session.id)
