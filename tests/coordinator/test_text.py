"""WHERE and MAP by the text protocol, on transports that fill up."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator import text
from penncloud.coordinator.decisions import NotDecided
from penncloud.coordinator.text import STALLED_S, TextFactory, TextProtocol, answer
from penncloud.placement.tablets import HASH_SPACE, Tablet, TabletMap, row_hash
from penncloud.wire.limits import MAX_HEADER_BYTES
from penncloud.wire.messages import At, Busy, Error, Get, Map, TabletLine, Tablets, Where

HALF = HASH_SPACE // 2
MAP = TabletMap(
    7,
    [
        Tablet(1, 0, HALF, 3, "storage-1", ("storage-1",)),
        Tablet(2, HALF, HASH_SPACE, 4, "", ("storage-2",)),
    ],
)
ADDRESSES = {"storage-1": "10.0.0.1:8700"}


def address(node: str) -> str:
    return ADDRESSES.get(node, "")


class AnswerTests(SynchronousTestCase):
    def test_where(self) -> None:
        """A row's tablet with its epoch and its primary's address, empty where there is none."""
        rows = {row_hash(row) < HALF: row for row in (b"a", b"b", b"c", b"d", b"e")}
        self.assertEqual(answer(Where(rows[True], b"c"), MAP, address), At(1, 3, "10.0.0.1:8700"))
        self.assertEqual(answer(Where(rows[False], b"c"), MAP, address), At(2, 4, ""))

    def test_map(self) -> None:
        """All tablets in the order of their ranges."""
        expected = (
            TabletLine(1, 0, HALF, 3, "10.0.0.1:8700"),
            TabletLine(2, HALF, HASH_SPACE, 4, ""),
        )
        self.assertEqual(answer(Map(), MAP, address), Tablets(7, expected))

    def test_before_the_first_tablets(self) -> None:
        """Ask again later."""
        self.assertIsInstance(answer(Where(b"r", b"c"), TabletMap(0, []), address), Busy)

    def test_others(self) -> None:
        """Requests for storage servers are errors here."""
        self.assertIsInstance(answer(Get(b"r", b"c"), MAP, address), Error)


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = TextFactory(self.clock, lambda request: answer(request, MAP, address))
        self.transport = _Transport()
        protocol = self.factory.buildProtocol(None)
        assert protocol is not None
        self.protocol: TextProtocol = protocol
        self.protocol.makeConnection(self.transport)

    def test_is_a_line_receiver(self) -> None:
        """As the design asks."""
        self.assertIsInstance(self.protocol, LineReceiver)

    def test_pipelined(self) -> None:
        """Requests in one piece, cut anywhere, are answered in order."""
        self.protocol.dataReceived(b"WHERE;a;b\r\nGET;a;b\r\nMA")
        self.protocol.dataReceived(b"P\r\n")
        kinds = [line[:4] for line in self.transport.value().split(b"\r\n") if line[:1] in b"+-"]
        self.assertEqual([k for k in kinds if k], [b"+AT;", b"-ERR", b"+MAP"])

    def test_one_that_does_not_read(self) -> None:
        """While its answers wait, no more is answered or read; once read, the rest follows."""
        self.protocol.pauseProducing()
        self.protocol.dataReceived(b"MAP\r\n" * 3)
        self.assertEqual(self.transport.value(), b"")
        self.assertEqual(self.transport.producerState, "paused")
        self.protocol.resumeProducing()
        self.assertEqual(self.transport.value().count(b"+MAP"), 3)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_full_buffer_stops_the_answers(self) -> None:
        """A buffer that fills up in the middle of a pipeline stops it there."""
        self.transport.room = 2
        self.protocol.dataReceived(b"MAP\r\n" * 5)
        self.assertEqual(self.transport.value().count(b"+MAP"), 2)
        self.transport.room = 99
        self.protocol.resumeProducing()
        self.assertEqual(self.transport.value().count(b"+MAP"), 5)

    def test_stalled(self) -> None:
        """One that never reads is dropped."""
        self.protocol.pauseProducing()
        self.clock.advance(STALLED_S)
        self.assertTrue(self.transport.aborted)

    def test_framing_lost(self) -> None:
        """A line without end is answered with an error, then the connection ends."""
        self.protocol.dataReceived(b"MAP\r\n" + b"x" * (MAX_HEADER_BYTES + 3))
        self.assertIn(b"+MAP", self.transport.value())
        self.assertIn(b"-ERR;LINE", self.transport.value())
        self.assertTrue(self.transport.disconnecting)
        self.protocol.dataReceived(b"MAP\r\n")
        self.assertEqual(self.transport.value().count(b"+MAP"), 1)

    def test_end(self) -> None:
        """The end of a connection leaves nothing behind."""
        self.protocol.pauseProducing()
        self.protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.factory.connections)

    def test_too_many(self) -> None:
        """Clients beyond the bound are refused until others have gone."""
        self.patch(text, "MAX_CONNECTIONS", 1)
        self.assertIsNone(self.factory.buildProtocol(None))
        self.protocol.connectionLost()
        self.assertIsNotNone(self.factory.buildProtocol(None))

    def test_closing_has_a_deadline(self) -> None:
        """A client that does not read the last answers cannot hold a stop."""
        self.factory.close_all()
        self.assertTrue(self.transport.disconnecting)
        self.clock.advance(STALLED_S)
        self.assertTrue(self.transport.aborted)


class FreshnessTests(SynchronousTestCase):
    """Answers wait until the state is known to be new enough."""

    def setUp(self) -> None:
        self.asked: list[Deferred[None]] = []
        factory = TextFactory(Clock(), lambda request: answer(request, MAP, address), self._fresh)
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        self.protocol: TextProtocol = protocol
        self.transport = _Transport()
        self.protocol.makeConnection(self.transport)

    def _fresh(self) -> Deferred[None]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def test_asked_once_for_many(self) -> None:
        """What came together shares one confirmation; what comes later needs another."""
        self.protocol.dataReceived(b"MAP\r\nMAP\r\n")
        self.protocol.dataReceived(b"WHERE;a;b\r\n")
        self.assertEqual(self.transport.value(), b"")
        self.asked[0].callback(None)
        self.assertEqual(self.transport.value().count(b"+MAP"), 2)
        self.assertNotIn(b"+AT", self.transport.value())
        self.asked[1].callback(None)
        self.assertIn(b"+AT", self.transport.value())
        self.assertEqual(len(self.asked), 2)

    def test_no_majority(self) -> None:
        """Without confirmation nothing that may be old is told."""
        self.protocol.dataReceived(b"MAP\r\nGET;a;b\r\nWHERE;a;b\r\n")
        self.asked[0].errback(NotDecided("no majority"))
        lines = [line[:5] for line in self.transport.value().split(b"\r\n") if line]
        self.assertEqual(lines, [b"-BUSY", b"-ERR;", b"-BUSY"])

    def test_bounded(self) -> None:
        """While no answer is possible only so much is read; then all is answered and read on."""
        self.patch(text, "MAX_WAITING", 3)
        self.protocol.dataReceived(b"MAP\r\n" * 5)
        self.assertEqual(self.transport.producerState, "paused")
        self.asked[0].callback(None)
        self.assertEqual(self.transport.value().count(b"+MAP"), 5)
        self.assertEqual(self.transport.producerState, "producing")

    def test_gone_meanwhile(self) -> None:
        """A client that left while its answer was waited for is no error."""
        self.protocol.dataReceived(b"MAP\r\n")
        self.protocol.connectionLost()
        self.asked[0].callback(None)
        self.assertEqual(self.transport.value(), b"")


class _Transport(StringTransport):
    """Pauses its producer when `room` writes have been made."""

    aborted = False
    room = 99

    def write(self, data: bytes) -> None:
        super().write(data)
        self.room -= 1
        if not self.room:
            producer: Any = self.producer
            producer.pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True
