"""Twin of `penncloud.platform.port_holder`: a port changes hands, on real sockets and a clock of our own."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import PortTaken, port_of
from penncloud.platform.port_holder import RETRY_S, PortHolder


class _World(Clock):
    """Time of the test, sockets of the machine."""

    def __init__(self) -> None:
        super().__init__()
        net: Any = reactor
        self.listenTCP = net.listenTCP


class PortHolderTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.world = _World()
        self.first = self.holder(0)
        await self.first.hold()
        self.port = port_of(self.first.listening)

    def holder(self, port: int, host: str = "127.0.0.1") -> PortHolder:
        found = PortHolder(self.world, host, port, Factory.forProtocol(Protocol))
        self.addCleanup(lambda: Deferred.fromCoroutine(found.stop()))
        return found

    async def test_takes_over(self) -> None:
        """Who stands by has the port one try after it became free, and one of them only."""
        second, third = self.holder(self.port), self.holder(self.port)
        await second.stand_by()
        await third.stand_by()
        self.world.advance(RETRY_S)
        self.assertIsNone(second.listening)
        await self.first.stop()
        self.world.advance(RETRY_S)
        self.assertEqual(port_of(second.listening), self.port)
        self.assertIsNone(third.listening)
        await second.stop()
        self.world.advance(RETRY_S)
        self.assertEqual(port_of(third.listening), self.port)

    async def test_free_already(self) -> None:
        """A port that nobody has is taken at once."""
        other = self.holder(0)
        await other.stand_by()
        self.assertIsNotNone(other.listening)
        self.assertEqual(self.world.getDelayedCalls(), [])

    async def test_stop(self) -> None:
        """Who was told to stop takes nothing any more."""
        second = self.holder(self.port)
        await second.stand_by()
        await second.stop()
        await self.first.stop()
        self.world.advance(RETRY_S)
        self.assertIsNone(second.listening)
        self.assertEqual(self.world.getDelayedCalls(), [])

    async def test_not_mended_by_waiting(self) -> None:
        """An address that this machine does not have is an error at once, not something to wait for."""
        with self.assertRaises(ConfigurationError) as caught:
            await self.holder(self.port, "192.0.2.1").stand_by()
        self.assertNotIsInstance(caught.exception, PortTaken)
