"""WebSockets through the balancer: raw clients, scripted frontends, real sockets."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from penncloud.lb import proxy_site
from penncloud.lb.upgrade import IDLE_S, FrontendSide, Tunnel, wants_websocket
from tests.lb.test_proxy import OK, Flood, FrontendWire, ProxyCase, Wire, get

reactor: Any = real_reactor

WISH = get(
    "/live?x=1", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a"
)
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: b\r\n\r\n"
)


class UpgradeTests(ProxyCase):
    async def opened(self) -> tuple[Wire, FrontendWire]:
        """Both ends of a WebSocket."""
        await self.start()
        one = self.frontend(lambda wire: wire.send(AGREED))
        client = await self.client(WISH)
        await client.until(b"\r\n\r\n")
        client.data.clear()
        wire = one.wires[0]
        wire.data.clear()
        return client, wire

    async def test_there_and_back(self) -> None:
        """The wish reaches the frontend with what belongs to it, its agreement the client as it is, and then
        every byte in both directions, also those that came too early."""
        await self.start()
        one = self.frontend(lambda wire: wire.send(AGREED + b"\x81\x02hi"))
        client = await self.client(WISH + b"\x81\x05early")
        answer = await client.until(b"\x81\x02hi")
        self.assertEqual(answer, AGREED + b"\x81\x02hi")
        head = one.heads[0].decode().lower().split("\r\n")
        self.assertEqual(head[0], "get /live?x=1 http/1.1")
        for line in (
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-key: a",
            "host: cloud.example:8080",
            "x-forwarded-for: 127.0.0.1",
        ):
            self.assertIn(line, head)
        wire = one.wires[0]
        await wire.until(b"\x81\x05early")
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 70_000, b"end"):
            client.data.clear()
            wire.data.clear()
            client.send(text)
            await wire.until(text)
            wire.send(text)
            await client.until(text)

    async def test_client_leaves(self) -> None:
        """When one side ends so does the other, and what was sent before arrives."""
        client, wire = await self.opened()
        client.send(b"last words")
        client.transport.loseConnection()
        await wire.lost
        self.assertEqual(wire.data, b"last words")

    async def test_frontend_leaves(self) -> None:
        """As with the client; a frontend that dies closes the client's connection, too."""
        client, wire = await self.opened()
        wire.send(b"last words")
        wire.transport.loseConnection()
        await client.lost
        self.assertEqual(client.data, b"last words")

    async def test_no_faster_than_taken(self) -> None:
        """In both directions the sender waits for the reader: next to nothing is held."""
        client, wire = await self.opened()
        size = 64 * 1024 * 1024
        for sender, reader in ((client, wire), (wire, client)):
            reader.data.clear()
            reader.transport.pauseProducing()
            flood = Flood(sender, size)
            await flood.stalls()
            self.assertLess(flood.sent, 30_000_000)  # the buffers of four sockets, and no more
            reader.transport.resumeProducing()
            while len(reader.data) < size:
                await deferLater(reactor, 0.005)

    async def test_not_agreed(self) -> None:
        """A frontend that speaks no WebSocket there gets an ordinary request, whose answer counts."""
        await self.start()
        one = self.frontend(lambda wire: wire.answer(OK))
        client = await self.client(WISH)
        self.assertIn(b"200 OK", await client.until(b"\r\n\r\nhi"))
        self.assertNotIn(b"upgrade", one.heads[-1].lower())
        client.data.clear()
        client.send(get())
        self.assertIn(b"200 OK", await client.until(b"\r\n\r\nhi"))

    async def test_dead_frontend(self) -> None:
        """One that cannot be reached, or dies before it answers, is passed over."""
        await self.start()
        dead = self.frontend(lambda _: None)
        dying = self.frontend(lambda wire: wire.transport.abortConnection())
        good = self.frontend(lambda wire: wire.send(AGREED))
        dead.port = 1
        self.announce()
        client = await self.client(WISH)
        self.assertIn(b"101 Switching", await client.until(b"\r\n\r\n"))
        self.assertEqual((len(dying.heads), len(good.heads)), (1, 1))

    async def test_nobody(self) -> None:
        """Without a frontend that lives the answer is the balancer's own."""
        await self.start()
        one = self.frontend(lambda _: None)
        one.port = 1
        self.announce()
        client = await self.client(WISH)
        self.assertIn(b"HTTP/1.1 502", await client.until(b"</html>"))

    async def test_client_gives_up(self) -> None:
        """A client that leaves before there is an answer leaves nothing behind."""
        await self.start()
        one = self.frontend(lambda _: None)
        client = await self.client(WISH)
        while not one.heads:
            await deferLater(reactor, 0.005)
        client.transport.abortConnection()
        await one.wires[0].lost

    async def test_bound(self) -> None:
        """Beyond the bound a wish is not heard; when others have ended it is."""
        self.patch(proxy_site, "MAX_TUNNELS", 1)
        client, wire = await self.opened()
        self.frontends[0].script = lambda wire: wire.answer(OK)
        second = await self.client(WISH)
        await second.until(b"200 OK")
        self.assertNotIn(b"upgrade", self.frontends[0].heads[-1].lower())
        client.transport.loseConnection()
        await wire.lost
        self.frontends[0].script = lambda wire: wire.send(AGREED)
        third = await self.client(WISH)
        await third.until(b"101 Switching")


class WishTests(SynchronousTestCase):
    def test_nothing_but_websockets(self) -> None:
        """HTTP/2 above all is not let through in disguise, nor what is only half a wish."""

        def wants(method: bytes = b"GET", version: bytes = b"HTTP/1.1", **given: str) -> bool:
            return wants_websocket(method, version, Headers({k: [v] for k, v in given.items()}))

        self.assertTrue(wants(connection="Upgrade", upgrade="WebSocket"))
        self.assertFalse(wants(connection="Upgrade, HTTP2-Settings", upgrade="h2c"))
        self.assertFalse(wants(connection="Upgrade", upgrade="websocket, h2c"))
        self.assertFalse(wants(connection="close", upgrade="websocket"))
        self.assertFalse(wants(upgrade="websocket"))
        self.assertFalse(wants(connection="Upgrade"))
        self.assertFalse(wants(b"POST", connection="Upgrade", upgrade="websocket"))
        self.assertFalse(wants(version=b"HTTP/1.0", connection="Upgrade", upgrade="websocket"))


class _Transport:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.asked.append(name)


class _Channel:
    def __init__(self) -> None:
        self.transport = _Transport()

    def become(self, tunnel: Tunnel) -> bytes:
        return b""


class TunnelTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        channel: Any = _Channel()
        self.side = FrontendSide()
        self.side.transport = _Transport()
        self.client: _Transport = channel.transport
        self.ended: list[bool] = []
        self.tunnel = Tunnel(self.clock, channel, self.side, lambda: self.ended.append(True))
        self.tunnel.begin(b"", b"")

    def test_silence(self) -> None:
        """A byte in either direction keeps it; without any it is closed."""
        for say in (self.tunnel.from_client, self.tunnel.from_frontend):
            self.clock.advance(IDLE_S - 1)
            say(b"x")
        self.clock.advance(IDLE_S - 1)
        self.assertNotIn("abortConnection", self.client.asked)
        self.clock.advance(1)
        self.assertIn("abortConnection", self.client.asked)
        self.assertIn("abortConnection", self.side.transport.asked)

    def test_one_that_never_takes_the_rest(self) -> None:
        """A client that reads no more cannot keep what its frontend has left behind."""
        self.tunnel.frontend_lost()
        self.assertIn("loseConnection", self.client.asked)
        self.assertNotIn("abortConnection", self.client.asked)
        self.clock.advance(10)
        self.assertIn("abortConnection", self.client.asked)
        self.tunnel.client_lost()
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), ([True], []))
