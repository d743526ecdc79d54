"""The text protocol at a storage server: one connection.

Theory of operation
    Every received chunk is decoded in one pass. Reads at its beginning that nothing is before are answered
    at once, in one write (`_read_at_once`). All other requests wait in `_waiting` and are started while
    the connection is within its bounds: `pipeline_depth` requests under way, replies and requests held in
    memory, and a transport that takes more. While some have to wait nothing more is read, so that TCP makes
    the client wait too. A reply goes out when every earlier one has, and requests to one row take effect
    in their order (see `row_order`).

    A client that does not read its replies stops being served when the transport's buffer is full, and
    is dropped when it has taken nothing for `STALLED_S`. Pushes (`!CHANGED`) to it are coalesced to one
    per row meanwhile. A fatal error is answered after everything before it; then the connection is
    closed in a way that lets the client read the answer (see `_linger`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.lsm.errors import TabletDamaged
from penncloud.platform import trace
from penncloud.platform.errors import DiskError
from penncloud.storage.replies import ReplyQueue, Slot
from penncloud.storage.row_order import RowOrder
from penncloud.storage.watches import Watcher
from penncloud.wire.limits import MAX_WATCHES
from penncloud.wire.messages import (
    Changed,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Error,
    Get,
    Malformed,
    Map,
    Mutate,
    Mutation,
    Ok,
    Put,
    Reply,
    Request,
    RequestId,
    Scan,
    ScanTablet,
    TraceId,
    Unknown,
    Unwatch,
    Watch,
    Where,
)
from penncloud.wire.replies import encode_reply
from penncloud.wire.requests import RequestDecoder

# Replies given to the transport in one write, and answered replies held behind an unanswered one before
# further requests have to wait.
WRITE_BYTES: Final = 64 * 1024
HELD_BYTES: Final = 1024 * 1024
# Requests that wait for an earlier one to their row, and their bytes, before further ones have to wait
# unread: all may be answered at the same moment.
MAX_BEHIND: Final = 16
BEHIND_BYTES: Final = 1024 * 1024
# A client that takes none of the waiting replies for so long is dropped.
STALLED_S: Final = 30.0
# After a fatal error: how long what the client still sends is read and thrown away.
LINGER_S: Final = 2.0

_MUTATIONS: Final = frozenset((Put, CompareAndPut, CompareVersionAndPut, Delete, Mutate))
_READS: Final = (Get, Scan)
# What a request that does not exist costs the memory: its object.
_OBJECT_BYTES: Final = 100


class Service(Protocol):
    """What answers the requests: the server's tablets. They may raise DiskError and TabletDamaged."""

    def get(self, request: Get) -> Reply | Deferred[Reply]: ...

    def mutate(
        self, mutation: Mutation, request_id: RequestId | None
    ) -> Reply | Deferred[Reply]: ...

    def scan(self, request: Scan) -> Reply | Deferred[Reply]: ...

    def scan_tablet(self, request: ScanTablet) -> Reply | Deferred[Reply]: ...

    def watch(self, request: Watch, watcher: Watcher) -> Reply: ...

    def unwatch(self, request: Unwatch, watcher: Watcher) -> Reply: ...


@implementer(IHalfCloseableProtocol)
class TextProtocol(LineReceiver):
    """One client. `clock` has IReactorTime; `ended` is called when the connection is gone."""

    log = Logger()
    delimiter = b"\r\n"

    def __init__(
        self,
        clock: Any,
        service: Service,
        pipeline_depth: int,
        ended: Callable[[TextProtocol], None],
        slow_s: float = math.inf,
    ) -> None:
        self._clock = clock
        self._service = service
        self._depth = pipeline_depth
        self._ended = ended
        self.slow_s = slow_s
        self._decoder = RequestDecoder()
        self._waiting: deque[Request | Malformed] = deque()
        self._replies = ReplyQueue()
        self._order = RowOrder()
        self._request_id: RequestId | None = None
        self._trace = ""
        # Watched rows, and whether the client has been told that the watch holds.
        self._watched: dict[bytes, bool] = {}
        self._changes: dict[bytes, int] = {}
        self._outflow = _Outflow(self)
        self._congested = False
        self._reading_paused = False
        self._working = False
        # No request is taken any more; of the two reasons `_lost_framing` is the worse.
        self._ending = False
        self._lost_framing = False
        # All replies are out and the connection is being closed.
        self._closing = False
        self._deadline: Any = None

    # -- the connection --------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._transport.registerProducer(self._outflow, True)
        if ITCPTransport.providedBy(self._transport):
            # Else a reply waits until the client's kernel has acknowledged the one before, up to 40 ms.
            self._transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            return
        requests = self._decoder.feed(data)
        taken = 0
        if not (self._waiting or len(self._replies) or self._congested or self._working):
            taken = self._read_at_once(requests)
            if taken == len(requests):
                return
        self._waiting.extend(requests[taken:] if taken else requests)
        self._work()

    def readConnectionLost(self) -> None:
        """The client sends no more, but waits for its replies."""
        if self._closing:
            self._transport.loseConnection()
        else:
            self.finish()

    def writeConnectionLost(self) -> None:
        """Our direction is closed after a fatal error; see `_close`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ending = self._closing = True
        self._set_deadline(None)
        for row in self._watched:
            self._service.unwatch(Unwatch(row), self)
        self._watched.clear()
        self._changes.clear()
        self._waiting.clear()
        self._order.clear()
        self._replies.clear()
        self._ended(self)

    def finish(self) -> None:
        """Take no more requests, answer those that have come, then close."""
        self._ending = True
        self._work()

    def drop(self) -> None:
        """End the connection now, whatever has not been sent."""
        self._transport.abortConnection()

    def congestion(self, congested: bool) -> None:
        """The transport's buffer is full, or has room again."""
        self._congested = congested
        if not self._closing:
            self._set_deadline(STALLED_S if congested else None)
            if not congested:
                self._work()

    @property
    def _transport(self) -> Any:
        return self.transport

    def _stalled(self) -> None:
        self._deadline = None
        if not self._closing:
            self.log.info("{peer} takes no replies: dropped", peer=self._transport.getPeer())
        self.drop()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._clock.callLater(seconds, self._stalled)

    def _close(self) -> None:
        """Close after the last reply, such that it arrives.

        Closing a socket that holds unread bytes resets the connection, and the reset may overtake the
        reply. So after a fatal error only our direction is closed, and what the client still sends is
        thrown away for a while.
        """
        self._closing = True
        self._transport.unregisterProducer()
        half_closeable = IHalfCloseableDescriptor.providedBy(self._transport)
        if self._lost_framing and half_closeable:
            self._set_deadline(LINGER_S)
            self._transport.loseWriteConnection()
            if self._reading_paused:
                self._transport.resumeProducing()
        else:
            self._set_deadline(STALLED_S)
            self._transport.loseConnection()

    # -- requests --------------------------------------------------------------------------------

    def _read_at_once(self, requests: Sequence[Request | Malformed]) -> int:
        """Answer the reads of cells at the beginning, as many as can be; how many requests that took.

        No request is under way, so nothing is ahead of them.
        """
        if self._request_id is not None:
            return 0
        seconds = self._clock.seconds
        out: list[bytes] = []
        taken = held = 0
        begun_s = seconds()
        self._working = True
        try:
            for request in requests:
                kind = type(request)
                if kind is TraceId:
                    self._name_purpose(cast(TraceId, request))
                    taken += 1
                    continue
                if kind is not Get or held >= WRITE_BYTES:
                    break
                taken += 1
                trace_id, self._trace = self._trace, ""
                answer = self._get(cast(Get, request), trace_id)
                if isinstance(answer, Deferred):
                    # From here on there is something to wait for.
                    slot = self._open(kind, trace_id, begun_s)
                    self._in_order(answer, slot, cast(Get, request).row, True)
                    break
                encoded = encode_reply(answer)
                held += len(encoded)
                out.append(encoded)
                ended_s = seconds()
                if ended_s - begun_s >= self.slow_s:
                    self._tell_slow(trace_id, "Get", ended_s - begun_s, answer)
                begun_s = ended_s
        finally:
            self._working = False
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._changes:
            self._push()
        return taken

    def _get(self, request: Get, trace_id: str) -> Reply | Deferred[Reply]:
        try:
            if trace_id:
                with trace.working_for(trace_id):
                    return self._service.get(request)
            return self._service.get(request)
        except (DiskError, TabletDamaged) as error:
            with trace.working_for(trace_id):
                return self._unreadable("Get", error)

    def _work(self) -> None:
        """Start what may be started, send what may be sent, and read or not."""
        if self._working or self._closing:
            return
        self._working = True
        try:
            while True:
                while self._waiting and self._has_room():
                    self._start(self._waiting.popleft())
                if not self._send() or not (self._waiting or len(self._replies)):
                    break
        finally:
            self._working = False
        if self._changes:
            self._push()
        self._read_or_not()

    def _has_room(self) -> bool:
        return (
            not self._congested
            and len(self._replies) < self._depth
            and self._replies.held_bytes < HELD_BYTES
            and self._order.waiting < MAX_BEHIND
            and self._order.waiting_bytes < BEHIND_BYTES
        )

    def _read_or_not(self) -> None:
        if self._ending and not self._waiting and not len(self._replies):
            self._close()
        elif not self._ending and bool(self._waiting) is not self._reading_paused:
            self._reading_paused = bool(self._waiting)
            if self._reading_paused:
                self._transport.pauseProducing()
            else:
                self._transport.resumeProducing()

    def _start(self, request: Request | Malformed) -> None:
        kind = type(request)
        if kind is RequestId:
            self._name_next(cast(RequestId, request))
            return
        if kind is TraceId:
            self._name_purpose(cast(TraceId, request))
            return
        request_id, self._request_id = self._request_id, None
        trace_id, self._trace = self._trace, ""
        slot = self._open(kind, trace_id, self._clock.seconds())
        if kind in _MUTATIONS:
            self._mutate(cast(Mutation, request), request_id, slot)
        elif isinstance(request, Malformed):
            self._fill(slot, Error(request.code, request.text))
            self._lost_framing = request.fatal
            self._ending = self._ending or request.fatal
        elif request_id is not None:
            self._fill(slot, Error("RQID", "RQID stands before a mutation only"))
        elif isinstance(request, _READS):
            self._read(request, slot)
        else:
            if isinstance(request, Watch):
                row = request.row
                slot.sent = lambda: self._watch_holds(row)
            self._answer(request, slot)

    def _open(self, kind: type[object], trace_id: str, begun_s: float) -> Slot:
        return self._replies.open(Slot(trace_id, kind.__name__, begun_s))

    def _name_purpose(self, trace_id: TraceId) -> None:
        """TRAC has no reply either."""
        self._trace = trace_id.id.decode("utf-8", "backslashreplace")

    def _name_next(self, request_id: RequestId) -> None:
        """RQID has no reply of its own; one without a mutation is told so in its place."""
        if self._request_id is not None:
            error = Error("RQID", "RQID stands before a mutation only")
            self._replies.fill(self._replies.open(Slot()), error)
        self._request_id = request_id

    def _mutate(self, mutation: Mutation, request_id: RequestId | None, slot: Slot) -> None:
        """Execute a mutation, now or when its row is free."""
        row, order = mutation.row, self._order
        if order.free(row, False):
            self._in_order(self._ask(mutation, slot, request_id), slot, row, False)
        else:
            order.wait(
                row,
                False,
                lambda: self._later(self._ask(mutation, slot, request_id), slot, row),
                _size_bytes(mutation),
            )

    def _read(self, request: Get | Scan, slot: Slot) -> None:
        """Answer a read of a row, now or when the row is free."""
        row, order = request.row, self._order
        if order.free(row, True):
            self._in_order(self._ask(request, slot), slot, row, True)
        else:
            order.wait(
                row,
                True,
                lambda: self._later(self._ask(request, slot), slot, row),
                _OBJECT_BYTES,
            )

    def _in_order(
        self, answer: Reply | Deferred[Reply], slot: Slot, row: bytes, reads: bool
    ) -> None:
        """Fill the slot of a request to a free row: now, or later in the order of the row."""
        if isinstance(answer, Deferred):
            # Before it is waited for: it may have fired.
            self._order.begun(row, reads)
        self._later(answer, slot, row)

    def _later(self, answer: Reply | Deferred[Reply], slot: Slot, row: bytes | None) -> bool:
        """Fill the slot, now or later; whether later."""
        if isinstance(answer, Deferred):
            ours = (slot, row)
            answer.addCallbacks(self._answered, self._broken, callbackArgs=ours, errbackArgs=ours)
            return True
        self._fill(slot, answer)
        return False

    def _answer(self, request: Request, slot: Slot) -> None:
        """Answer a request that no order of a row concerns."""
        self._later(self._ask(request, slot), slot, None)

    def _fill(self, slot: Slot, reply: Reply) -> None:
        """Answer a request; one that took long is logged with what it was done for."""
        self._replies.fill(slot, reply)
        took_s = self._clock.seconds() - slot.begun_s
        if took_s >= self.slow_s:
            self._tell_slow(slot.trace, slot.kind, took_s, reply)

    def _tell_slow(self, trace_id: str, kind: str, took_s: float, reply: Reply) -> None:
        with trace.working_for(trace_id):
            self.log.info(
                "{kind} took {ms} ms: {reply}",
                kind=kind,
                ms=round(took_s * 1000),
                reply=type(reply).__name__,
            )

    def _ask(
        self, request: Request, slot: Slot, request_id: RequestId | None = None
    ) -> Reply | Deferred[Reply]:
        if slot.trace:
            with trace.working_for(slot.trace):
                return self._asked(request, slot, request_id)
        return self._asked(request, slot, request_id)

    def _asked(
        self, request: Request, slot: Slot, request_id: RequestId | None
    ) -> Reply | Deferred[Reply]:
        try:
            if type(request) in _MUTATIONS:
                return self._service.mutate(cast(Mutation, request), request_id)
            return self._looked_up(request)
        except (DiskError, TabletDamaged) as error:
            return self._unreadable(slot.kind, error)

    def _looked_up(self, request: Request) -> Reply | Deferred[Reply]:
        match request:
            case Get():
                return self._service.get(request)
            case Scan():
                return self._service.scan(request)
            case ScanTablet():
                return self._service.scan_tablet(request)
            case Watch(row):
                return self._watch(row)
            case Unwatch(row):
                self._watched.pop(row, None)
                self._changes.pop(row, None)
                return self._service.unwatch(request, self)
            case Where() | Map():
                return Error("COMMAND", "WHERE and MAP are answered by coordinators")
            case _:
                raise AssertionError(f"{request} is no request of its own")

    def _unreadable(self, kind: str, error: DiskError | TabletDamaged) -> Reply:
        if isinstance(error, TabletDamaged):
            # Logged where it was found, once: not again for every request that meets it.
            return Error("DAMAGED", str(error))
        self.log.error("{kind}: {error}", kind=kind, error=error)
        return Error("DISK", "the disk cannot give the cells")

    def _broken(self, failure: Failure, slot: Slot, row: bytes | None) -> None:
        error = failure.value
        reply: Reply = Unknown()
        with trace.working_for(slot.trace):
            if isinstance(error, DiskError | TabletDamaged):
                reply = self._unreadable(slot.kind, error)
            else:
                self.log.failure("a request of {peer}", failure, peer=self._transport.getPeer())
        self._answered(reply, slot, row)

    def _answered(self, reply: Reply, slot: Slot, row: bytes | None) -> None:
        if not self._closing:
            self._fill(slot, reply)
            if row is not None:
                self._order.ended(row)
            self._work()

    # -- watches ---------------------------------------------------------------------------------

    def _watch(self, row: bytes) -> Reply:
        if len(self._watched) >= MAX_WATCHES and row not in self._watched:
            return Error("LIMIT", f"a connection watches at most {MAX_WATCHES} rows")
        request = Watch(row)
        reply = self._service.watch(request, self)
        if isinstance(reply, Ok):
            self._watched.setdefault(row, False)
        elif self._watched.pop(row, None) is not None:
            self._changes.pop(row, None)
            self._service.unwatch(Unwatch(row), self)
        return reply

    def _watch_holds(self, row: bytes) -> None:
        if row in self._watched:
            self._watched[row] = True

    def changed(self, row: bytes, version: int) -> None:
        """Part of Watcher: told at once, or with the latest version as soon as possible."""
        if row in self._watched:
            self._changes[row] = version
            if not self._working:
                self._push()

    def _push(self) -> None:
        """Pushes go between replies, and only of watches whose reply has gone out."""
        if not self._changes or self._congested or self._closing:
            return
        told = [row for row in self._changes if self._watched.get(row)]
        out = [encode_reply(Changed(row, self._changes.pop(row))) for row in told]
        if out:
            self._transport.write(b"".join(out))

    # -- replies ---------------------------------------------------------------------------------

    def _send(self) -> bool:
        """Write some of what is complete; whether there was any."""
        if self._congested:
            return False
        data = self._replies.take(WRITE_BYTES)
        if data:
            self._transport.write(data)
        return bool(data)


def _size_bytes(mutation: Mutation) -> int:
    """What a mutation that waits holds in memory, about."""
    if isinstance(mutation, Mutate):
        return sum(
            len(getattr(operation, "value", b"")) + _OBJECT_BYTES
            for operation in mutation.operations
        )
    held = len(getattr(mutation, "value", b"")) + _OBJECT_BYTES
    return held + len(mutation.expected) if isinstance(mutation, CompareAndPut) else held


@implementer(IPushProducer)
class _Outflow:
    """What the transport tells of its buffer (LineReceiver's producer methods are about reading)."""

    def __init__(self, protocol: TextProtocol) -> None:
        self._protocol = protocol

    def pauseProducing(self) -> None:
        self._protocol.congestion(True)

    def resumeProducing(self) -> None:
        self._protocol.congestion(False)

    def stopProducing(self) -> None:
        """The connection is lost; `connectionLost` sees to it."""
