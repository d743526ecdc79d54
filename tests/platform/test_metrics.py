"""The site that shows a process's metrics."""

from __future__ import annotations

from typing import cast

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.metrics import (
    Family,
    exposition,
    families_of,
    metrics_site,
)


class MetricsSiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        registry = CollectorRegistry()
        Counter("penncloud_things", "Things.", registry=registry).inc(3)
        self.trouble = ""
        self.site = metrics_site(registry, Clock(), lambda: self.trouble)
        self.site.startFactory()
        self.addCleanup(self.site.stopFactory)

    def _get(self, path: str) -> str:
        channel = self.site.buildProtocol(None)
        assert channel is not None
        transport = StringTransport()
        channel.makeConnection(transport)
        request = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        channel.dataReceived(request.encode())
        return bytes(transport.value()).decode()

    def test_shows_the_registry(self) -> None:
        """/metrics is what Prometheus reads, /healthz what a service monitor asks."""
        self.assertIn("penncloud_things_total 3.0", self._get("/metrics"))
        self.assertIn("200 OK", self._get("/healthz"))
        self.assertIn("404", self._get("/nothing"))

    def test_no_access_log(self) -> None:
        """A request leaves no line: polled every few seconds, they would hide everything else."""
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self._get("/metrics")
        self.assertEqual(events, [])

    def test_ready(self) -> None:
        """/readyz says why the process cannot do its work, /healthz only that it lives."""
        self.assertIn("200 OK", self._get("/readyz"))
        self.trouble = "no coordinator leads"
        answer = self._get("/readyz")
        self.assertIn("503", answer)
        self.assertIn("no coordinator leads", answer)
        self.assertIn("200 OK", self._get("/healthz"))


class TogetherTests(SynchronousTestCase):
    """Metrics of several processes on one page."""

    def _registry(self, count: int) -> CollectorRegistry:
        registry = CollectorRegistry()
        Counter("penncloud_things", "Things.", ["kind"], registry=registry).labels("a").inc(count)
        Histogram("penncloud_wait_seconds", "Waits.", registry=registry).observe(count)
        return registry

    def test_each_under_its_label(self) -> None:
        """Every family is there once, with our own samples as they are and those of others by their label."""
        others = {
            "1": families_of(self._registry(1)),
            "2 retiring": families_of(self._registry(2)),
        }
        text = exposition(self._registry(5), others).decode()
        self.assertEqual(text.count("# TYPE penncloud_things_total counter"), 1)
        self.assertIn('penncloud_things_total{kind="a"} 5.0', text)
        self.assertIn('penncloud_things_total{kind="a",worker="1"} 1.0', text)
        self.assertIn('penncloud_things_total{kind="a",worker="2 retiring"} 2.0', text)
        self.assertIn('penncloud_wait_seconds_bucket{le="+Inf",worker="1"} 1.0', text)
        # It is what Prometheus can read.
        self.assertTrue(list(text_string_to_metric_families(text)))

    def test_every_number_survives(self) -> None:
        """Infinity and what is no number go from process to process as they are."""
        registry = CollectorRegistry()
        for name, value in (("up", float("inf")), ("none", float("nan")), ("tiny", 1e-300)):
            Gauge(name, "", registry=registry).set(value)
        told = msgspec.json.encode(families_of(registry))
        again = msgspec.json.decode(told, type=list[Family])
        text = exposition(CollectorRegistry(), {"1": again}).decode()
        for line in ('up{worker="1"} +Inf', 'none{worker="1"} NaN', 'tiny{worker="1"} 1e-300'):
            self.assertIn(line, text)

    def test_asked_at_each_look(self) -> None:
        """The others are asked when somebody looks, and a failure is an answer, too."""
        waiting: Deferred[dict[str, list[Family]]] = Deferred()
        site = metrics_site(CollectorRegistry(), Clock(), others=lambda: waiting)
        site.startFactory()
        self.addCleanup(site.stopFactory)
        channel = site.buildProtocol(None)
        assert channel is not None
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        self.assertEqual(transport.value(), b"")
        waiting.errback(RuntimeError("no"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertIn(b"500", transport.value())
