"""The site that shows a process's metrics."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry, Counter
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.metrics import metrics_site


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
