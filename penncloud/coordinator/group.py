"""A coordinator's place in the group: founding it, joining it, and the members coming and going.

`keep_up` is the one function that acts; it is called whenever something may have changed (an answer of
another coordinator, a command applied, a new leader) and does what is due: takes the next step of the
founding, makes this coordinator's address known, and on the leader promotes learners that have caught up
and forgets coordinators that were removed.
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.commands import ForgetCoordinator, RegisterNode, Rejected
from penncloud.coordinator.decisions import DEADLINE_S, Decisions
from penncloud.coordinator.founding import Begin, Found, Join, Lost, Misfit, Wait, next_step
from penncloud.coordinator.group_messages import (
    Decide,
    Decided,
    GroupRole,
    Phase,
    RaftNote,
    Who,
    WhoIs,
    decode_message,
)
from penncloud.coordinator.messages import (
    AddCoordinator,
    GroupChanged,
    RemoveCoordinator,
    TransferLeadership,
)
from penncloud.coordinator.peers import Peers
from penncloud.coordinator.raft_store import Kept, RaftStore
from penncloud.coordinator.refusals import decided
from penncloud.coordinator.view import CoordinatorSeen
from penncloud.platform.config import Cluster
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.raft.messages import Membership
from penncloud.raft.node import MembershipRefused
from penncloud.rpc.calls import Calls
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.errors import Refusal, RpcError
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import Identity

# More voters make every decision slower and survive losses that nobody has.
MAX_MEMBERS: Final = 9
# Who may vote and decide; who may have the group changed (a coordinator passes on what it was asked).
GROUP: Final = ("coordinator",)
CHANGERS: Final = ("admin", "coordinator")
# Pause after an attempt of `keep_up` that failed.
RETRY_S: Final = 0.5
LOST_REMINDER_S: Final = 30.0


@define(eq=False)
class Group:
    """`store` is open; `kept` is what it held, None for nothing."""

    _environment: Environment
    _cluster: Cluster
    _store: RaftStore
    _decisions: Decisions
    _peers: Peers
    _log: Logger = field(factory=Logger, init=False)
    _identity: Identity = field(init=False)
    _incarnation: int = field(default=0, init=False)
    _phase: Phase = field(default="blank", init=False)
    _kept: Kept | None = field(default=None, init=False)
    _acting: bool = field(default=False, init=False)
    _again: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _rest_until: float = field(default=0.0, init=False)
    _announce_after: float = field(default=0.0, init=False)
    _said: str = field(default="", init=False)
    _said_at: float = field(default=0.0, init=False)

    def serve(self, calls: Calls) -> None:
        calls.on_call(WhoIs, self._who_is, GROUP)
        calls.on_call(Decide, self._decide, GROUP)
        calls.on_note(RaftNote, self._receive, GROUP)
        calls.on_call(AddCoordinator, self._add, CHANGERS)
        calls.on_call(RemoveCoordinator, self._remove, CHANGERS)
        calls.on_call(TransferLeadership, self._transfer, CHANGERS)

    async def start(
        self, identity: Identity, incarnation: int, kept: Kept | None, secret: bytes
    ) -> None:
        """Begin, or begin to look for the others. Raises RaftStoreDamaged, DiskError."""
        self._identity, self._incarnation, self._kept = identity, incarnation, kept
        own_address = address_text(identity.host, identity.port)
        self._peers.start(own_address, secret)
        if kept is not None:
            self._phase = "founded"
            fresh = not kept.hard_state.term and not kept.snapshot.index and not kept.entries
            alone = kept.snapshot.membership.voters <= {identity.id}
            if not fresh or alone:
                self._begin(kept)
        elif len(self._cluster.coordinators) <= 1:
            alone_here = Membership(frozenset({identity.id}))
            self._begin(await self._store.found(alone_here, b""))
        self.keep_up()

    def stop(self) -> None:
        self._stopped = True

    def _begin(self, kept: Kept) -> None:
        self._decisions.begin(kept)
        self._phase = "begun"

    # -- how the group looks from here -----------------------------------------------------------

    def own(self) -> Who:
        """This coordinator as the others are told of it."""
        decisions = self._decisions
        members = decisions.membership
        if self._phase == "founded" and self._kept is not None:
            members = self._kept.snapshot.membership
        return Who(
            self._identity.id,
            self._phase,
            sorted(members.voters),
            sorted(members.learners),
            self._role(),
            decisions.term,
            decisions.leader,
            self._identity.pid,
        )

    def _role(self) -> GroupRole:
        role = self._decisions.role
        if self._identity.id in self._decisions.membership.learners:
            return "learner"
        return "candidate" if role == "pre-candidate" else role

    def coordinators(self) -> dict[str, CoordinatorSeen]:
        """Every member by id, as it was last seen."""
        own = self.own()
        found = {own.id: CoordinatorSeen(own.role, own.term, 0.0, alive=True)}
        seen = self._peers.seen()
        for node_id in sorted(self._decisions.membership.everyone - {own.id}):
            if node_id not in seen:
                found[node_id] = CoordinatorSeen("unreachable", 0, 0.0, alive=False)
                continue
            who, age_s, alive = seen[node_id]
            role = who.role if alive else "unreachable"
            found[node_id] = CoordinatorSeen(role, who.term, age_s, alive)
        return found

    def addresses(self) -> dict[str, str]:
        """host:port of every member that has told it, by id."""
        nodes = self._decisions.machine.state.nodes
        return {
            node_id: address_text(nodes[node_id].node.host, nodes[node_id].node.port)
            for node_id in sorted(self._decisions.membership.everyone)
            if node_id in nodes and nodes[node_id].node.port
        }

    # -- what the others ask ---------------------------------------------------------------------

    def _who_is(self, connection: RpcProtocol, message: WhoIs) -> Who:
        return self.own()

    def _receive(self, connection: RpcProtocol, note: RaftNote) -> None:
        try:
            message = decode_message(note)
        except ValueError as error:
            self._log.warn("from {peer}: {why}", peer=connection.peer, why=str(error))
            return
        holder = connection.certified
        if holder is not None and holder.id != message.sender:
            connection.drop(f"{holder} speaks for {message.sender}")
        else:
            self._decisions.receive(message)

    async def _decide(self, connection: RpcProtocol, message: Decide) -> Decided:
        return Decided(await decided(self._decisions.propose_here(message.command)))

    async def _add(self, connection: RpcProtocol, message: AddCoordinator) -> GroupChanged:
        if not self._decisions.leads:
            return await self._forward(message)
        members = self._decisions.membership
        if message.id not in members.everyone:
            if message.by_hand:
                where = address_text(message.host, message.port)
                raise Refusal(
                    "NOT_STARTED",
                    f"{message.id} has not asked to be taken in: start it, with {where} and the group's"
                    " addresses in `coordinators`",
                )
            if len(members.everyone) >= MAX_MEMBERS:
                raise Refusal("TOO_MANY", f"a group has at most {MAX_MEMBERS} coordinators")
            learners = members.learners | {message.id}
            await self._change(Membership(members.voters, learners))
            self._log.info("{id} is added and catches up", id=message.id)
        if message.id not in self._decisions.machine.state.nodes:
            identity = Identity("coordinator", message.id, message.host, message.port, 0)
            command = RegisterNode(self._environment.now(), identity, 0)
            result = await decided(self._decisions.propose_here(command))
            if isinstance(result, Rejected):
                raise Refusal(result.code, result.text)
        self.keep_up()
        return GroupChanged()

    async def _remove(self, connection: RpcProtocol, message: RemoveCoordinator) -> GroupChanged:
        if not self._decisions.leads:
            return await self._forward(message)
        members = self._decisions.membership
        if message.id not in members.everyone:
            raise Refusal("NO_SUCH_NODE", f"there is no coordinator {message.id} in the group")
        if members.voters == {message.id}:
            raise Refusal("LAST", f"{message.id} is the last coordinator")
        if message.id == self._identity.id:
            # The leader does not remove itself: its successor does, and is there to tell of it.
            self._hand_to("")
            raise Refusal("NOT_LEADER", f"{message.id} hands leadership over first")
        await self._change(
            Membership(members.voters - {message.id}, members.learners - {message.id})
        )
        self.keep_up()
        return GroupChanged()

    async def _transfer(self, connection: RpcProtocol, message: TransferLeadership) -> GroupChanged:
        if not self._decisions.leads:
            if message.to and self._decisions.leader == message.to:
                return GroupChanged()
            return await self._forward(message)
        if message.to != self._identity.id:
            self._hand_to(message.to)
        return GroupChanged()

    def _hand_to(self, to: str) -> None:
        """An empty name stands for the one that is furthest."""
        node = self._decisions.node
        assert node is not None
        others = node.voters_by_progress()
        if not others:
            raise Refusal("LAST", "there is no other coordinator to lead")
        try:
            self._decisions.transfer(to or others[0])
        except MembershipRefused as error:
            raise Refusal("NO_SUCH_NODE", str(error)) from error

    async def _change(self, membership: Membership) -> None:
        try:
            await decided(self._decisions.change_membership(membership))
        except MembershipRefused as error:
            raise Refusal("NOT_NOW", f"{error}; try again") from error

    async def _forward(self, message: msgspec.Struct) -> GroupChanged:
        """What only the leader can do, asked of it; nobody asks on from there in a circle."""
        leader = self._decisions.leader
        if not leader or leader == self._identity.id:
            raise Refusal("NOT_LEADER", "no coordinator leads at the moment")
        try:
            return await self._peers.call(leader, message, GroupChanged, DEADLINE_S)
        except Refusal:
            raise
        except RpcError as error:
            raise Refusal("NOT_LEADER", f"{leader}: {error}") from error

    # -- what is due -----------------------------------------------------------------------------

    def keep_up(self) -> None:
        """Do what is due now; see the module."""
        self._again = True
        if not self._acting and not self._stopped:
            self._acting = True
            Deferred.fromCoroutine(self._act()).addErrback(self._act_failed)

    async def _act(self) -> None:
        try:
            while self._again and not self._stopped:
                self._again = False
                self._peers.connect_to(self._addresses())
                if self._phase != "begun":
                    await self._step()
                elif self._environment.reactor.seconds() >= self._rest_until:
                    await self._maintain()
        finally:
            self._acting = False

    def _act_failed(self, failure: Failure) -> None:
        self._rest_until = self._environment.reactor.seconds() + RETRY_S
        if failure.check(PennCloudError, MembershipRefused):
            self._say(f"not yet in order: {failure.getErrorMessage()}")
        else:
            self._log.failure("keeping up with the group of coordinators", failure)

    def _addresses(self) -> list[str]:
        """The configured ones, and those of members that were added at run time."""
        configured = self._cluster.coordinators if len(self._cluster.coordinators) > 1 else []
        known = [
            address_text(record.node.host, record.node.port)
            for record in self._decisions.machine.state.nodes.values()
            if record.node.role == "coordinator" and record.node.id != self._identity.id
        ]
        return list(dict.fromkeys([*configured, *known]))

    async def _step(self) -> None:
        addresses = self._cluster.coordinators
        others = self._peers.answers(addresses)
        if len(others) >= len(addresses):
            address = address_text(self._identity.host, self._identity.port)
            self._say(f"this coordinator's own address {address} is not in `coordinators`")
            return
        step = next_step(self.own(), others)
        if isinstance(step, Found):
            self._kept = await self._store.found(Membership(step.members), b"")
            self._phase = "founded"
            names = ", ".join(sorted(step.members))
            self._log.info("a new group of coordinators: {names}", names=names)
        elif isinstance(step, Begin):
            assert self._kept is not None
            self._begin(self._kept)
        elif isinstance(step, Join):
            self._begin(await self._store.found(Membership(frozenset()), b""))
        elif isinstance(step, Lost):
            self._say(
                f"{self._identity.id} belongs to the group, but its data directory is empty: it cannot"
                " take part, as it has forgotten its votes. `penncloud coordinator remove"
                f" {self._identity.id}` takes it out of the group; it then joins anew by itself"
            )
        elif isinstance(step, Wait | Misfit):
            self._say(step.why)

    def _say(self, why: str) -> None:
        """Once, and again after a while."""
        now = self._environment.reactor.seconds()
        if why != self._said or now - self._said_at >= LOST_REMINDER_S:
            self._said, self._said_at = why, now
            self._log.warn("{id}: {why}", id=self._identity.id, why=why)

    async def _maintain(self) -> None:
        decisions = self._decisions
        members = decisions.membership
        if not members.everyone:
            await self._ask_to_be_added()
            return
        if self._identity.id in members.everyone and (decisions.leads or decisions.leader):
            await self._announce()
        if decisions.leads:
            await self._promote(members)
            await self._forget(members)

    async def _ask_to_be_added(self) -> None:
        """Any coordinator that has begun passes it on to the leader."""
        identity = self._identity
        message = AddCoordinator(identity.id, identity.host, identity.port)
        self._rest_until = self._environment.reactor.seconds() + RETRY_S
        for node_id, (who, _, alive) in self._peers.seen().items():
            if alive and who.phase == "begun" and who.voters:
                try:
                    await self._peers.call(node_id, message, GroupChanged, DEADLINE_S)
                except RpcError as error:
                    self._say(f"not yet added by {node_id}: {error}")
                else:
                    return

    async def _announce(self) -> None:
        """Where this coordinator is, and that it has started."""
        known = self._decisions.machine.state.nodes.get(self._identity.id)
        if known is not None and (known.node, known.incarnation) == (
            self._identity,
            self._incarnation,
        ):
            return
        now = self._environment.reactor.seconds()
        if now < self._announce_after:
            return
        # What the leader has decided takes a moment to arrive here.
        self._announce_after = now + RETRY_S
        own = self._identity
        # Whoever had this address before has ended: its clock may have been ahead of ours.
        same = known is not None and (known.node.host, known.node.port) == (own.host, own.port)
        over = known.incarnation if same and known is not None else 0
        command = RegisterNode(self._environment.now(), own, self._incarnation, over)
        result = await self._decisions.propose(command)
        if isinstance(result, Rejected):
            raise Unregistered(result.text)

    async def _promote(self, members: Membership) -> None:
        node = self._decisions.node
        assert node is not None
        for learner in sorted(members.learners):
            if node.caught_up(learner):
                voters = members.voters | {learner}
                await self._decisions.change_membership(
                    Membership(voters, members.learners - {learner})
                )
                self._log.info("{id} has caught up and votes now", id=learner)
                self._again = True
                return

    async def _forget(self, members: Membership) -> None:
        for record in list(self._decisions.machine.state.nodes.values()):
            node = record.node
            if node.role == "coordinator" and node.id not in members.everyone:
                command = ForgetCoordinator(self._environment.now(), node.id)
                await self._decisions.propose_here(command)


class Unregistered(PennCloudError):
    """The group does not take this coordinator under its id."""
