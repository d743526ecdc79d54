"""Twin of `penncloud.lb.node`: the assembly on a real socket."""

from __future__ import annotations

import msgspec
import treq
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from penncloud.client.directory import MemoryDirectory
from penncloud.lb.node import LbNode
from penncloud.platform.config import Cluster, Lb
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.process import real_environment
from penncloud.platform.threads import BoundedPool
from tests.lb.test_balance import http


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

    async def test_proxy_mode(self) -> None:
        """The mode that is not there is refused at start, in clear words."""
        node = self.node(Lb(id="lb-1", port=0, mode="proxy"))
        with self.assertRaises(ConfigurationError) as caught:
            await node.start()
        self.assertIn("mode", str(caught.exception))
