"""What a coordinator tells Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penncloud.coordinator.messages import ClusterView


class _Cluster(Collector):
    """Reads the view when it is asked, so that nothing has to be kept up to date."""

    def __init__(self, view: Callable[[], ClusterView]) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        """Known without a view: there is none before the coordinator has started."""
        return []

    def collect(self) -> Iterable[Metric]:
        view = self._view()
        nodes = GaugeMetricFamily(
            "penncloud_coordinator_nodes", "Servers by role and state", labels=["role", "state"]
        )
        for (role, state), count in Counter((n.role, n.state) for n in view.nodes).items():
            nodes.add_metric([role, state], count)
        yield nodes
        tablets = GaugeMetricFamily(
            "penncloud_coordinator_tablets", "Tablets by state", labels=["state"]
        )
        for tablet_state, count in Counter(tablet.state for tablet in view.tablets).items():
            tablets.add_metric([tablet_state], count)
        yield tablets
        term = GaugeMetricFamily(
            "penncloud_coordinator_term", "Raft term by coordinator", labels=["id"]
        )
        leads = GaugeMetricFamily("penncloud_coordinator_leads", "1 for the leader", labels=["id"])
        for coordinator in view.coordinators:
            term.add_metric([coordinator.id], coordinator.term)
            leads.add_metric([coordinator.id], coordinator.role == "leader")
        yield term
        yield leads


def export(registry: CollectorRegistry, view: Callable[[], ClusterView]) -> None:
    registry.register(_Cluster(view))
