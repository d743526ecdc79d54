"""What a storage server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penncloud.storage.checkpoints import Copies
from penncloud.storage.factory import TextFactory
from penncloud.storage.quarantine import Quarantine
from penncloud.storage.replicas import Replicas
from penncloud.storage.splitter import Splitter
from penncloud.storage.tablets import Tablets


@frozen
class Sources:
    """The parts of a server that have something to tell."""

    tablets: Tablets
    text: TextFactory
    replicas: Replicas
    copies: Copies
    splitter: Splitter
    quarantine: Quarantine


class _Storage(Collector):
    """Reads the server's state when it is asked, so that nothing has to be kept up to date."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        one = self._sources
        served = one.tablets.tablets
        members = one.replicas.members.values()
        yield _counts("requests", "Requests by kind", "kind", one.tablets.counts)
        for name, text, value in (
            ("tablets", "Tablets served here", len(served)),
            (
                "in_flight_bytes",
                "Mutations that are decided and not yet committed",
                sum(tablet.in_flight_bytes for tablet in served),
            ),
            ("connections", "Connections of clients", len(one.text.connections)),
            ("watched_rows", "Rows that are watched", one.tablets.watched_rows),
            ("replicas", "Copies of tablets that are here", len(members)),
            (
                "blank_replicas",
                "Copies without content that counts, which have to be fetched",
                sum(member.blank for member in members),
            ),
            (
                "frozen_tablets",
                "Tablets served here that take no mutations because they are being split",
                sum(tablet.frozen for tablet in served),
            ),
            (
                "transfers",
                "Checkpoints on their way to or from other servers",
                one.copies.under_way,
            ),
            ("quarantine_bytes", "Size of the quarantine", one.quarantine.size_bytes),
        ):
            yield GaugeMetricFamily(f"penncloud_storage_{name}", text, value=value)
        sent = {"sent": one.copies.sent_bytes, "received": one.copies.received_bytes}
        yield _counts("transferred_bytes", "Bytes of checkpoints by direction", "direction", sent)
        for name, text, value in (
            (
                "splits",
                "Splits that this server has proposed and were carried out",
                one.splitter.splits,
            ),
            ("cuts", "Copies that were cut in two here", one.replicas.cuts),
            (
                "quarantined_entries",
                "Entries that were cut off a log and kept in quarantine",
                one.quarantine.entries_kept,
            ),
        ):
            yield CounterMetricFamily(f"penncloud_storage_{name}_total", text, value=value)


def _counts(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    """Counters that differ in one label; since the start, as all counters here."""
    family = CounterMetricFamily(f"penncloud_storage_{name}_total", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def export(registry: CollectorRegistry, sources: Sources) -> None:
    """Tell them from now on."""
    registry.register(_Storage(sources))
