"""Metrics of one process, and the small HTTP site that shows them.

Each node has a registry of its own (no module-level state), so that several nodes in one process do not
mix. Names begin with `penncloud_` and end in their unit or `_total`; labels never hold a user or a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

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


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode())
        return generate_latest(self._registry)


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
    registry: CollectorRegistry, reactor: Any, trouble: Callable[[], str] = lambda: ""
) -> Site:
    """`/metrics` for Prometheus; `/healthz`: the process lives; `/readyz`: it can do its work.

    `trouble` says why it cannot, "" where it can.
    """
    root = Resource()
    root.putChild(b"metrics", _Metrics(registry))
    root.putChild(b"healthz", _Healthy())
    root.putChild(b"readyz", _Ready(trouble))
    return QuietSite(root, reactor=reactor)
