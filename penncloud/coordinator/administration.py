"""What an administrator has the coordinators do with storage servers: drain, remove, force a primary.

Any coordinator takes these calls: each hears every server itself, and what it decides goes through the log.
"""

from __future__ import annotations

from typing import Final

from penncloud.coordinator.commands import (
    Command,
    DrainNode,
    ForcePrimary,
    ForgetNode,
    Rejected,
    TabletRecord,
)
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.members import Members
from penncloud.coordinator.messages import DrainServer, ForceTablet, RemoveServer, ServerChanged
from penncloud.coordinator.refusals import decided
from penncloud.platform.environment import Environment
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol

ADMINISTRATORS: Final = frozenset(("admin",))


class Administration:
    """`copies`: how many members a tablet should have; so many servers have to be left."""

    def __init__(
        self, environment: Environment, copies: int, decisions: Decisions, members: Members
    ) -> None:
        self._environment = environment
        self._copies = copies
        self._decisions = decisions
        self._members = members

    def serve(self, calls: Calls) -> None:
        calls.on_call(DrainServer, self._drain, ADMINISTRATORS)
        calls.on_call(RemoveServer, self._remove, ADMINISTRATORS)
        calls.on_call(ForceTablet, self._force, ADMINISTRATORS)

    async def _drain(self, connection: RpcProtocol, call: DrainServer) -> ServerChanged:
        now = self._environment.now()
        command = DrainNode(now, call.id, call.draining, self._copies, call.request)
        return await self._decide(command)

    async def _remove(self, connection: RpcProtocol, call: RemoveServer) -> ServerChanged:
        await decided(self._decisions.read_barrier())
        state = self._decisions.machine.state
        repeated = call.request in state.requests
        if not repeated and self._members.detector.state(call.id) != "dead":
            raise Refusal("STILL_RUNS", f"{call.id} still runs, or was heard of just now: stop it")
        last = [t for t in state.tablets.values() if t.members == [call.id]]
        instead = {}
        if call.accept_data_loss:
            instead = {tablet.id: self._instead(tablet, call.id) for tablet in last}
        now = self._environment.now()
        command = ForgetNode(now, call.id, call.accept_data_loss, instead, call.request)
        return await self._decide(command)

    def _instead(self, tablet: TabletRecord, gone: str) -> str:
        """Who goes on with a tablet whose only member is lost: the one with the best old copy, else the
        one with the fewest tablets; empty for nobody."""
        sight, state = self._members.sight(), self._decisions.machine.state
        able = sorted(one for one in sight.seen if one != gone and sight.liveness(one) == "live")
        held = [one for one in able if sight.usable(tablet.id, one)]
        if held:
            tips = {one: sight.seen[one].tips[tablet.id] for one in held}
            return max(held, key=lambda one: (tips[one].entry_cfg, tips[one].version))
        count = {one: sum(one in t.members for t in state.tablets.values()) for one in able}
        return min(able, key=lambda one: (count[one], one), default="")

    async def _force(self, connection: RpcProtocol, call: ForceTablet) -> ServerChanged:
        await decided(self._decisions.read_barrier())
        now, state = self._environment.now(), self._decisions.machine.state
        if call.request in state.requests:
            # It has its answer, whatever has become of the tablet since.
            return await self._decide(
                ForcePrimary(now, call.tablet, 0, call.primary, 0, call.request)
            )
        known = state.tablets.get(call.tablet)
        if known is None:
            raise Refusal("NO_SUCH_TABLET", f"there is no tablet {call.tablet}")
        sight = self._members.sight()
        seen = sight.seen.get(call.primary)
        if seen is None or sight.liveness(call.primary) == "dead":
            raise Refusal("NOT_LIVE", f"{call.primary} is no storage server that lives")
        if not seen.can_use(call.tablet):
            raise Refusal("NO_COPY", f"{call.primary} has no usable copy of tablet {call.tablet}")
        return await self._decide(
            ForcePrimary(now, known.id, known.epoch, call.primary, seen.incarnation, call.request)
        )

    async def _decide(self, command: Command) -> ServerChanged:
        result = await decided(self._decisions.propose(command))
        if isinstance(result, Rejected):
            raise Refusal(result.code, result.text)
        return ServerChanged()
