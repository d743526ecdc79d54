"""One text connection: order, pipelining, bounds, errors, watches, and how it ends."""

from __future__ import annotations

from typing import cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    capturedLogs,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.errors import TabletDamaged
from penncloud.placement.tablets import HASH_SPACE
from penncloud.platform import trace
from penncloud.platform.errors import DiskError
from penncloud.rpc.registration import TabletAssignment
from penncloud.storage.factory import TextFactory
from penncloud.storage.outflow import LINGER_S, STALLED_S
from penncloud.storage.protocol import (
    BEHIND_BYTES,
    HELD_BYTES,
    MAX_BEHIND,
    WRITE_BYTES,
    TextProtocol,
)
from penncloud.wire.limits import MAX_DISCARD_BYTES, MAX_VALUE_BYTES, MAX_WATCHES
from penncloud.wire.messages import (
    Changed,
    CompareAndPut,
    Error,
    Get,
    Malformed,
    Mismatch,
    Missing,
    Ok,
    Put,
    Reply,
    Request,
    RequestId,
    Scan,
    TraceId,
    Unknown,
    Unwatch,
    Value,
    Watch,
)
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request
from tests.storage.alone import Alone
from tests.storage.memory_engine import MemoryEngine

ROW, COL = b"row", b"col"
DEPTH = 8


def whole(primary: str = "storage-1") -> TabletAssignment:
    """One tablet for all rows."""
    return TabletAssignment(1, 0, HASH_SPACE, 1, primary, ["storage-1"])


class Transport(StringTransport):
    """Notes whether the connection was dropped."""

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True


@define
class Client:
    """The client's end of one connection."""

    protocol: TextProtocol
    transport: Transport = field(factory=Transport)
    decoder: ReplyDecoder = field(factory=ReplyDecoder)

    def send(self, *requests: Request) -> None:
        """In one piece."""
        self.protocol.dataReceived(b"".join(map(encode_request, requests)))

    def replies(self) -> list[Reply | Malformed]:
        """What has come since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return self.decoder.feed(data)

    @property
    def paused(self) -> bool:
        return self.transport.producerState == "paused"

    def congest(self, congested: bool) -> None:
        """The transport's buffer fills, or empties."""
        assert self.transport.producer is not None
        if congested:
            self.transport.producer.pauseProducing()
        else:
            self.transport.producer.resumeProducing()


class ProtocolTestCase(SynchronousTestCase):
    """Connections to one server whose disk syncs when told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.engine = MemoryEngine()
        self.server = Alone(self.clock, self.engine)
        self.server.open()
        self.server.lead([whole()])
        # Its first version was the primary's own entry.
        self.engine.appends.clear()
        self.tablets = self.server.tablets
        self.factory = TextFactory(self.clock, self.tablets, DEPTH, max_connections=3)

    def assign(self, assigned: list[TabletAssignment]) -> None:
        self.server.assign(assigned)

    def connect(self) -> Client:
        protocol = self.factory.buildProtocol(None)
        assert isinstance(protocol, TextProtocol)
        client = Client(protocol)
        protocol.makeConnection(client.transport)
        return client

    def sync(self) -> None:
        self.clock.advance(0)
        while self.engine.waiting:
            self.engine.sync()
            self.clock.advance(0)

    def write(self, row: bytes, col: bytes, value: bytes) -> None:
        """A cell that is there from the start."""
        self.tablets.mutate(Put(row, col, value), None)
        self.sync()


class OrderTests(ProtocolTestCase):
    """Replies come in the order of the requests."""

    def test_a_read_waits_behind_a_write(self) -> None:
        """A quick answer never overtakes a slow one."""
        client = self.connect()
        client.send(Put(ROW, COL, b"v"), Get(ROW, b"none"), Put(ROW, b"d", b""))
        self.assertEqual(client.replies(), [])
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Missing(), Ok(3)])

    def test_requests_to_one_row_take_effect_in_their_order(self) -> None:
        """A read sees the writes sent before it and none sent after it, though all share a sync."""
        client = self.connect()
        writes = [Put(ROW, COL, b"%d" % i) for i in range(3)]
        client.send(*[r for write in writes for r in (write, Get(ROW, COL))], Get(b"other", COL))
        self.assertEqual(client.replies(), [])
        self.sync()
        values = [Value(i + 2, b"%d" % i) for i in range(3)]
        pairs = [reply for value in values for reply in (Ok(value.version), value)]
        self.assertEqual(client.replies(), [*pairs, Missing()])

    def test_other_rows_are_not_held_up(self) -> None:
        """A read that waits for its row lets writes to other rows into the same sync."""
        client = self.connect()
        client.send(Put(ROW, COL, b""), Get(ROW, COL), Put(b"other", COL, b""))
        self.clock.advance(0)
        self.assertEqual(self.engine.appends, [2])
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Value(2, b""), Ok(3)])

    def test_byte_by_byte(self) -> None:
        """The slowest delivery is served as well."""
        self.write(ROW, COL, b"v;\r\n")
        client = self.connect()
        for byte in encode_request(Get(ROW, COL)) * 2:
            client.protocol.dataReceived(bytes((byte,)))
        self.assertEqual(client.replies(), [Value(2, b"v;\r\n")] * 2)

    def test_one_write_for_one_chunk(self) -> None:
        """Replies to what arrived together leave together."""
        client = self.connect()
        written: list[bytes] = []
        self.patch(client.transport, "write", written.append)
        client.send(*[Get(ROW, COL)] * 5)
        self.assertEqual(written, [b"-MISSING\r\n" * 5])

    def test_a_read_that_takes_time_among_quick_ones(self) -> None:
        """Whether an answer is there at once or not, it has its place; a write to the row waits for it."""
        client = self.connect()
        answers: list[Reply | Deferred[Reply]] = [Missing(), Deferred(), Ok(3), Ok(4)]
        later = answers[1]
        assert isinstance(later, Deferred)
        self.patch(self.tablets, "get", lambda request: answers.pop(0))
        client.send(*[Get(b"%d" % i, COL) for i in range(3)])
        self.assertEqual(client.replies(), [Missing()])
        client.send(Get(b"3", COL), Put(b"1", COL, b"v"))
        self.sync()
        self.assertEqual((client.replies(), self.engine.appends), ([], []))
        later.callback(Ok(2))
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Ok(3), Ok(4), Ok(2)])

    def test_reads_before_a_write(self) -> None:
        """They are answered before it; those behind it see it."""
        client = self.connect()
        client.send(Get(ROW, COL), Put(ROW, COL, b"v"), Get(ROW, COL))
        self.assertEqual(client.replies(), [Missing()])
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Value(2, b"v")])

    def test_clients_do_not_wait_for_each_other(self) -> None:
        """A read on one connection is answered while a write on another is under way."""
        writer, reader = self.connect(), self.connect()
        writer.send(Put(ROW, COL, b"v"))
        reader.send(Get(ROW, COL))
        self.assertEqual((writer.replies(), reader.replies()), ([], [Missing()]))


class BoundTests(ProtocolTestCase):
    """What a client may ask for at once."""

    def test_depth(self) -> None:
        """Beyond the depth requests wait and nothing is read; then all are answered."""
        client = self.connect()
        client.send(*[Put(ROW, b"%d" % i, b"") for i in range(DEPTH * 2 + 1)])
        self.clock.advance(0)
        self.assertEqual((self.engine.appends, client.paused), ([DEPTH], True))
        self.sync()
        self.assertEqual(client.replies(), [Ok(v) for v in range(2, DEPTH * 2 + 3)])
        self.assertFalse(client.paused)

    def test_held_replies(self) -> None:
        """Large answers behind a slow one are bounded in bytes."""
        self.write(ROW, COL, b"v" * (HELD_BYTES // 2))
        client = self.connect()
        client.send(Put(b"slow", COL, b""), *[Get(ROW, COL)] * 5)
        self.assertTrue(client.paused)
        self.assertEqual(client.protocol._replies.held_bytes, HELD_BYTES)
        self.sync()
        self.assertEqual(len(client.replies()), 6)
        self.assertEqual((client.protocol._replies.held_bytes, client.paused), (0, False))

    def test_reads_that_wait_for_a_write(self) -> None:
        """They could all be answered at once, so few may wait."""
        self.factory = TextFactory(self.clock, self.tablets, 1000)
        client = self.connect()
        client.send(Put(ROW, COL, b"v"), *[Get(ROW, COL)] * (MAX_BEHIND + 5))
        self.assertTrue(client.paused)
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), *[Value(2, b"v")] * (MAX_BEHIND + 5)])
        self.assertFalse(client.paused)

    def test_requests_that_wait_for_a_read_are_bounded_in_bytes(self) -> None:
        """Few large ones wait in memory behind one to their row; the others are not even read."""
        self.factory = TextFactory(self.clock, self.tablets, 1000)
        client = self.connect()
        value = b"v" * (BEHIND_BYTES // 2)
        client.send(Put(ROW, COL, b""), Get(ROW, COL))
        client.send(*[Put(ROW, COL, value)] * 2)
        self.assertFalse(client.paused)
        self.assertGreaterEqual(client.protocol._order.waiting_bytes, BEHIND_BYTES)
        client.send(Put(b"other", COL, b""))
        self.assertTrue(client.paused)
        self.sync()
        self.assertEqual(client.protocol._order.waiting_bytes, 0)
        self.assertFalse(client.paused)
        self.assertEqual(len(client.replies()), 5)

    def test_quick_reads_of_a_client_that_does_not_read(self) -> None:
        """Also what can be answered at once waits when the transport takes no more."""
        self.write(ROW, COL, b"v" * WRITE_BYTES)
        client = self.connect()
        write = client.transport.write

        def filled(data: bytes) -> None:
            write(data)
            client.congest(True)

        self.patch(client.transport, "write", filled)
        client.send(*[Get(ROW, COL)] * 3)
        self.assertEqual((len(client.replies()), client.paused), (1, True))
        for _ in range(2):
            client.congest(False)
            self.assertEqual(len(client.replies()), 1)
        self.assertFalse(client.paused)

    def test_a_client_that_does_not_read(self) -> None:
        """Its requests wait, others go on, and when it takes nothing for long it is dropped."""
        slow, other = self.connect(), self.connect()
        slow.congest(True)
        slow.send(Get(ROW, COL))
        self.assertEqual((slow.replies(), slow.paused), ([], True))
        other.send(Get(ROW, COL))
        self.assertEqual(other.replies(), [Missing()])
        self.clock.advance(STALLED_S - 1)
        self.assertFalse(slow.transport.disconnected)
        slow.congest(False)
        self.assertEqual((slow.replies(), slow.paused), ([Missing()], False))
        slow.congest(True)
        self.clock.advance(STALLED_S)
        self.assertTrue(slow.transport.aborting)
        self.assertFalse(other.transport.aborting)

    def test_writes_of_a_slow_client_commit(self) -> None:
        """What was under way completes; the answers wait."""
        client = self.connect()
        client.send(Put(ROW, COL, b"v"))
        client.congest(True)
        self.sync()
        self.assertEqual(client.replies(), [])
        client.congest(False)
        self.assertEqual(client.replies(), [Ok(2)])

    def test_too_many_connections(self) -> None:
        """One beyond the bound is told so and closed; when one ends there is room."""
        clients = [self.connect() for _ in range(3)]
        transport = StringTransport()
        self.factory.buildProtocol(None).makeConnection(transport)
        self.assertEqual((transport.value(), transport.disconnecting), (b"-BUSY;1000\r\n", True))
        clients[0].protocol.connectionLost(Failure(Exception()))
        self.connect()


class ErrorTests(ProtocolTestCase):
    """Wrong requests are answered in their place."""

    def test_a_bad_request_between_good_ones(self) -> None:
        """The connection goes on."""
        client = self.connect()
        client.protocol.dataReceived(b"GET;row;col\r\nHELLO\r\nPUTV;row;;2;\r\n\r\nGET;row;col\r\n")
        first, second, third, last = client.replies()
        self.assertEqual((first, last), (Missing(), Missing()))
        assert isinstance(second, Error)
        assert isinstance(third, Error)
        self.assertEqual((second.code, third.code), ("COMMAND", "FORMAT"))
        self.assertFalse(client.transport.disconnecting)

    def test_a_value_too_large(self) -> None:
        """It is refused, nothing of it is stored, and the next request is understood."""
        client = self.connect()
        client.protocol.dataReceived(b"PUTV;row;col;%d;" % (MAX_VALUE_BYTES + 1))
        for _ in range(16):
            client.protocol.dataReceived(b"v" * (MAX_VALUE_BYTES // 16))
        client.protocol.dataReceived(b"v\r\nGET;row;col\r\n")
        error, missing = client.replies()
        assert isinstance(error, Error)
        self.assertEqual((error.code, missing), ("FORMAT", Missing()))

    def test_lost_framing(self) -> None:
        """Earlier requests are answered, then the error, then the connection is closed."""
        client = self.connect()
        client.send(Put(ROW, COL, b"v"))
        client.protocol.dataReceived(b"PUTV;r;c;%d;x" % (MAX_DISCARD_BYTES + 1))
        client.send(Get(ROW, COL))
        self.assertFalse(client.transport.disconnecting)
        self.sync()
        first, error = client.replies()
        assert isinstance(error, Error)
        self.assertEqual((first, error.code), (Ok(2), "SIZE"))
        self.assertTrue(client.transport.disconnecting)

    def test_where_and_map(self) -> None:
        """They are a coordinator's."""
        client = self.connect()
        client.protocol.dataReceived(b"WHERE;r;c\r\nMAP\r\n")
        for reply in client.replies():
            assert isinstance(reply, Error)
            self.assertEqual(reply.code, "COMMAND")

    def test_request_ids_belong_to_the_next_mutation(self) -> None:
        """Only to it, and to nothing else."""
        client = self.connect()
        me = RequestId(b"me", 1)
        client.send(me, Put(ROW, COL, b"1"), Put(ROW, COL, b"2"), me, Put(ROW, COL, b"1"))
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Ok(3), Ok(2)])
        wrong = Error("RQID", "RQID stands before a mutation only")
        client.send(me, Get(ROW, COL), Get(ROW, COL))
        self.assertEqual(client.replies(), [wrong, Value(3, b"2")])
        client.send(me)
        client.send(Get(ROW, COL), Get(ROW, COL))
        self.assertEqual(client.replies(), [wrong, Value(3, b"2")])
        client.send(me, RequestId(b"me", 2), Put(ROW, COL, b"3"))
        self.sync()
        self.assertEqual(client.replies(), [wrong, Ok(4)])
        client.send(me)
        client.protocol.dataReceived(b"HELLO\r\n")
        client.send(Put(ROW, COL, b"4"))
        self.sync()
        self.assertEqual(client.replies(), [Error("COMMAND", "unknown command"), Ok(5)])

    def test_an_unreadable_cell(self) -> None:
        """A read error is that request's alone."""
        client = self.connect()

        self.engine.unreadable = DiskError("bad block")
        client.send(Get(ROW, COL), Scan(ROW, b"", b"", 1), CompareAndPut(ROW, COL, b"", b""))
        for reply in client.replies():
            assert isinstance(reply, Error)
            self.assertEqual(reply.code, "DISK")
        self.engine.unreadable = TabletDamaged(1, "bad block")
        with capturedLogs() as logged:
            client.send(Get(ROW, COL))
            self.assertEqual(client.replies(), [Error("DAMAGED", "tablet 1 is damaged: bad block")])
        self.assertEqual([e for e in logged if e["log_level"] >= LogLevel.warn], [])
        self.engine.unreadable = None
        client.send(Get(ROW, COL))
        self.assertEqual(client.replies(), [Missing()])

    def test_an_unexpected_failure(self) -> None:
        """Nobody knows what became of the mutation: that is what the client is told."""
        client = self.connect()
        answer: Deferred[Reply] = Deferred()
        self.patch(self.tablets, "mutate", lambda mutation, request_id: answer)
        client.send(Put(ROW, COL, b""))
        answer.errback(ZeroDivisionError())
        self.assertEqual(client.replies(), [Unknown()])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_elsewhere(self) -> None:
        """Rows of other servers are -MOVED, and while the server stops everything is -BUSY."""
        self.assign([])
        client = self.connect()
        client.protocol.dataReceived(b"GET;r;c\r\nDELE;r;c\r\nWATCH;r\r\nSCAN;r;;;1\r\n")
        self.assertEqual(client.transport.value(), b"-MOVED;;0\r\n" * 4)
        client.transport.clear()
        self.tablets.stopping = True
        client.protocol.dataReceived(b"GET;r;c\r\nSCANT;1;;;1;0\r\n")
        self.assertEqual(client.transport.value(), b"-BUSY;100\r\n" * 2)


class WatchTests(ProtocolTestCase):
    """`!CHANGED` pushes."""

    def test_told_of_every_commit(self) -> None:
        """Also of one's own; of rows that are watched only."""
        client, other = self.connect(), self.connect()
        client.send(Watch(ROW))
        self.assertEqual(client.replies(), [Ok(1)])
        other.send(Put(ROW, COL, b""), Put(b"other", COL, b""))
        self.sync()
        self.assertEqual(client.replies(), [Changed(ROW, 2)])
        client.send(Put(ROW, COL, b""))
        self.sync()
        self.assertEqual(client.replies(), [Ok(4), Changed(ROW, 4)])
        client.send(Unwatch(ROW))
        self.assertEqual(client.replies(), [Ok(4)])
        self.write(ROW, COL, b"")
        self.assertEqual(client.replies(), [])

    def test_never_before_the_watch_is_answered(self) -> None:
        """A push of a watch whose reply waits behind another waits with it."""
        client = self.connect()
        client.send(Put(b"slow", COL, b""), Watch(ROW))
        self.assertEqual(client.replies(), [])
        self.tablets.mutate(Put(ROW, COL, b""), None)
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Ok(1), Changed(ROW, 3)])

    def test_coalesced_for_a_slow_reader(self) -> None:
        """It is told the latest version of each row when it reads again."""
        client = self.connect()
        client.send(Watch(ROW), Watch(b"other"))
        client.replies()
        client.congest(True)
        for _ in range(3):
            self.write(ROW, COL, b"")
        self.write(b"other", COL, b"")
        client.congest(False)
        self.assertEqual(client.replies(), [Changed(ROW, 4), Changed(b"other", 5)])

    def test_bounded(self) -> None:
        """A connection watches so many rows; one it already watches is no other."""
        client = self.connect()
        for index in range(MAX_WATCHES):
            client.protocol._pushes._watched[b"%d" % index] = True
        client.send(Watch(ROW), Watch(b"7"), Unwatch(b"7"), Watch(ROW))
        error, *others = client.replies()
        assert isinstance(error, Error)
        self.assertEqual((error.code, others), ("LIMIT", [Ok(1)] * 3))

    def test_forgotten_with_the_connection(self) -> None:
        """A watcher that is gone is told nothing."""
        client = self.connect()
        client.send(Watch(ROW))
        client.protocol.connectionLost(Failure(Exception()))
        self.assertEqual(self.tablets._watches.rows(), [])

    def test_a_row_that_moves(self) -> None:
        """Its watchers are told to read again, which leads them to the new server."""
        client = self.connect()
        client.send(Watch(ROW))
        client.replies()
        self.assign([])
        self.assertEqual(client.replies(), [Changed(ROW, 0)])
        client.send(Watch(ROW))
        client.replies()
        self.assertEqual(self.tablets._watches.rows(), [])


class EndTests(ProtocolTestCase):
    """How connections end."""

    def test_a_client_that_closes_its_side(self) -> None:
        """Everything it asked is answered before the connection closes (`printf ... | nc`)."""
        client = self.connect()
        client.send(*[Put(ROW, b"%d" % i, b"") for i in range(DEPTH + 2)])
        client.protocol.readConnectionLost()
        self.assertFalse(client.transport.disconnecting)
        self.sync()
        self.assertEqual(len(client.replies()), DEPTH + 2)
        self.assertTrue(client.transport.disconnecting)

    def test_a_closing_client_that_does_not_read(self) -> None:
        """Closing is bounded, too."""
        client = self.connect()
        client.protocol.readConnectionLost()
        self.clock.advance(max(STALLED_S, LINGER_S))
        self.assertTrue(client.transport.aborting)

    def test_a_lost_connection_under_way(self) -> None:
        """Its writes commit; nobody is answered; no timer stays behind."""
        client = self.connect()
        client.send(Put(ROW, COL, b"v"))
        client.congest(True)
        client.protocol.connectionLost(Failure(Exception()))
        self.sync()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.tablets.get(Get(ROW, COL)), Value(2, b"v"))

    def test_stopping(self) -> None:
        """All connections are answered and closed; the one that hangs is dropped in time."""
        quick, hanging = self.connect(), self.connect()
        quick.send(Put(ROW, COL, b"v"))
        hanging.congest(True)
        done = Deferred.fromCoroutine(self.factory.stop(5.0))
        self.sync()
        self.assertEqual(quick.replies(), [Ok(2)])
        self.assertTrue(quick.transport.disconnecting)
        quick.protocol.connectionLost(Failure(Exception()))
        self.assertNoResult(done)
        self.clock.advance(5.0)
        self.assertTrue(hanging.transport.aborting)
        hanging.protocol.connectionLost(Failure(Exception()))
        self.successResultOf(done)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_mismatches_keep_their_place(self) -> None:
        """A failed comparison that waits for a commit is still answered in order."""
        client = self.connect()
        client.protocol.dataReceived(
            b"PUTV;row;col;1;a\r\nCPUT;row;col;1;1;x;y\r\nCPUV;row;col;0;1;z\r\nGET;row;col\r\n"
        )
        self.sync()
        expected = [Ok(2), Mismatch(2, b"a"), Mismatch(2, b"a"), Value(2, b"a")]
        self.assertEqual(client.replies(), expected)


class TraceTests(ProtocolTestCase):
    """What a request is done for shows in the log, and nowhere else."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = TextFactory(self.clock, self.tablets, DEPTH, slow_s=0.5)
        self.events: list[tuple[str, str]] = []

        def note(event: LogEvent) -> None:
            self.events.append((trace.current(), formatEvent(event)))

        observer = cast(ILogObserver, note)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def test_slow(self) -> None:
        """A slow mutation is logged with its id, a quick one and one without are not told apart."""
        client = self.connect()
        client.send(TraceId(b"abc"), RequestId(b"me", 1), Put(ROW, COL, b"v"))
        client.send(TraceId(b"def"), Get(b"other", COL))
        self.clock.advance(0.7)
        self.sync()
        self.assertEqual(client.replies(), [Ok(2), Missing()])
        self.assertEqual(self.events, [("abc", "Put took 700 ms: Ok")])

    def test_one_request_only(self) -> None:
        """An id is of the request behind it, also where that has to wait for its turn."""
        client = self.connect()
        client.send(Put(ROW, COL, b"v"), TraceId(b"abc"), Get(ROW, COL), Get(ROW, b"d"))
        self.clock.advance(1)
        self.sync()
        self.assertEqual(len(client.replies()), 3)
        self.assertEqual([traced for traced, text in self.events], ["", "abc", ""])

    def test_damage(self) -> None:
        """Whatever goes wrong is logged with what it was done for."""
        client = self.connect()
        self.tablets.get = broken_disk  # type: ignore[method-assign]
        client.send(RequestId(b"me", 1), TraceId(b"abc"), Get(ROW, COL))
        client.send(TraceId(b"abc"), Get(ROW, COL))
        (first, second) = client.replies()
        self.assertEqual(first.code, "RQID")  # type: ignore[union-attr]
        self.assertEqual(second.code, "DISK")  # type: ignore[union-attr]
        self.assertEqual(self.events, [("abc", "Get: unreadable")])

    def test_a_slow_read(self) -> None:
        """A read that is answered at once, but took long, is logged, with its own id."""
        client = self.connect()

        def slow(request: Get) -> Reply:
            self.clock.advance(0.6)
            return Missing()

        self.tablets.get = slow  # type: ignore[method-assign]
        client.send(TraceId(b"abc"), Get(ROW, COL), Get(ROW, COL))
        self.assertEqual(client.replies(), [Missing(), Missing()])
        self.assertEqual(
            self.events, [("abc", "Get took 600 ms: Missing"), ("", "Get took 600 ms: Missing")]
        )


def broken_disk(request: Get) -> Reply:
    raise DiskError("unreadable")
