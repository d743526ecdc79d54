"""What a storage server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penncloud.storage.factory import TextFactory
from penncloud.storage.tablets import Tablets


class _Storage(Collector):
    """Reads the server's state when it is asked, so that nothing has to be kept up to date."""

    def __init__(self, tablets: Tablets, text: TextFactory) -> None:
        self._tablets = tablets
        self._text = text

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "penncloud_storage_requests_total", "Requests by kind", labels=["kind"]
        )
        for kind, count in self._tablets.counts.items():
            requests.add_metric([kind], count)
        yield requests
        tablets = self._tablets.tablets
        under_way = sum(tablet.in_flight_bytes for tablet in tablets)
        for name, text, value in (
            ("tablets", "Tablets served here", len(tablets)),
            (
                "in_flight_bytes",
                "Mutations that are decided and not yet committed",
                under_way,
            ),
            ("connections", "Connections of clients", len(self._text.connections)),
            ("watched_rows", "Rows that are watched", self._tablets.watched_rows),
        ):
            yield GaugeMetricFamily(f"penncloud_storage_{name}", text, value=value)


def export(registry: CollectorRegistry, tablets: Tablets, text: TextFactory) -> None:
    registry.register(_Storage(tablets, text))
