"""The view of the cluster: what was decided and what is observed, side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from penncloud.coordinator.commands import TabletRecord
from penncloud.coordinator.detector import Detector
from penncloud.coordinator.messages import (
    ClusterView,
    CoordinatorInfo,
    CoordinatorRole,
    NodeInfo,
    NodeState,
    TabletInfo,
    TabletState,
)
from penncloud.coordinator.records import NodeRecord, State
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.registration import MailPart, Tip, Worker

# Storage server -> tablet -> how far its copy reaches.
Tips = Mapping[str, Mapping[int, Tip]]


@frozen
class CoordinatorSeen:
    """A coordinator as another sees it: what it told `age_s` seconds ago."""

    role: CoordinatorRole
    term: int
    age_s: float
    alive: bool


@frozen
class Observer:
    """One coordinator's sight: what was decided, whom it hears, and the members of its group.

    `copies`: how many members a tablet should have, if there are so many servers. `mail`: what the mail
    servers within frontends do. `workers`: the processes of frontends that have several, by id.
    `is_balanced` asks the planner.
    """

    state: State
    detector: Detector
    tips: Tips
    coordinators: Mapping[str, CoordinatorSeen]
    copies: int = 1
    mail: Mapping[str, MailPart] = field(factory=dict)
    workers: Mapping[str, Sequence[Worker]] = field(factory=dict)
    is_balanced: Callable[[], bool] = lambda: False

    def liveness(self, node_id: str) -> Literal["live", "suspected", "dead"]:
        if (coordinator := self.coordinators.get(node_id)) is not None:
            return "live" if coordinator.alive else "dead"
        return self.detector.state(node_id)

    def address(self, node_id: str) -> str:
        """host:port of a server that may be handed out; empty for one that is dead or not known."""
        record = self.state.nodes.get(node_id)
        if record is None or self.liveness(node_id) == "dead":
            return ""
        return address_text(record.node.host, record.node.port)

    def nodes(self, now: float) -> list[NodeInfo]:
        """All servers, by role and id. `now` is in the detector's time."""
        records = self.state.nodes.values()
        ordered = sorted(records, key=lambda record: (record.node.role, _natural(record.node.id)))
        return [self._node(record, now) for record in ordered]

    def cluster(self, now: float) -> ClusterView:
        return ClusterView(
            nodes=self.nodes(now),
            coordinators=list(self._coordinators()),
            tablets=[self._tablet(record) for record in self.state.tablets.values()],
            balanced=self.is_balanced(),
        )

    def _node(self, record: NodeRecord, now: float) -> NodeInfo:
        node = record.node
        return NodeInfo(
            role=node.role,
            id=node.id,
            host=node.host,
            port=node.port,
            pid=node.pid,
            state=self._node_state(record),
            enabled=record.enabled,
            incarnation=record.incarnation,
            agent=node.agent,
            metrics_port=node.metrics_port,
            seen_s=round(self._seen_s(node.id, now), 3),
            draining=record.draining,
            scheme=node.scheme,
            mail=self.mail.get(node.id, ""),
            workers=tuple(self.workers.get(node.id, ())),
        )

    def _node_state(self, record: NodeRecord) -> NodeState:
        liveness = self.liveness(record.node.id)
        if liveness == "live" and record.draining and not self._holds_tablets(record.node.id):
            return "drained"
        return liveness

    def _holds_tablets(self, node_id: str) -> bool:
        return any(
            node_id in (*tablet.members, *tablet.learners) for tablet in self.state.tablets.values()
        )

    def _seen_s(self, node_id: str, now: float) -> float:
        coordinator = self.coordinators.get(node_id)
        return self.detector.seen_s(node_id, now) if coordinator is None else coordinator.age_s

    def _coordinators(self) -> Iterable[CoordinatorInfo]:
        for node_id in sorted(self.coordinators, key=_natural):
            record = self.state.nodes.get(node_id)
            if record is not None:
                node, seen = record.node, self.coordinators[node_id]
                yield CoordinatorInfo(node_id, node.host, node.port, node.pid, seen.role, seen.term)

    def _tablet(self, record: TabletRecord) -> TabletInfo:
        return TabletInfo(
            id=record.id,
            lo=record.lo,
            hi=record.hi,
            epoch=record.epoch,
            primary=record.primary,
            members=record.members,
            lag=self._lag(record),
            state=self._tablet_state(record),
            learners=record.learners,
            leaving=record.leaving,
        )

    def _tablet_state(self, record: TabletRecord) -> TabletState:
        declined = self._tip(record, record.primary).declined
        if not self.address(record.primary) or declined == record.epoch:
            return "unavailable"
        if any(self._tip(record, member).damaged for member in record.members):
            return "damaged"
        usable = sum(
            self.liveness(member) != "dead" and self._tip(record, member).eligible
            for member in record.members
        )
        storage = sum(one.node.role == "storage" for one in self.state.nodes.values())
        return "degraded" if usable < min(self.copies, storage) else "ok"

    def _tip(self, record: TabletRecord, node_id: str) -> Tip:
        """What it told last; before that nothing bad is known."""
        tip = self.tips.get(node_id, {}).get(record.id)
        return Tip(record.id, 0, 0) if tip is None else tip

    def _lag(self, record: TabletRecord) -> dict[str, int]:
        """Versions behind the primary, for the members and learners of which something is known."""
        first = self.tips.get(record.primary, {}).get(record.id)
        if first is None:
            return {}
        reached = {
            one: max(0, first.version - tip.version)
            for one in (*record.members, *record.learners)
            if (tip := self.tips.get(one, {}).get(record.id)) is not None
        }
        return {**reached, **first.lag}


def _natural(node_id: str) -> tuple[str, int, str]:
    """http-2 before http-10."""
    name, _, number = node_id.rpartition("-")
    return (name, int(number), "") if number.isdecimal() else (node_id, 0, node_id)
