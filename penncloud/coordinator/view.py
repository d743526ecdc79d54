"""The view of the cluster: what was decided and what is observed, side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import frozen

from penncloud.coordinator.detector import Detector
from penncloud.coordinator.messages import (
    ClusterView,
    CoordinatorInfo,
    CoordinatorRole,
    NodeInfo,
    TabletInfo,
)
from penncloud.coordinator.state import NodeRecord, State, TabletRecord
from penncloud.rpc.endpoints import address_text
from penncloud.rpc.registration import Tip

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
    """One coordinator's sight: what was decided, whom it hears, and the members of its group."""

    state: State
    detector: Detector
    tips: Tips
    coordinators: Mapping[str, CoordinatorSeen]

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
        )

    def _node(self, record: NodeRecord, now: float) -> NodeInfo:
        node = record.node
        return NodeInfo(
            role=node.role,
            id=node.id,
            host=node.host,
            port=node.port,
            pid=node.pid,
            state=self.liveness(node.id),
            enabled=record.enabled,
            incarnation=record.incarnation,
            agent=node.agent,
            metrics_port=node.metrics_port,
            seen_s=round(self._seen_s(node.id, now), 3),
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
        state: Literal["ok", "degraded", "damaged", "unavailable"] = "ok"
        tip = self.tips.get(record.primary, {}).get(record.id)
        if not self.address(record.primary):
            state = "unavailable"
        elif tip is not None and tip.damaged:
            state = "damaged"
        elif any(self.liveness(member) == "dead" for member in record.members):
            state = "degraded"
        return TabletInfo(
            id=record.id,
            lo=record.lo,
            hi=record.hi,
            epoch=record.epoch,
            primary=record.primary,
            members=record.members,
            lag=self._lag(record),
            state=state,
        )

    def _lag(self, record: TabletRecord) -> dict[str, int]:
        """Versions behind the primary, for the members that have told how far they are."""
        reached = {
            member: self.tips[member][record.id].version
            for member in record.members
            if record.id in self.tips.get(member, {})
        }
        if record.primary not in reached:
            return {}
        first = reached[record.primary]
        return {member: max(0, first - version) for member, version in reached.items()}


def _natural(node_id: str) -> tuple[str, int, str]:
    """http-2 before http-10."""
    name, _, number = node_id.rpartition("-")
    return (name, int(number), "") if number.isdecimal() else (node_id, 0, node_id)
