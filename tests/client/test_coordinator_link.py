"""The real directory, against coordinators on the loopback interface that a test directs.

`tests/coordinator/test_node.py` has it with a real coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, DeferredQueue, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.trial.unittest import TestCase

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import ClusterView, NodeInfo, NoSuchNode
from penncloud.client.table import Refused, Unavailable
from penncloud.coordinator.messages import (
    Enabled,
    EnableNode,
    NodesChanged,
    Subscribe,
    ViewCluster,
)
from penncloud.platform.config import Cluster
from penncloud.platform.listening import listen
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal
from penncloud.rpc.protocol import RpcProtocol
from penncloud.rpc.server import RpcServerFactory
from tests.rpc.world import environment

reactor: Any = real_reactor


class _Coordinator:
    """One coordinator whose only server has its own `name`."""

    def __init__(self, name: str) -> None:
        self.node = NodeInfo("http", name, "127.0.0.1", 80, 1, "live")
        self.refusal: Refusal | None = None
        self.views = 0
        self.silent = False
        self.subscribers: DeferredQueue[RpcProtocol] = DeferredQueue()
        calls = Calls()
        calls.on_call(ViewCluster, self._view)
        calls.on_call(EnableNode, self._enable)
        calls.on_call(Subscribe, self._subscribe)
        self.factory = RpcServerFactory(environment(reactor), calls)
        self.listening: IListeningPort | None = None
        self.port = 0

    async def start(self) -> None:
        self.listening = await listen(reactor, "127.0.0.1", self.port, self.factory)
        host: Any = self.listening.getHost()
        self.port = host.port

    async def stop(self) -> None:
        if self.listening is not None:
            listening, self.listening = self.listening, None
            await maybeDeferred(listening.stopListening)
            self.factory.close_all()

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def _view(self, connection: RpcProtocol, message: ViewCluster) -> ClusterView:
        self.views += 1
        self._refuse()
        if self.silent:
            await Deferred()
        return ClusterView([self.node], [], [])

    def _enable(self, connection: RpcProtocol, message: EnableNode) -> Enabled:
        self._refuse()
        return Enabled()

    async def _subscribe(self, connection: RpcProtocol, message: Subscribe) -> NodesChanged:
        if self.silent:
            await Deferred()
        self.subscribers.put(connection)
        return NodesChanged([self.node])


class DirectoryTests(TestCase):
    timeout = 300

    async def _start(self, *names: str, deadline_s: float = 5.0) -> list[_Coordinator]:
        them = [_Coordinator(name) for name in names]
        for one in them:
            await one.start()
            self.addCleanup(self._stop, one)
        cluster = Cluster(coordinators=[f"127.0.0.1:{one.port}" for one in them])
        self.directory = CoordinatorDirectory(environment(reactor), cluster, deadline_s)
        self.directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.directory.stop()))
        return them

    def _stop(self, one: _Coordinator) -> Deferred[None]:
        return Deferred.fromCoroutine(one.stop())

    def _watch(self) -> DeferredQueue[Sequence[str]]:
        news: DeferredQueue[Sequence[str]] = DeferredQueue()
        self.directory.subscribe(lambda nodes: news.put([f"{n.id} {n.state}" for n in nodes]))
        return news

    async def test_whichever_answers(self) -> None:
        """With one coordinator away another is asked."""
        first, _ = await self._start("one", "two")
        await first.stop()
        view = await self.directory.view()
        self.assertEqual(view.nodes[0].id, "two")

    async def test_not_the_leader(self) -> None:
        """One that says it cannot is passed over, and the one that could is asked first next time."""
        first, second = await self._start("one", "two")
        await self.directory.view()
        for other in (first, second):
            other.refusal = Refusal("NOT_LEADER", "ask another")
            self.assertNotEqual((await self.directory.view()).nodes[0].id, other.node.id)
            asked = other.views
            await self.directory.view()
            self.assertEqual(other.views, asked)
            other.refusal = None

    async def test_one_stands_still(self) -> None:
        """A coordinator that is connected and says nothing is waited for once, then asked last."""
        them = await self._start("one", "two")
        await self.directory.view()
        first = self.directory._clients[0]
        [still] = [one for one in them if first.address.endswith(f":{one.port}")]
        [other] = [one for one in them if one is not still]
        still.silent = True
        for _ in range(3):
            self.assertEqual((await self.directory.view()).nodes[0].id, other.node.id)
        self.assertEqual(still.views, 2)

    async def test_deadline(self) -> None:
        """When none can, the call fails in time and says why."""
        [only] = await self._start("one", deadline_s=0.5)
        only.refusal = Refusal("NOT_LEADER", "there is no leader")
        with self.assertRaisesRegex(Unavailable, "there is no leader"):
            await self.directory.view()

    async def test_refusals(self) -> None:
        """What no coordinator would do is told at once, as what it is."""
        [only] = await self._start("one")
        await self.directory.set_enabled("one", True)
        only.refusal = Refusal("NO_SUCH_NODE", "there is no server x")
        with self.assertRaisesRegex(NoSuchNode, "no server x"):
            await self.directory.set_enabled("x", True)
        only.refusal = Refusal("WRONG_ROLE", "no http server")
        with self.assertRaises(Refused):
            await self.directory.set_enabled("one", True)

    async def test_news(self) -> None:
        """A subscriber learns how things are, then every change; a later one at once."""
        [only] = await self._start("one")
        news = self._watch()
        connection = await only.subscribers.get()
        self.assertEqual(await news.get(), ["one live"])
        dead = NodeInfo("http", "one", "127.0.0.1", 80, 1, "dead")
        connection.note(NodesChanged([dead]))
        self.assertEqual(await news.get(), ["one dead"])
        heard: list[Sequence[NodeInfo]] = []
        self.directory.subscribe(heard.append)
        self.assertEqual(heard, [[dead]])

    async def test_news_after_a_reconnect(self) -> None:
        """When the coordinator is back its news come again, beginning with how things are."""
        [only] = await self._start("one")
        news = self._watch()
        await only.subscribers.get()
        self.assertEqual(await news.get(), ["one live"])
        await only.stop()
        only.node = NodeInfo("http", "one", "127.0.0.1", 80, 2, "suspected")
        await only.start()
        self.assertEqual(await news.get(), ["one suspected"])

    async def test_news_from_another(self) -> None:
        """When the coordinator whose news are heard is lost, another's are; never two at a time."""
        them = await self._start("one", "two")
        await self.directory.view()
        news = self._watch()
        [heard] = await news.get()
        by_name = {one.node.id: one for one in them}
        present = by_name.pop(heard.split()[0])
        [other] = by_name.values()
        await present.subscribers.get()
        await present.stop()
        self.assertEqual(await news.get(), [f"{other.node.id} live"])
        await other.subscribers.get()

    async def test_news_of_one_that_stands_still(self) -> None:
        """No news from a coordinator that does not answer any more are no good news: another's are
        heard."""
        them = await self._start("one", "two")
        await self.directory.view()
        news = self._watch()
        [heard] = await news.get()
        by_name = {one.node.id: one for one in them}
        by_name.pop(heard.split()[0]).silent = True
        [other] = by_name.values()
        self.assertEqual(await news.get(), [f"{other.node.id} live"])

    async def test_one_subscriber_s_fault(self) -> None:
        """A callback that raises is logged and keeps no other from the news."""
        await self._start("one")

        def broken(nodes: Sequence[NodeInfo]) -> None:
            raise ZeroDivisionError("broken")

        self.directory.subscribe(broken)
        news = self._watch()
        self.assertEqual(await news.get(), ["one live"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_unsubscribed(self) -> None:
        """After stop a callback is not called any more."""
        [only] = await self._start("one")
        heard: list[Sequence[NodeInfo]] = []
        subscription = self.directory.subscribe(heard.append)
        news = self._watch()
        connection = await only.subscribers.get()
        await news.get()
        subscription.stop()
        subscription.stop()
        connection.note(NodesChanged([]))
        self.assertEqual(await news.get(), [])
        self.assertEqual(len(heard), 1)

    async def test_stopped(self) -> None:
        """After stop calls fail at once."""
        await self._start("one")
        await self.directory.view()
        await self.directory.stop()
        with self.assertRaises(Unavailable):
            await self.directory.view()
