"""One port, two protocols."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from penncloud.platform.tls import PeerName
from penncloud.rpc import switch
from penncloud.rpc.switch import SwitchFactory


class Recording(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@implementer(IHalfCloseableProtocol)
class HalfClosing(Recording):
    half = False

    def readConnectionLost(self) -> None:
        self.half = True

    def writeConnectionLost(self) -> None:
        raise AssertionError("not expected here")


class SwitchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.made: dict[str, Recording] = {}
        self.rpc = self._factory("rpc", Recording)
        self.text = self._factory("text", HalfClosing)
        self.factory = SwitchFactory(self.clock, self.rpc, self.text, silent_s=30)
        self.protocol = self.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)

    def _factory(self, name: str, kind: type[Recording]) -> Factory:
        made = self.made

        class Remembering(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Protocol:
                made[name] = kind()
                return made[name]

        return Remembering()

    def test_rpc(self) -> None:
        """A zero byte first: all bytes go to the rpc protocol."""
        self.protocol.dataReceived(b"\0\0")
        self.protocol.dataReceived(b"ab")
        self.assertEqual(self.made["rpc"].data, b"\0\0ab")
        self.assertNotIn("text", self.made)

    def test_text(self) -> None:
        """Anything else first: all bytes go to the text protocol."""
        self.protocol.dataReceived(b"G")
        self.protocol.dataReceived(b"ET;\0")
        self.assertEqual(self.made["text"].data, b"GET;\0")
        self.assertNotIn("rpc", self.made)
        self.assertIs(self.made["text"].transport, self.transport)

    def test_silent(self) -> None:
        """A connection that says nothing is closed; one that has spoken is not."""
        other = self.factory.buildProtocol(None)
        transport = StringTransport()
        other.makeConnection(transport)
        other.dataReceived(b"G")
        self.clock.advance(29)
        self.assertFalse(self.transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(transport.disconnecting)

    def test_lost(self) -> None:
        """The end of the connection reaches the chosen protocol, and no timer stays."""
        self.protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        other = self.factory.buildProtocol(None)
        other.makeConnection(StringTransport())
        other.dataReceived(b"G")
        other.connectionLost(Failure(ConnectionError()))
        self.assertTrue(self.made["text"].lost)

    def test_half_closed(self) -> None:
        """The end of the client's sending is the chosen protocol's affair, if it wants to know."""
        protocol: Any = self.protocol
        protocol.dataReceived(b"G")
        protocol.readConnectionLost()
        text: Any = self.made["text"]
        self.assertTrue(text.half)
        self.assertFalse(self.transport.disconnecting)
        other: Any = self.factory.buildProtocol(None)
        transport = StringTransport()
        other.makeConnection(transport)
        other.dataReceived(b"\0")
        other.readConnectionLost()
        self.assertTrue(transport.disconnecting)

    def test_refused(self) -> None:
        """A factory that builds nothing (too many connections) ends the connection."""

        class Full(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> None:
                return None

        factory = SwitchFactory(self.clock, Full(), Full())
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(b"\0")
        self.assertTrue(transport.disconnecting)

    def test_forbidden(self) -> None:
        """A member whose role has no business with a protocol is told so, and nothing is built."""
        for first, answer in ((b"GET;a;b", b"-ERR;FORBIDDEN;lb-1"), (b"\0\0", b"")):
            self.made.clear()
            factory = SwitchFactory(
                self.clock, self.rpc, self.text, rpc_roles=("storage",), text_roles=("http",)
            )
            protocol: Any = factory.buildProtocol(None)
            transport = StringTransport()
            self.patch(switch, "peer_of", lambda _: PeerName("lb", "lb-1"))
            protocol.makeConnection(transport)
            protocol.dataReceived(first)
            protocol.dataReceived(b"and more")
            self.assertTrue(transport.value().startswith(answer))
            self.assertTrue(transport.disconnecting)
            self.assertEqual(self.made, {})
            protocol.connectionLost(Failure(ConnectionError()))
