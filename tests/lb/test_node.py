"""Twin of `penncloud.lb.node`: the assembly on a real socket."""

from __future__ import annotations

import msgspec
import treq
from prometheus_client import CollectorRegistry
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from penncloud.client.directory import MemoryDirectory
from penncloud.lb.node import LbNode
from penncloud.platform.config import Cluster, Lb
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.process import real_environment
from penncloud.platform.threads import BoundedPool
from tests.certificates import TestAuthority
from tests.lb.test_balance import http
from tests.processes.cluster import free_block


def environment() -> Environment:
    return real_environment(reactor, BoundedPool(reactor))


class LbNodeTests(TestCase):
    def setUp(self) -> None:
        self.directory = MemoryDirectory()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.client = treq.client.HTTPClient(Agent(reactor, pool=self.pool))

    def node(self, role: Lb) -> LbNode:
        return LbNode(environment(), Cluster(), role, self.directory, CollectorRegistry())

    async def test_follows_the_directory(self) -> None:
        """What an administrator enables or a heartbeat loses counts from the next request on."""
        node = self.node(Lb(id="lb-1", port=0))
        self.addCleanup(lambda: Deferred.fromCoroutine(node.stop()))
        await node.start()
        url = f"http://127.0.0.1:{node.port}/chat?room=1"

        async def ask() -> tuple[int, str | None]:
            answer = await self.client.get(url, allow_redirects=False)
            await answer.content()
            found = answer.headers.getRawHeaders("location")
            return answer.code, found[0] if found else None

        self.assertEqual(await ask(), (503, None))
        self.directory.set(http(1), http(2))
        self.assertEqual(await ask(), (307, "http://127.0.0.1:8081/chat?room=1"))
        await self.directory.set_enabled("http-2", False)
        self.assertEqual(await ask(), (307, "http://127.0.0.1:8081/chat?room=1"))
        await self.directory.set_enabled("http-2", True)
        self.directory.set(msgspec.structs.replace(http(1), state="dead"), http(2))
        self.assertEqual(await ask(), (307, "http://127.0.0.1:8082/chat?room=1"))

    async def test_stopped(self) -> None:
        """After stop the port is free and the directory calls nobody."""
        node = self.node(Lb(id="lb-1", port=0))
        await node.start()
        port = node.port
        await node.stop()
        self.directory.set(http(1))
        again = self.node(Lb(id="lb-1", port=port))
        await again.start()
        await again.stop()

    async def test_port_taken(self) -> None:
        """A second balancer on the same port is an error that names the port."""
        first = self.node(Lb(id="lb-1", port=0))
        self.addCleanup(lambda: Deferred.fromCoroutine(first.stop()))
        await first.start()
        second = self.node(Lb(id="lb-2", port=first.port))
        with self.assertRaises(ConfigurationError) as caught:
            await second.start()
        self.assertIn(str(first.port), str(caught.exception))
        await second.stop()

    async def test_https(self) -> None:
        """With a certificate the port speaks HTTPS and says so for good; the clear port only leads there; a
        frontend is sent to by what it speaks."""
        ca = TestAuthority(self.mktemp())
        ca.issue("lb", "lb-1", "127.0.0.1")
        clear = free_block(1)
        role = Lb(
            id="lb-1",
            port=0,
            tls_cert=str(ca.out / "lb-1.pem"),
            tls_key=str(ca.out / "lb-1.key"),
            clear_port=clear,
        )
        node = self.node(role)
        self.addCleanup(lambda: Deferred.fromCoroutine(node.stop()))
        await node.start()
        self.directory.set(msgspec.structs.replace(http(1), scheme="https"), http(2))
        trust = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM((ca.out / "ca.pem").read_bytes())]
        )
        agent = Agent(reactor, BrowserLikePolicyForHTTPS(trust), pool=self.pool)
        client = treq.client.HTTPClient(agent)
        url = f"https://127.0.0.1:{node.port}/files?a=b"
        answer = await client.get(url, allow_redirects=False)
        await answer.content()
        headers = answer.headers
        self.assertEqual(headers.getRawHeaders("location"), ["https://127.0.0.1:8081/files?a=b"])
        self.assertEqual(headers.getRawHeaders("strict-transport-security"), ["max-age=31536000"])
        answer = await self.client.get(f"http://127.0.0.1:{clear}/files?a=b", allow_redirects=False)
        await answer.content()
        self.assertEqual(answer.code, 308)
        self.assertEqual(answer.headers.getRawHeaders("location"), [url])

    async def test_certificates_that_cannot_be_used(self) -> None:
        """Half a certificate, a missing file, and a clear port without HTTPS are said at the start."""
        for role, text in (
            (Lb(id="lb-1", port=0, tls_cert="/none"), "tls_cert and tls_key: both"),
            (Lb(id="lb-1", port=0, tls_cert="/none", tls_key="/none"), "/none: No such file"),
            (Lb(id="lb-1", port=0, clear_port=1), "clear_port"),
        ):
            with self.assertRaisesRegex(ConfigurationError, text):
                await self.node(role).start()
