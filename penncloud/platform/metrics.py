"""Metrics of one process, and the small HTTP site that shows them.

Each node has a registry of its own (no module-level state), so that several nodes in one process do not
mix. Names begin with `penncloud_` and end in their unit or `_total`; labels never hold a user or a path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from penncloud.platform.quiet_site import QuietSite


def process_registry(now: Callable[[], float], version: str) -> CollectorRegistry:
    """A registry that already has what is there of every process: CPU, memory, descriptors, GC, and by which
    version and clock (`now`, in Unix seconds) it goes.
    """
    registry = CollectorRegistry()
    clock = Gauge("penncloud_clock_seconds", "The wall clock, Unix time.", registry=registry)
    clock.set_function(now)
    Info("penncloud_build", "The running program.", registry=registry).info({"version": version})
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Sample(msgspec.Struct, array_like=True, frozen=True):
    """One value of a family. As text, since JSON has neither NaN nor infinity."""

    name: str
    labels: dict[str, str]
    value: str


class Family(msgspec.Struct, array_like=True, frozen=True):
    """A metric with all its samples, as it goes from one process to another."""

    name: str
    text: str
    kind: str
    samples: list[Sample]


# The families of other processes that are a part of this one, by the value of the label `worker` that their
# samples are given.
Others = Callable[[], Awaitable[Mapping[str, Sequence[Family]]]]


def families_of(registry: CollectorRegistry) -> list[Family]:
    """All that a registry has now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(one.name, dict(one.labels), repr(one.value)) for one in metric.samples],
        )
        for metric in registry.collect()
    ]


@frozen
class _Together:
    """What `generate_latest` asks of a registry: our own families and those of others, each named once."""

    _registry: CollectorRegistry
    _others: Mapping[str, Sequence[Family]]

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for metric in self._registry.collect():
            copy = Metric(metric.name, metric.documentation, metric.type)
            copy.samples = list(metric.samples)
            found[metric.name] = copy
        for label, families in self._others.items():
            for family in families:
                if family.name not in found:
                    found[family.name] = Metric(family.name, family.text, family.kind)
                for one in family.samples:
                    labels = {**one.labels, "worker": label}
                    found[family.name].add_sample(one.name, labels, float(one.value))
        return list(found.values())


def exposition(registry: CollectorRegistry, others: Mapping[str, Sequence[Family]]) -> bytes:
    """Prometheus's text format, of this process and of others that belong to it."""
    together: Any = _Together(registry, others)
    return generate_latest(together)


class _Metrics(Resource):
    isLeaf = True
    log = Logger()

    def __init__(self, registry: CollectorRegistry, others: Others | None) -> None:
        super().__init__()
        self._registry = registry
        self._others = others

    def render_GET(self, request: Request) -> bytes | int:
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode())
        if self._others is None:
            return generate_latest(self._registry)
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        async def answer(others: Others) -> None:
            text = exposition(self._registry, await others())
            if not gone:
                request.setHeader(b"content-length", b"%d" % len(text))
                request.write(text)
                request.finish()

        def failed(failure: Failure) -> None:
            self.log.failure("showing metrics", failure)
            if not gone:
                request.setResponseCode(500)
                request.finish()

        Deferred.fromCoroutine(answer(self._others)).addErrback(failed)
        return NOT_DONE_YET


class _Healthy(Resource):
    """Answers while the reactor turns: that is what it says."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"ok\n"


class _Ready(Resource):
    """503 with the reason while the process cannot do its work."""

    isLeaf = True

    def __init__(self, trouble: Callable[[], str]) -> None:
        super().__init__()
        self._trouble = trouble

    def render_GET(self, request: Request) -> bytes:
        trouble = self._trouble()
        if trouble:
            request.setResponseCode(503)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return (trouble or "ready").encode() + b"\n"


def metrics_site(
    registry: CollectorRegistry,
    reactor: Any,
    trouble: Callable[[], str] = lambda: "",
    others: Others | None = None,
) -> Site:
    """`/metrics` for Prometheus; `/healthz`: the process lives; `/readyz`: it can do its work.

    `trouble` says why it cannot, "" where it can. `others` is asked at each look, and has to answer within
    a bound.
    """
    root = Resource()
    root.putChild(b"metrics", _Metrics(registry, others))
    root.putChild(b"healthz", _Healthy())
    root.putChild(b"readyz", _Ready(trouble))
    return QuietSite(root, reactor=reactor)
