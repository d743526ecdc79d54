"""The coordinator's side of `rpc.registration`: registers servers, pings them, hears how they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.commands import RegisterNode, Rejected
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.detector import Detector
from penncloud.coordinator.records import NodeRecord
from penncloud.coordinator.refusals import decided
from penncloud.coordinator.succession import Seen, Sight
from penncloud.platform import config
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Disconnected, Refusal, RpcBusy
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import (
    LONGEST_PAUSE_S,
    Coordinators,
    Identity,
    Leave,
    Left,
    MailPart,
    Ping,
    Pong,
    Register,
    Registered,
    Tip,
    Worker,
)

# How long the servers known from an earlier run may take to come back: their longest pause between
# attempts, and as much again for a busy machine.
GRACE_S: Final = 2 * LONGEST_PAUSE_S

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@define(eq=False)
class Session:
    """One registered server's connection."""

    node: Identity
    incarnation: int
    connection: RpcProtocol
    registering: bool = False
    # How far its tablets reach, by its last answer to a ping; None before the first.
    tips: dict[int, Tip] | None = None
    # The processes of a frontend, by the same answer.
    workers: Sequence[Worker] = ()
    # Since when it has answered without a gap.
    live_since: float = 0.0
    # It is not told again before then that it may drop copies.
    drop_after: float = 0.0
    # The coordinators that it was told of.
    group: dict[str, str] | None = None
    # What the part for mail of a frontend does, by its last answer to a ping.
    mail: MailPart = ""

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def role(self) -> str:
        return self.node.role


class Members:
    """Who is there. `changed` is called when the state of a server has changed, `beat` after every round
    of pings; `group` gives the addresses of the coordinators by id.

    Every coordinator is connected with every server and pings it, so that each knows for itself who
    lives. Only the leader acts on it.
    """

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        role: config.Coordinator,
        decisions: Decisions,
        *,
        changed: Callable[[], None],
        beat: Callable[[], None],
        group: Callable[[], dict[str, str]],
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._role = role
        self._decisions = decisions
        self._changed = changed
        self._after_beat = beat
        self._group = group
        heartbeat_s = role.heartbeat_ms / 1000
        grace = round(GRACE_S / heartbeat_s) + role.dead_after_missed
        self.detector = Detector(role.dead_after_missed, grace)
        self.sessions: dict[str, Session] = {}
        self._by_connection: dict[RpcProtocol, Session] = {}
        self._ping_number = 0
        self._heartbeat = LoopingCall(self._beat)
        self._heartbeat.clock = environment.reactor
        self._heartbeat_s = heartbeat_s

    def serve(self, calls: Calls) -> None:
        calls.on_call(Register, self._register)
        calls.on_call(Leave, self._leave)
        calls.on_note(Pong, self._pong)

    def start(self) -> None:
        """Expect those who are known, and begin to ping."""
        self.expect_known()
        self._heartbeat.start(self._heartbeat_s, now=False).addErrback(self._heart_failed)

    def expect_known(self) -> None:
        """Wait for those that the state knows and that were not heard of here: a server that has yet to find
        this coordinator is not dead. To be called before anybody acts on a state that has changed."""
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
        return {session.id: session.tips or {} for session in self.sessions.values()}

    @property
    def mail(self) -> dict[str, MailPart]:
        """What the connected frontends' parts for mail do."""
        return {session.id: session.mail for session in self.sessions.values()}

    @property
    def workers(self) -> dict[str, Sequence[Worker]]:
        """The processes of each connected frontend that has several."""
        sessions = self.sessions.values()
        return {session.id: session.workers for session in sessions if session.workers}

    def sight(self) -> Sight:
        """Who lives and what the storage servers have told."""
        seen = {
            session.id: Seen(session.incarnation, session.tips)
            for session in self.sessions.values()
            if session.role == "storage" and session.tips is not None
        }
        return Sight(self.detector.state, seen)

    def lost(self, connection: RpcProtocol) -> None:
        """A connection has ended; whether its server has too, the pings will tell."""
        session = self._by_connection.pop(connection, None)
        if session is not None and self.sessions.get(session.id) is session:
            del self.sessions[session.id]

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
        self._admit(Session(register.node, register.incarnation, connection))
        return Registered(self._role.heartbeat_ms)

    async def _write_down(self, node: Identity, incarnation: int) -> None:
        """Register it in the state, if it is not. Raises Refusal, RpcBusy."""
        known = self._decisions.machine.state.nodes.get(node.id)
        if known is None or (known.node, known.incarnation) != (node, incarnation):
            over = self._ended(known) if known is not None else 0
            command = RegisterNode(self._environment.now(), node, incarnation, over)
            result = await decided(self._decisions.propose_here(command))
            if isinstance(result, Rejected):
                raise Refusal(result.code, result.text)

    def _ended(self, known: NodeRecord) -> int:
        """The incarnation, if that process certainly is no more; else 0."""
        gone = known.node.id not in self.sessions
        return known.incarnation if gone and self.detector.state(known.node.id) == "dead" else 0

    def _check(self, connection: RpcProtocol, register: Register) -> None:
        node = register.node
        if not _ID.match(node.id) or not node.host or not 0 <= node.port < 65536:
            raise Refusal(
                "BAD_IDENTITY", "an id of letters, digits and ._- and an address are needed"
            )
        holder = connection.certified
        if holder is not None and (holder.role, holder.id) != (node.role, node.id):
            raise Refusal("FORBIDDEN", f"the certificate is of {holder}, not of {node.id}")
        if node.role == "coordinator" or node.id == self._role.id:
            raise Refusal("BAD_IDENTITY", f"{node.id} is the id of a coordinator")
        present = self.sessions.get(node.id)
        if present is not None and present.incarnation > register.incarnation:
            raise Refusal(
                "SUPERSEDED",
                f"another {node.id}, started later, is registered: is this id used twice?",
            )

    def _admit(self, session: Session) -> None:
        before = self.sessions.get(session.id)
        if before is not None and before.connection is not session.connection:
            self._by_connection.pop(before.connection, None)
            before.connection.drop(f"{session.id} has registered by another connection")
        self.sessions[session.id] = session
        self._by_connection[session.connection] = session
        now = self._clock.seconds()
        restarted = self.detector.registered(session.id, session.incarnation, now)
        event = "has started" if restarted else "is here"
        self.log.info("{role} {id} {event}", role=session.role, id=session.id, event=event)
        session.live_since = now
        self._changed()

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
            news = session.tips is None or session.mail != pong.mail
            session.mail = pong.mail
            session.tips = {tip.tablet: tip for tip in pong.tips}
            session.workers = pong.workers
            if before != "live":
                self.log.info("{id} is back", id=session.id)
                session.live_since = self._clock.seconds()
            if news or before != "live":
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
        group = self._group()
        for session in list(self.sessions.values()):
            try:
                if session.group != group:
                    session.connection.note(Coordinators(self._role.id, group))
                    session.group = group
                session.connection.note(Ping(self._ping_number))
            except (Disconnected, RpcBusy) as error:
                self.log.debug("no ping to {id}: {why}", id=session.id, why=str(error))
        self._after_beat()

    def write_down_all(self) -> None:
        """Those who registered here while another led, or nobody; not one that is dead, and may have
        been removed for that."""
        for session in self.sessions.values():
            if not session.registering and self.detector.state(session.id) != "dead":
                session.registering = True
                work = self._write_down(session.node, session.incarnation)
                Deferred.fromCoroutine(work).addBoth(self._written_down, session)

    def _written_down(self, result: Any, session: Session) -> None:
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
