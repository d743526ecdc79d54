"""Connections: their bounds in time, and the orderly end, on a fake clock and transport."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.directory import MemoryDirectory
from penncloud.client.memory import MemoryTable
from penncloud.client.raw import MemoryRawCells
from penncloud.placement.tablets import TabletMap
from penncloud.platform import trace
from penncloud.platform.config import Cluster, Http
from penncloud.platform.trusted import Trusted
from penncloud.web.assembly import build_site
from penncloud.web.request import WebRequest
from penncloud.web.site import WebChannel
from tests.services.recording_control import RecordingControl
from tests.web.frontend import QUICK, environment_for

GET = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"


class _Transport(StringTransportWithDisconnection):
    """Knows that it was aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        table = MemoryTable()
        self.registry = CollectorRegistry()
        self.site, _ = build_site(
            environment_for(self.clock),
            cluster=Cluster(),
            config=Http(id="http-1"),
            table=table,
            raw=MemoryRawCells(table, TabletMap(1, ())),
            directory=MemoryDirectory(),
            control=RecordingControl(),
            registry=self.registry,
            hasher=QUICK,
        )
        self.answers: list[Deferred[bytes]] = []

        @self.site.application.route("/slow", access="open")
        async def slow(request: WebRequest) -> bytes:
            answer: Deferred[bytes] = Deferred()
            self.answers.append(answer)
            return await answer

    def connect(self) -> tuple[WebChannel, _Transport]:
        channel = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert isinstance(channel, WebChannel)
        transport = _Transport(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        transport.protocol = channel
        channel.makeConnection(transport)
        return channel, transport

    def test_headers_have_to_come_in_time(self) -> None:
        """A byte now and then does not hold a connection for ever (slowloris)."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n")
        for _ in range(4):
            self.clock.advance(4.0)
            channel.dataReceived(b"X-A: b\r\n")
        self.assertFalse(transport.aborted)
        self.clock.advance(4.0)
        self.assertTrue(transport.aborted)

    def test_request_line_has_to_come_in_time(self) -> None:
        """Nor does one that never finishes its first line."""
        channel, transport = self.connect()
        for _ in range(5):
            self.assertFalse(transport.aborted)
            channel.dataReceived(b"G")
            self.clock.advance(4.0)
        self.assertTrue(transport.aborted)

    def test_address_beyond_the_limit_is_answered(self) -> None:
        """A line that is too long gets a status, not just a closed connection."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 414 "), transport.value()[:60])
        self.assertFalse(transport.connected)

    def test_header_beyond_the_limit_is_answered(self) -> None:
        """As an address, with the status for headers."""
        channel, transport = self.connect()
        channel.dataReceived(GET[:-2] + b"X: " + b"a" * 20_000 + b"\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 431 "), transport.value()[:60])
        self.assertFalse(transport.connected)
        self.assertFalse(self.answers)

    def test_body_for_nothing_is_not_waited_for(self) -> None:
        """What is not there is 404 at once, not "too large" once the body comes."""
        channel, transport = self.connect()
        channel.dataReceived(
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
        )
        self.assertIn(b" 404 ", transport.value())
        channel.dataReceived(b"abcde")
        self.assertFalse(transport.connected)
        self.assertFalse(transport.aborted)

    def test_headers_of_any_bytes_are_no_failure(self) -> None:
        """Bytes that are no UTF-8 in a header are the client's mistake: 403 for such a token."""
        channel, transport = self.connect()
        channel.dataReceived(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nX-CSRF-Token: \xff\xfe\r\n"
            b"Content-Type: \xff\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertIn(b" 403 ", transport.value())

    def test_newer_codes_have_their_phrases(self) -> None:
        """Logs and people read the phrase."""
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
        self.assertIn(b"421 Misdirected Request", transport.value())

    def test_finished_headers_stop_that_clock(self) -> None:
        """A request that takes its time is not a client that does."""
        channel, transport = self.connect()
        channel.dataReceived(GET)
        self.clock.advance(300.0)
        self.assertTrue(transport.connected)
        self.answers[0].callback(b"done")
        self.assertIn(b"200 OK", transport.value())
        self.assertIn(b"done", transport.value())

    def test_idle_connections_are_closed(self) -> None:
        """A connection on which nothing is asked for a minute ends."""
        _, transport = self.connect()
        self.clock.advance(61.0)
        self.assertFalse(transport.connected)

    def test_end_closes_the_idle_and_waits_for_the_busy(self) -> None:
        """Requests under way are answered, and told that it was the last on this connection."""
        _, idle = self.connect()
        busy_channel, busy = self.connect()
        busy_channel.dataReceived(GET)
        ending = Deferred.fromCoroutine(self.site.end())
        self.assertFalse(idle.connected)
        self.assertTrue(busy.connected)
        self.assertNoResult(ending)
        self.answers[0].callback(b"done")
        self.assertIn(b"connection: close", busy.value().lower())
        self.assertFalse(busy.connected)
        self.successResultOf(ending)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_does_not_wait_for_ever(self) -> None:
        """What is not answered within the grace is cut."""
        channel, transport = self.connect()
        channel.dataReceived(GET)
        ending = Deferred.fromCoroutine(self.site.end())
        self.clock.advance(10.0)
        self.assertTrue(transport.aborted)
        self.successResultOf(ending)
        self.answers[0].callback(b"too late")

    def test_patient_end(self) -> None:
        """A connection without a request may be used once more, as its client may be about to."""
        idle_channel, idle = self.connect()
        _, unused = self.connect()
        ending = Deferred.fromCoroutine(self.site.end(300, patient=True))
        self.assertTrue(idle.connected)
        idle_channel.dataReceived(GET)
        self.answers[0].callback(b"done")
        self.assertIn(b"200 OK", idle.value())
        self.assertIn(b"connection: close", idle.value().lower())
        self.assertFalse(idle.connected)
        self.assertNoResult(ending)
        self.clock.advance(61.0)
        self.assertFalse(unused.connected)
        self.successResultOf(ending)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience_may_end(self) -> None:
        """An end that was patient can be hastened, not slowed down."""
        channel, transport = self.connect()
        channel.dataReceived(GET)
        _, idle = self.connect()
        patient = Deferred.fromCoroutine(self.site.end(300, patient=True))
        hasty = Deferred.fromCoroutine(self.site.end(8))
        self.assertFalse(idle.connected)
        slow = Deferred.fromCoroutine(self.site.end(500, patient=True))
        self.clock.advance(8.0)
        self.assertTrue(transport.aborted)
        for ending in (patient, hasty, slow):
            self.successResultOf(ending)
        self.answers[0].callback(b"too late")

    def test_early_answer_reads_on_for_a_while_only(self) -> None:
        """The rest of a refused body is thrown away, with bounds in time."""
        channel, transport = self.connect()
        channel.dataReceived(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
        )
        self.assertIn(b" 413 ", transport.value())
        for _ in range(6):
            self.clock.advance(1.5)
            channel.dataReceived(b"x" * 1000)
            self.assertTrue(transport.connected)
        self.clock.advance(1.5)
        channel.dataReceived(b"x" * 1000)
        self.assertTrue(transport.aborted)

    def test_early_answer_with_the_rest_of_the_body_ends_in_order(self) -> None:
        """When the body is complete the connection is closed, not cut."""
        channel, transport = self.connect()
        channel.dataReceived(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
        )
        channel.dataReceived(b"x" * 2_000_000)
        self.assertFalse(transport.connected)
        self.assertFalse(transport.aborted)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """The second waits for the first."""
        channel, transport = self.connect()
        channel.dataReceived(GET + GET)
        self.assertEqual(len(self.answers), 1)
        self.answers[0].callback(b"first")
        self.answers[1].callback(b"second")
        first, second = transport.value().index(b"first"), transport.value().index(b"second")
        self.assertLess(first, second)

    def test_requests_are_counted_without_their_paths(self) -> None:
        """Metrics know method and status, nothing of users."""
        channel, _ = self.connect()
        channel.dataReceived(b"GET /secret-name HTTP/1.1\r\nHost: localhost\r\n\r\n")
        channel.dataReceived(b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n")
        count = self.registry.get_sample_value
        labels = {"method": "GET", "status": "404"}
        self.assertEqual(count("penncloud_http_requests_total", labels), 1.0)
        labels = {"method": "other", "status": "404"}
        self.assertEqual(count("penncloud_http_requests_total", labels), 1.0)

    def ids(self, request_head: bytes) -> tuple[str, str]:
        """What a route works for, and what the answer tells."""
        seen: list[str] = []

        @self.site.application.route("/traced", access="open")
        async def traced(request: WebRequest) -> bytes:
            await deferLater(self.clock, 1)
            seen.append(trace.current())
            return b""

        channel, transport = self.connect()
        channel.dataReceived(
            b"GET /traced HTTP/1.1\r\nHost: localhost\r\n" + request_head + b"\r\n"
        )
        self.clock.advance(1)
        found = re.search(rb"(?i)x-request-id: (\S+)", transport.value())
        assert found is not None, transport.value()
        return seen[0], found[1].decode()

    def test_a_new_request_id(self) -> None:
        """A request without an id gets one, which its work knows to the end and its answer tells."""
        seen, told = self.ids(b"")
        self.assertEqual(seen, told)
        self.assertTrue(trace.is_id(seen))
        self.assertEqual(trace.current(), "")

    def test_a_given_request_id(self) -> None:
        """A balancer's id goes on; what is no id is replaced, as it would stand in logs."""
        self.assertEqual(self.ids(b"X-Request-Id: lb.1-7\r\n"), ("lb.1-7", "lb.1-7"))
        seen, told = self.ids(b"X-Request-Id: <b>\r\n")
        self.assertEqual(seen, told)
        self.assertTrue(trace.is_id(seen))

    def test_who_the_client_is(self) -> None:
        """A named proxy is believed about the client's address and encryption, a stranger is not."""
        seen: list[tuple[str, bool]] = []

        @self.site.application.route("/who", access="open")
        async def who(request: WebRequest) -> bytes:
            seen.append((request.client_address, request.is_encrypted))
            return b""

        told = b"X-Forwarded-For: 6.6.6.6, 10.0.0.7\r\nX-Forwarded-Proto: https\r\n"
        for trusted in (Trusted(), Trusted(("127.0.0.1",)), Trusted(("127.0.0.0/8", "10.0.0.7"))):
            self.site.trusted = trusted
            channel, _ = self.connect()
            channel.dataReceived(b"GET /who HTTP/1.1\r\nHost: localhost\r\n" + told + b"\r\n")
        self.assertEqual(seen, [("127.0.0.1", False), ("10.0.0.7", True), ("6.6.6.6", True)])
