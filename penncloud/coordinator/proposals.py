"""What storage servers ask of the coordinators: any of them takes it, the leader decides."""

from __future__ import annotations

from typing import Final

from penncloud.coordinator.assignments import Assignments
from penncloud.coordinator.commands import (
    Applied,
    ChangeMembers,
    Rejected,
    ReserveIds,
    SplitTablet,
)
from penncloud.coordinator.commands import (
    Reserved as ReservedIds,
)
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.refusals import decided
from penncloud.platform.environment import Environment
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.registration import (
    Assign,
    FetchAssignment,
    Propose,
    Proposed,
    ProposeSplit,
    Reserved,
    ReserveTablets,
)

# Who holds tablets, and so may propose what becomes of them.
PROPOSERS: Final = ("storage",)


class Proposals:
    """See the module, and `rpc.registration` for each call."""

    def __init__(
        self, environment: Environment, decisions: Decisions, assignments: Assignments
    ) -> None:
        self._environment = environment
        self._decisions = decisions
        self._assignments = assignments

    def serve(self, calls: Calls) -> None:
        calls.on_call(FetchAssignment, self._fetch, PROPOSERS)
        calls.on_call(Propose, self._propose, PROPOSERS)
        calls.on_call(ProposeSplit, self._split, PROPOSERS)
        calls.on_call(ReserveTablets, self._reserve, PROPOSERS)

    async def _fetch(self, connection: RpcProtocol, call: FetchAssignment) -> Assign:
        _check_sender(connection, call.sender)
        await decided(self._decisions.read_barrier())
        return self._assignments.of(call.sender)

    async def _propose(self, connection: RpcProtocol, call: Propose) -> Proposed:
        _check_sender(connection, call.sender)
        return await self._decide(
            ChangeMembers(
                self._environment.now(),
                call.sender,
                call.sender_incarnation,
                call.tablet,
                call.expect,
                call.primary,
                call.incarnation,
                call.members,
            )
        )

    async def _split(self, connection: RpcProtocol, call: ProposeSplit) -> Proposed:
        _check_sender(connection, call.sender)
        return await self._decide(
            SplitTablet(
                self._environment.now(),
                call.sender,
                call.sender_incarnation,
                call.tablet,
                call.expect,
                call.at,
                call.low,
                call.high,
            )
        )

    async def _decide(self, command: ChangeMembers | SplitTablet) -> Proposed:
        result = await decided(self._decisions.propose(command))
        if isinstance(result, Rejected):
            return Proposed(False, result.epoch, result.text)
        return Proposed(True, result.epoch if isinstance(result, Applied) else 0)

    async def _reserve(self, connection: RpcProtocol, call: ReserveTablets) -> Reserved:
        result = await decided(
            self._decisions.propose(ReserveIds(self._environment.now(), call.count))
        )
        if isinstance(result, Rejected):
            raise Refusal(result.code, result.text)
        assert isinstance(result, ReservedIds)
        return Reserved(result.first)


def _check_sender(connection: RpcProtocol, sender: str) -> None:
    """Nobody proposes in another's name."""
    holder = connection.certified
    if holder is not None and holder.id != sender:
        raise Refusal("FORBIDDEN", f"the certificate is of {holder}, not of {sender}")
