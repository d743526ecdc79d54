"""One rpc connection. Both sides are alike once it is open: either may call the other.

Theory of operation
    greeting   Both send `Hello`, the connecting side first. Where the cluster has a secret, the
               connecting side then sends `Proof` and the other answers with its own (`auth.py`). Until
               that is done no message is looked at and only small frames are read; the whole greeting
               has a deadline.
    open       Calls carry a number that the answer repeats; each has a deadline on the caller's side.
               Notes have no answer. Messages are given to their functions in the order of arrival;
               answers of async functions leave as they become ready.
    silence    Each side sends a `Beat` when it has been quiet for BEAT_S and drops a peer of whom
               nothing was heard for SILENT_S: a vanished host is so noticed on every connection.
    bounds     Calls under way in either direction are bounded; more are refused as busy. What waits
               in the write buffer is bounded in bytes, and a peer that reads nothing for STALLED_S
               while something waits is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Final, TypeVar

import msgspec
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.platform.errors import PennCloudError
from penncloud.platform.tls import PeerName, peer_of
from penncloud.rpc import auth
from penncloud.rpc.calls import Calls, ServeCall
from penncloud.rpc.errors import (
    CallTimedOut,
    Disconnected,
    MessageTooLarge,
    Refusal,
    RpcBusy,
    RpcError,
)
from penncloud.rpc.frames import (
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    Answer,
    BadFrame,
    Beat,
    Call,
    Envelope,
    Failed,
    FrameDecoder,
    Hello,
    Note,
    Proof,
    decode_envelope,
    encode_body,
    encode_frame,
)

VERSION: Final = 1
GREETING_S: Final = 5.0
BEAT_S: Final = 2.0
SILENT_S: Final = 6.0
STALLED_S: Final = 10.0
# Calls of ours without an answer, and calls of the peer that we have not answered.
MAX_CALLS: Final = 1024
# Bytes that may wait for a peer that does not read: two of the largest messages.
MAX_BACKLOG_BYTES: Final = 2 * MAX_FRAME_BYTES

_T = TypeVar("_T")


@define
class _Outstanding:
    result: Deferred[Any]
    answer: Any


@define
class Hooks:
    """What the owner of a connection wants to know of it: that it opened, and that it ended.

    `closed` is also called for a connection that never opened (`was_open` tells).
    """

    opened: Callable[[RpcProtocol], None] = field(default=lambda connection: None)  # noqa: ARG005
    closed: Callable[[RpcProtocol, Failure], None] = field(default=lambda connection, why: None)  # noqa: ARG005


@implementer(IPushProducer)
class RpcProtocol(Protocol):
    """See the module. `side` is "client" for the one that connected.

    `reactor` has IReactorTime. An empty `secret` means that none is asked; a peer that asks for one is
    then not talked to, nor one that asks for none when we have one.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        entropy: Callable[[int], bytes],
        calls: Calls,
        side: auth.Side,
        *,
        secret: bytes = b"",
        hooks: Hooks | None = None,
    ) -> None:
        self.is_open = False
        # Whether the greeting ever succeeded.
        self.was_open = False
        self._reactor = reactor
        self._calls = calls
        self._side = side
        self._secret = secret
        self._hooks = hooks or Hooks()
        self._nonce = entropy(auth.NONCE_BYTES)
        self._peer_nonce: bytes | None = None
        self._frames = FrameDecoder(MAX_GREETING_BYTES)
        self._aborted = False
        self._closed = False
        self._next_id = 0
        self._outstanding: dict[int, _Outstanding] = {}
        self._serving = 0
        self._backlog_bytes = 0
        self._stalled_since: float | None = None
        self._began_at = self._heard_at = self._said_at = reactor.seconds()
        self._closing_since: float | None = None
        self._pulse = LoopingCall(self._beat)
        self._pulse.clock = reactor

    # -- for users -------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The other side's address, for the log."""
        if self.transport is None:
            return "nowhere"
        address = self.transport.getPeer()
        return f"{getattr(address, 'host', address)}:{getattr(address, 'port', '')}"

    @property
    def certified(self) -> PeerName | None:
        """Whom the other side's certificate speaks for; None on a connection in the clear."""
        return peer_of(self.transport)

    def call(self, message: msgspec.Struct, answer: type[_T], timeout_s: float) -> Deferred[_T]:
        """Ask the other side; fires with its answer, decoded as `answer`.

        Errors: Refusal (its answer is an error), CallTimedOut, Disconnected, RpcBusy,
        MessageTooLarge, RpcError when its answer is not an `answer`.
        """
        try:
            self._check_room()
            if len(self._outstanding) >= MAX_CALLS:
                raise RpcBusy(f"{MAX_CALLS} calls to {self.peer} are already under way")
            self._next_id += 1
            number = self._next_id
            frame = encode_frame(Call(number, encode_body(message)))
        except RpcError as error:
            return fail(error)

        def cancelled(_: Deferred[_T]) -> None:
            self._outstanding.pop(number, None)

        result: Deferred[_T] = Deferred(cancelled)
        self._outstanding[number] = _Outstanding(result, answer)

        def timed_out(value: Any, waited_s: float) -> Any:
            if isinstance(value, Failure) and value.check(CancelledError):
                kind = type(message).__name__
                raise CallTimedOut(f"{self.peer} did not answer {kind} within {waited_s:g} s")
            return value

        result.addTimeout(timeout_s, self._reactor, onTimeoutCancel=timed_out)
        self._write(frame)
        return result

    def note(self, message: msgspec.Struct) -> None:
        """Tell the other side. Raises Disconnected, RpcBusy or MessageTooLarge; else it may arrive."""
        self._check_room()
        self._write(encode_frame(Note(encode_body(message))))

    def drop(self, reason: str) -> None:
        """Close at once; `reason` is logged."""
        if not self._aborted and not self._closed and self.transport is not None:
            self.log.warn("rpc with {peer} closed: {reason}", peer=self.peer, reason=reason)
            self._abort()

    def close(self) -> None:
        """Close after what is written has left."""
        if not self._closed and self._closing_since is None and self.transport is not None:
            self._closing_since = self._reactor.seconds()
            # A transport that has a paused producer would wait for it for ever.
            transport: Any = self.transport
            transport.unregisterProducer()
            transport.loseConnection()

    def _check_room(self) -> None:
        if not self.is_open or self._closing_since is not None:
            raise Disconnected("there is no connection")
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            raise RpcBusy(f"{self.peer} does not read what it is sent")

    # -- connection ------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        self._pulse.start(BEAT_S / 2, now=False).addErrback(self._pulse_failed)
        if self._side == "client":
            self._say_hello()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed = True
        self.is_open = False
        if self._pulse.running:
            self._pulse.stop()
        outstanding, self._outstanding = self._outstanding, {}
        for waiting in outstanding.values():
            waiting.result.errback(Disconnected(f"the connection broke: {reason.value}"))
        self._hooks.closed(self, reason)

    def _abort(self) -> None:
        self.is_open = False
        self._aborted = True
        transport: Any = self.transport
        transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._heard_at = self._reactor.seconds()
        self._frames.feed(data)
        try:
            while not self._aborted and (payload := self._frames.next()) is not None:
                self._received(decode_envelope(payload))
        except BadFrame as error:
            self.drop(str(error))

    def _received(self, envelope: Envelope) -> None:
        if not self.is_open:
            self._greeting(envelope)
        elif isinstance(envelope, Call):
            self._serve(envelope)
        elif isinstance(envelope, Note):
            self._take_note(envelope)
        elif isinstance(envelope, Answer):
            self._answered(envelope)
        elif isinstance(envelope, Failed):
            self._refused(envelope)
        elif not isinstance(envelope, Beat):
            raise BadFrame("a greeting on an open connection")

    # -- greeting --------------------------------------------------------------------------------

    def _say_hello(self) -> None:
        self._write(encode_frame(Hello(VERSION, self._nonce, bool(self._secret))))

    def _greeting(self, envelope: Envelope) -> None:
        if isinstance(envelope, Hello) and self._peer_nonce is None:
            self._greeted(envelope)
        elif isinstance(envelope, Proof) and self._secret and self._peer_nonce is not None:
            if not auth.proves(envelope.mac, self._secret, self._other, *self._nonces()):
                raise BadFrame("its secret is not this cluster's")
            if self._side == "server":
                self._prove()
            self._open()
        else:
            raise BadFrame("a message before the greeting was over")

    def _greeted(self, hello: Hello) -> None:
        if hello.version != VERSION:
            raise BadFrame(f"it speaks version {hello.version} of the protocol, not {VERSION}")
        if len(hello.nonce) != auth.NONCE_BYTES or hello.nonce == self._nonce:
            raise BadFrame("its challenge is not one")
        self._peer_nonce = hello.nonce
        if self._side == "server":
            self._say_hello()
        if hello.secured != bool(self._secret):
            ours, its = ("a", "none") if self._secret else ("no", "one")
            raise BadFrame(f"this side has {ours} secret (secret_file), the other has {its}")
        if not self._secret:
            self._open()
        elif self._side == "client":
            self._prove()

    @property
    def _other(self) -> auth.Side:
        return "server" if self._side == "client" else "client"

    def _nonces(self) -> tuple[bytes, bytes]:
        theirs = self._peer_nonce or b""
        return (self._nonce, theirs) if self._side == "client" else (theirs, self._nonce)

    def _prove(self) -> None:
        self._write(encode_frame(Proof(auth.proof(self._secret, self._side, *self._nonces()))))

    def _open(self) -> None:
        self._frames.limit_bytes = MAX_FRAME_BYTES
        self.is_open = self.was_open = True
        self._hooks.opened(self)

    # -- what the other side asks ----------------------------------------------------------------

    def _serve(self, call: Call) -> None:
        if self._serving >= MAX_CALLS:
            self._send(Failed(call.id, "BUSY", f"{MAX_CALLS} calls are already under way"))
            return
        try:
            serve, message = self._calls.decode_call(call.body, self.certified)
        except Refusal as refusal:
            self._send(Failed(call.id, refusal.code, refusal.text))
            return
        self._serving += 1
        Deferred.fromCoroutine(self._run(call.id, serve, message)).addErrback(self._run_failed)

    async def _run(self, number: int, serve: ServeCall, message: msgspec.Struct) -> None:
        reply: Envelope
        try:
            result = serve(self, message)
            answer = await result if isawaitable(result) else result
            reply = Answer(number, encode_body(answer))
        except Refusal as refusal:
            reply = Failed(number, refusal.code, refusal.text)
        except RpcBusy as error:
            reply = Failed(number, "BUSY", str(error))
        except PennCloudError as error:
            reply = Failed(number, "FAILED", str(error))
        except Exception:  # noqa: BLE001 (a fault of ours: logged here, and the caller is told)
            kind = type(message).__name__
            self.log.failure("{kind} of {peer} failed", Failure(), kind=kind, peer=self.peer)
            reply = Failed(number, "INTERNAL", "internal error; the server's log has more")
        finally:
            self._serving -= 1
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self.drop("it does not read its answers")
        else:
            self._send(reply)

    def _run_failed(self, failure: Failure) -> None:
        self.log.failure("an answer to {peer} could not be sent", failure, peer=self.peer)

    def _send(self, envelope: Answer | Failed) -> None:
        try:
            frame = encode_frame(envelope)
        except MessageTooLarge as error:
            frame = encode_frame(Failed(envelope.id, "TOO_LARGE", str(error)))
        self._write(frame)

    def _take_note(self, note: Note) -> None:
        try:
            serve, message = self._calls.decode_note(note.body, self.certified)
        except Refusal as refusal:
            self.log.warn("a note of {peer}: {text}", peer=self.peer, text=refusal.text)
            return
        try:
            serve(self, message)
        except Exception:  # noqa: BLE001 (one bad note must not end the connection)
            kind = type(message).__name__
            self.log.failure("note {kind} of {peer}", Failure(), kind=kind, peer=self.peer)

    # -- what the other side answers -------------------------------------------------------------

    def _answered(self, envelope: Answer) -> None:
        waiting = self._outstanding.pop(envelope.id, None)
        if waiting is None:  # its deadline has passed
            return
        try:
            answer = msgspec.msgpack.decode(envelope.body, type=waiting.answer)
        except msgspec.MsgspecError as error:
            waiting.result.errback(RpcError(f"{self.peer} gave an answer of another kind: {error}"))
        else:
            waiting.result.callback(answer)

    def _refused(self, envelope: Failed) -> None:
        waiting = self._outstanding.pop(envelope.id, None)
        if waiting is None:
            return
        if envelope.code == "BUSY":
            waiting.result.errback(RpcBusy(envelope.text))
        else:
            waiting.result.errback(Refusal(envelope.code, envelope.text))

    # -- writing ---------------------------------------------------------------------------------

    def _write(self, frame: bytes) -> None:
        if self._closed or self.transport is None:
            return
        self._said_at = self._reactor.seconds()
        if self._stalled_since is not None:
            self._backlog_bytes += len(frame)
        self.transport.write(frame)

    def pauseProducing(self) -> None:
        """The transport's buffer is full: count what is added to it from now on."""
        self._stalled_since = self._reactor.seconds()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self._stalled_since = None
        self._backlog_bytes = 0

    def stopProducing(self) -> None:
        """The connection ends; connectionLost follows."""

    def _beat(self) -> None:
        now = self._reactor.seconds()
        if self._closing_since is not None:
            if now - self._closing_since >= STALLED_S:
                self.drop("it does not read the last of what it was sent")
        elif not self.is_open:
            if now - self._began_at >= GREETING_S:
                self.drop("its greeting did not come in time")
        elif now - self._heard_at >= SILENT_S:
            self.drop(f"nothing heard for {SILENT_S:g} s")
        elif self._stalled_since is not None:
            if now - self._stalled_since >= STALLED_S:
                self.drop(f"it has not read for {STALLED_S:g} s")
        elif now - self._said_at >= BEAT_S:
            self._write(encode_frame(Beat()))

    def _pulse_failed(self, failure: Failure) -> None:
        self.log.failure("rpc with {peer} ends: its pulse failed", failure, peer=self.peer)
        self._abort()
