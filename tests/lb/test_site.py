"""Twin of `penncloud.lb.site`: raw requests in, raw answers out, on a transport in memory."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

from attrs import frozen
from prometheus_client import CollectorRegistry
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lb.balance import RoundRobin
from penncloud.lb.site import IDLE_S, RETRY_S, balancer_site
from tests.lb.test_balance import http


@frozen
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = RoundRobin()
        self.registry = CollectorRegistry()
        self.site = balancer_site(self.turns, self.registry, self.clock)
        self.site.startFactory()
        self.addCleanup(self.site.stopFactory)

    def connect(self) -> tuple[StringTransport, object]:
        transport = StringTransport()
        protocol = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50000))
        assert protocol is not None
        protocol.makeConnection(transport)
        self.addCleanup(self.clock.advance, 10 * IDLE_S)
        return transport, protocol

    def ask(self, raw: bytes) -> Answer:
        transport, protocol = self.connect()
        protocol.dataReceived(raw)  # type: ignore[attr-defined]
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, _, headers = head.partition(b"\r\n")
        parsed = BytesParser(policy=HTTP).parsebytes(headers + b"\r\n\r\n")
        found = {name.lower(): str(value) for name, value in parsed.items()}
        return Answer(int(status.split()[1]), found, body)

    def get(self, path: bytes = b"/", host: bytes = b"localhost:8080") -> Answer:
        return self.ask(b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")

    def test_redirects_in_turn(self) -> None:
        """Each request goes to the next frontend by 307, with its path and query, and is not cached."""
        self.turns.update([http(1), http(2)])
        answers = [self.get(b"/files?dir=%2Fa") for _ in range(3)]
        self.assertEqual([answer.code for answer in answers], [307] * 3)
        self.assertEqual(
            [answer.headers["location"] for answer in answers],
            [f"http://localhost:{port}/files?dir=%2Fa" for port in (8081, 8082, 8081)],
        )
        self.assertEqual(answers[0].headers["cache-control"], "no-store")

    def test_any_method(self) -> None:
        """307 keeps method and body; the body itself is dropped here, whatever its size and form."""
        self.turns.update([http(1)])
        answer = self.ask(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + b"x" * 300000
        )
        self.assertEqual(answer.code, 307)
        chunked = self.ask(
            b"PUT /f HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n"
        )
        self.assertEqual(chunked.code, 307)
        head = self.ask(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((head.code, head.body), (307, b""))

    def test_waiting_page(self) -> None:
        """Without a frontend: 503 with a page that tries again, and Retry-After."""
        answer = self.get(b"/mail")
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.headers["retry-after"], str(RETRY_S))
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertTrue(answer.headers["content-type"].startswith("text/html"))
        page = answer.body.decode()
        self.assertIn(f'<meta http-equiv="refresh" content="{RETRY_S}">', page)
        self.assertIn("No web server has started yet", page)

    def test_waiting_page_says_why(self) -> None:
        """Dead servers and disabled servers are two different things to mend."""
        self.turns.update([http(1, "dead"), http(2, enabled=False)])
        self.assertIn(b"No web server is running", self.get().body)
        self.turns.update([http(1, enabled=False)])
        self.assertIn(b"has disabled all web servers", self.get().body)

    def test_bad_host(self) -> None:
        """A forged or missing Host is answered with 400 and never repeated in the page."""
        self.turns.update([http(1)])
        answer = self.get(host=b"<script>alert(1)</script>")
        self.assertEqual(answer.code, 400)
        self.assertNotIn(b"script", answer.body)
        missing = self.ask(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(missing.code, 400)
        twice = self.ask(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        self.assertEqual(twice.code, 400)

    def test_forged_host_is_not_followed(self) -> None:
        """The Host of somebody else leads to our frontend."""
        self.turns.update([http(1)])
        answer = self.get(b"/x", host=b"evil.example")
        self.assertEqual(answer.headers["location"], "http://127.0.0.1:8081/x")

    def test_health(self) -> None:
        """`/healthz` says that the balancer works, with frontends or without."""
        answer = self.get(b"/healthz")
        self.assertEqual((answer.code, answer.body), (200, b"ok\n"))

    def test_counted(self) -> None:
        """The counters tell redirects, refusals and health checks apart."""
        self.get()
        self.turns.update([http(1), http(2)])
        self.get()
        self.get(b"/healthz")
        self.get(host=b"a b")

        def value(outcome: str) -> float | None:
            return self.registry.get_sample_value(
                "penncloud_lb_answers_total", {"outcome": outcome}
            )

        outcomes = ("unavailable", "redirect", "health", "bad_request")
        self.assertEqual([value(outcome) for outcome in outcomes], [1, 1, 1, 1])
        self.assertEqual(self.registry.get_sample_value("penncloud_lb_frontends"), 2)

    def test_silent_client_is_hung_up_on(self) -> None:
        """A client that never finishes its request does not hold a connection for ever."""
        transport, protocol = self.connect()
        protocol.dataReceived(b"GET / HT")  # type: ignore[attr-defined]
        self.assertFalse(transport.disconnecting)
        self.clock.pump([1] * (IDLE_S + 1))
        self.assertTrue(transport.disconnecting)
