"""One rpc connection between two sides in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import PennCloudError
from penncloud.rpc import protocol as subject
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import (
    CallTimedOut,
    Disconnected,
    MessageTooLarge,
    Refusal,
    RpcBusy,
    RpcError,
)
from penncloud.rpc.frames import MAX_FRAME_BYTES, Beat, Hello, encode_frame
from penncloud.rpc.protocol import RpcProtocol
from tests.rpc.world import Add, Heard, Pair, Sum

SECRET = b"sixteen bytes or more"


def adding() -> Calls:
    calls = Calls()
    calls.on_call(Add, lambda _, add: Sum(add.a + add.b))
    return calls


def later(answers: list[Deferred[Sum]]) -> Calls:
    """Serves Add by Deferreds that the test fires."""

    async def serve(connection: RpcProtocol, add: Add) -> Sum:
        answers.append(Deferred())
        return await answers[-1]

    calls = Calls()
    calls.on_call(Add, serve)
    return calls


class CallTests(SynchronousTestCase):
    def test_answer(self) -> None:
        """A call is answered with what the other side's function returns."""
        pair = Pair(serves=adding())
        result = pair.client.call(Add(2, 3), Sum, 1.0)
        pair.pump.flush()
        self.assertEqual(self.successResultOf(result), Sum(5))

    def test_both_ways(self) -> None:
        """The side that was connected to may call as well."""
        pair = Pair(client_serves=adding())
        result = pair.server.call(Add(2, 3), Sum, 1.0)
        pair.pump.flush()
        self.assertEqual(self.successResultOf(result), Sum(5))

    def test_answers_find_their_calls(self) -> None:
        """Answers may come in another order than the calls."""
        answers: list[Deferred[Sum]] = []
        pair = Pair(serves=later(answers))
        first = pair.client.call(Add(1, 0), Sum, 1.0)
        second = pair.client.call(Add(2, 0), Sum, 1.0)
        pair.pump.flush()
        answers[1].callback(Sum(2))
        pair.pump.flush()
        self.assertNoResult(first)
        self.assertEqual(self.successResultOf(second), Sum(2))
        answers[0].callback(Sum(1))
        pair.pump.flush()
        self.assertEqual(self.successResultOf(first), Sum(1))

    def test_notes_in_order(self) -> None:
        """Notes arrive in the order in which they were sent."""
        heard: list[str] = []
        calls = Calls()
        calls.on_note(Heard, lambda _, note: heard.append(note.text))
        pair = Pair(serves=calls)
        for text in "abc":
            pair.client.note(Heard(text))
        pair.pump.flush()
        self.assertEqual(heard, ["a", "b", "c"])

    def test_refusal_travels(self) -> None:
        """A Refusal raised by the serving function arrives with its code and text."""

        def refuse(connection: RpcProtocol, add: Add) -> Sum:
            raise Refusal("STALE", "epoch 3 is known")

        calls = Calls()
        calls.on_call(Add, refuse)
        pair = Pair(serves=calls)
        result = pair.client.call(Add(1, 1), Sum, 1.0)
        pair.pump.flush()
        error = self.failureResultOf(result, Refusal).value
        self.assertEqual((error.code, error.text), ("STALE", "epoch 3 is known"))

    def test_faults_stay_at_home(self) -> None:
        """An unexpected exception is logged where it happened; the caller only learns of a fault."""

        def broken(connection: RpcProtocol, add: Add) -> Sum:
            raise ZeroDivisionError("secret detail")

        calls = Calls()
        calls.on_call(Add, broken)
        pair = Pair(serves=calls)
        result = pair.client.call(Add(1, 1), Sum, 1.0)
        pair.pump.flush()
        error = self.failureResultOf(result, Refusal).value
        self.assertEqual(error.code, "INTERNAL")
        self.assertNotIn("secret", error.text)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_own_errors_are_told(self) -> None:
        """PennCloud's own errors are told in words."""

        def broken(connection: RpcProtocol, add: Add) -> Sum:
            raise PennCloudError("the disk is full")

        calls = Calls()
        calls.on_call(Add, broken)
        pair = Pair(serves=calls)
        result = pair.client.call(Add(1, 1), Sum, 1.0)
        pair.pump.flush()
        self.assertEqual(self.failureResultOf(result, Refusal).value.text, "the disk is full")

    def test_unknown_call(self) -> None:
        """A call that the other side does not take is refused, and the connection goes on."""
        pair = Pair(serves=adding())
        unknown = pair.client.call(Heard("x"), Sum, 1.0)
        known = pair.client.call(Add(1, 1), Sum, 1.0)
        pair.pump.flush()
        self.assertEqual(self.failureResultOf(unknown, Refusal).value.code, "BAD_MESSAGE")
        self.assertEqual(self.successResultOf(known), Sum(2))

    def test_unexpected_answer(self) -> None:
        """An answer of another kind than the caller expects is an error of the call."""
        pair = Pair(serves=adding())
        result = pair.client.call(Add(1, 1), Heard, 1.0)
        pair.pump.flush()
        self.failureResultOf(result, RpcError)

    def test_deadline(self) -> None:
        """Without an answer the call fails at its deadline; the late answer is ignored."""
        answers: list[Deferred[Sum]] = []
        pair = Pair(serves=later(answers))
        result = pair.client.call(Add(1, 1), Sum, 0.5)
        pair.wait(0.4)
        self.assertNoResult(result)
        pair.wait(0.2)
        self.failureResultOf(result, CallTimedOut)
        answers[0].callback(Sum(2))
        pair.pump.flush()
        again = pair.client.call(Add(1, 1), Sum, 0.5)
        pair.pump.flush()
        answers[1].callback(Sum(2))
        pair.pump.flush()
        self.assertEqual(self.successResultOf(again), Sum(2))

    def test_connection_lost(self) -> None:
        """What is under way fails at once when the connection breaks, and new calls too."""
        pair = Pair(serves=later([]))
        result = pair.client.call(Add(1, 1), Sum, 1.0)
        pair.server.close()
        pair.pump.flush()
        self.failureResultOf(result, Disconnected)
        self.failureResultOf(pair.client.call(Add(1, 1), Sum, 1.0), Disconnected)
        self.assertRaises(Disconnected, pair.client.note, Heard("x"))
        self.assertEqual(sorted(pair.closed), ["client", "server"])

    def test_too_large(self) -> None:
        """A message beyond the frame limit fails before it is sent, an answer becomes an error."""
        calls = Calls()
        calls.on_call(Add, lambda _, __: Heard("x" * MAX_FRAME_BYTES))
        pair = Pair(serves=calls)
        sent = pair.client.call(Heard("x" * MAX_FRAME_BYTES), Sum, 1.0)
        self.failureResultOf(sent, MessageTooLarge)
        answered = pair.client.call(Add(1, 1), Heard, 1.0)
        pair.pump.flush()
        self.assertEqual(self.failureResultOf(answered, Refusal).value.code, "TOO_LARGE")

    def test_calls_are_bounded(self) -> None:
        """Beyond the bound a call fails as busy, on the caller's side and on the server's."""
        self.patch(subject, "MAX_CALLS", 2)
        answers: list[Deferred[Sum]] = []
        pair = Pair(serves=later(answers))
        under_way = [pair.client.call(Add(1, 1), Sum, 0.5) for _ in range(2)]
        self.failureResultOf(pair.client.call(Add(1, 1), Sum, 0.5), RpcBusy)
        pair.wait(0.6)  # the caller gives up, the server is still at it
        for result in under_way:
            self.failureResultOf(result, CallTimedOut)
        third = pair.client.call(Add(1, 1), Sum, 0.5)
        pair.pump.flush()
        self.failureResultOf(third, RpcBusy)
        answers[0].callback(Sum(2))
        fourth = pair.client.call(Add(1, 1), Sum, 0.5)
        pair.pump.flush()
        answers[-1].callback(Sum(2))
        pair.pump.flush()
        self.assertEqual(self.successResultOf(fourth), Sum(2))


class GreetingTests(SynchronousTestCase):
    def test_shared_secret(self) -> None:
        """Two sides with the same secret open, and calls work."""
        pair = Pair(serves=adding(), client_secret=SECRET, server_secret=SECRET)
        self.assertEqual(sorted(pair.opened), ["client", "server"])
        result = pair.client.call(Add(2, 3), Sum, 1.0)
        pair.pump.flush()
        self.assertEqual(self.successResultOf(result), Sum(5))

    def test_wrong_secret(self) -> None:
        """With another secret, or without one where one is asked, neither side opens."""
        for client, server in ((b"x" * 16, SECRET), (b"", SECRET), (SECRET, b"")):
            pair = Pair(serves=adding(), client_secret=client, server_secret=server)
            self.assertEqual(pair.opened, [])
            self.assertEqual(sorted(pair.closed), ["client", "server"])

    def test_nothing_before_the_greeting(self) -> None:
        """A call sent in place of a greeting, or right behind a hello, is not executed."""
        executed: list[Any] = []
        calls = Calls()

        def record(connection: RpcProtocol, add: Add) -> Sum:
            executed.append(add)
            return Sum(0)

        calls.on_call(Add, record)
        call = b"\x93\xa4call\x01\x83\xa4type\xa3add\xa1a\x01\xa1b\x01"
        frame = len(call).to_bytes(4, "big") + call
        for prelude in (b"", encode_frame(Hello(1, b"n" * 32, True))):
            pair = Pair(serves=calls, server_secret=SECRET, client_secret=SECRET, greet=False)
            pair.server.dataReceived(prelude + frame)
            self.assertEqual(executed, [])
            self.assertTrue(pair.server_side.disconnecting)
        pair = Pair(serves=calls)
        pair.server.dataReceived(frame)
        self.assertEqual(executed, [Add(1, 1)])  # the frame itself was a good one

    def test_reflection(self) -> None:
        """A peer that sends our own challenge and proof back is not let in."""
        pair = Pair(client_secret=SECRET, server_secret=SECRET, greet=False)
        hello = pair.client_side.getOutBuffer()
        pair.client.dataReceived(hello)
        self.assertTrue(pair.client_side.disconnecting)
        self.assertEqual(pair.opened, [])

    def test_greeting_deadline(self) -> None:
        """A connection whose greeting does not come is closed."""
        pair = Pair(greet=False)
        pair.client_side.stream.clear()  # the client's hello is lost
        pair.wait(subject.GREETING_S - 0.5)
        self.assertEqual(pair.closed, [])
        pair.wait(2)
        self.assertEqual(sorted(pair.closed), ["client", "server"])

    def test_large_greeting(self) -> None:
        """A stranger cannot make the server hold more than a small frame."""
        pair = Pair(server_secret=SECRET, greet=False)
        pair.server.dataReceived((1025).to_bytes(4, "big"))
        self.assertTrue(pair.server_side.disconnecting)

    def test_other_version(self) -> None:
        """A peer of another protocol version is not talked to."""
        pair = Pair(greet=False)
        pair.server.dataReceived(encode_frame(Hello(subject.VERSION + 1, b"n" * 32, False)))
        self.assertTrue(pair.server_side.disconnecting)


class BoundsTests(SynchronousTestCase):
    def test_bad_frame(self) -> None:
        """A frame that is none ends the connection."""
        pair = Pair()
        pair.client.dataReceived(b"\x00\x00\x00\x01\xc1")
        pair.pump.flush()
        self.assertEqual(sorted(pair.closed), ["client", "server"])

    def test_idle_connections_hold(self) -> None:
        """Beats keep a connection that nobody uses."""
        pair = Pair()
        pair.wait(10 * subject.SILENT_S)
        self.assertEqual(pair.closed, [])

    def test_silence(self) -> None:
        """A peer of whom nothing is heard is dropped: its host may be gone."""
        pair = Pair()
        for _ in range(round(subject.SILENT_S * 10) + 20):
            pair.clock.advance(0.1)
            pair.server_side.stream.clear()
        self.assertTrue(pair.client_side.disconnecting)

    def test_one_that_does_not_read(self) -> None:
        """What waits for a peer is bounded: calls fail as busy, and after a while it is dropped."""
        pair = Pair()
        pair.client.pauseProducing()  # the transport's buffer is full
        for _ in range(3):
            pair.client.note(Heard("x" * (MAX_FRAME_BYTES - 100)))
        self.assertRaises(RpcBusy, pair.client.note, Heard("x"))
        self.failureResultOf(pair.client.call(Add(1, 1), Sum, 1.0), RpcBusy)
        pair.client.resumeProducing()
        pair.client.note(Heard("x"))
        pair.client.pauseProducing()
        for _ in range(round(subject.STALLED_S * 10) + 10):
            pair.clock.advance(0.1)
            pair.client.dataReceived(encode_frame(Beat()))
        self.assertTrue(pair.client_side.disconnecting)

    def test_answers_are_bounded(self) -> None:
        """A peer that asks and never reads is dropped, not given endless memory."""
        calls = Calls()
        calls.on_call(Add, lambda _, __: Heard("x" * (MAX_FRAME_BYTES - 100)))
        pair = Pair(serves=calls)
        pair.server.pauseProducing()
        for _ in range(5):
            pair.client.call(Add(1, 1), Heard, 1.0).addErrback(lambda _: None)
            data = pair.client_side.getOutBuffer()
            if not pair.server_side.disconnecting:
                pair.server.dataReceived(data)
        self.assertTrue(pair.server_side.disconnecting)
        self.assertLessEqual(
            sum(map(len, pair.server_side.stream)), subject.MAX_BACKLOG_BYTES + MAX_FRAME_BYTES
        )
        pair.wait(1)

    def test_peer_of_no_connection(self) -> None:
        """The address for the log is there at any time."""
        connection = Pair().client
        connection.transport = None
        self.assertEqual(connection.peer, "nowhere")
        connection.transport = StringTransport()
        self.assertIn(":", connection.peer)
