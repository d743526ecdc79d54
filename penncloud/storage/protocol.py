"""The text protocol at a storage server: one connection.

Theory of operation
    Every received chunk is decoded in one pass. Reads at its beginning that nothing is before are answered
    at once, in one write (`_read_at_once`). All other requests wait in `_waiting` and are started while
    the connection is within its bounds: `pipeline_depth` requests under way, replies and requests held in
    memory, and a transport that takes more. While some have to wait nothing more is read, so that TCP makes
    the client wait too. A reply goes out when every earlier one has, and requests to one row take effect
    in their order (see `row_order`).

    A client that does not read its replies stops being served when the transport's buffer is full (see
    `outflow`); `pushes` to it are coalesced meanwhile. A fatal error is answered after everything before
    it; then the connection is closed in a way that lets the client read the answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.platform import trace
from penncloud.storage.dispatch import MUTATIONS, Dispatch
from penncloud.storage.outflow import Outflow
from penncloud.storage.pushes import Pushes
from penncloud.storage.replies import ReplyQueue, Slot
from penncloud.storage.row_order import RowOrder
from penncloud.storage.service import Service
from penncloud.wire.messages import (
    CompareAndPut,
    Error,
    Get,
    Malformed,
    Mutate,
    Mutation,
    Reply,
    Request,
    RequestId,
    Scan,
    TraceId,
    Watch,
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

_READS: Final = (Get, Scan)
# What a request that does not exist costs the memory: its object.
_OBJECT_BYTES: Final = 100


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
        self._depth = pipeline_depth
        self._ended = ended
        self.slow_s = slow_s
        self._decoder = RequestDecoder()
        self._waiting: deque[Request | Malformed] = deque()
        self._replies = ReplyQueue()
        self._order = RowOrder()
        self._request_id: RequestId | None = None
        self._trace = ""
        self._pushes = Pushes(service, self._told)
        self._dispatch = Dispatch(service, self._pushes)
        self._outflow = Outflow(clock, self._work)
        self._reading_paused = False
        self._working = False
        # No request is taken any more; of the two reasons `_lost_framing` is the worse.
        self._ending = False
        self._lost_framing = False

    # -- the connection --------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._outflow.begin(self._transport)

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            return
        requests = self._decoder.feed(data)
        taken = 0
        if not (self._waiting or len(self._replies) or self._outflow.congested or self._working):
            taken = self._read_at_once(requests)
            if taken == len(requests):
                return
        self._waiting.extend(requests[taken:] if taken else requests)
        self._work()

    def readConnectionLost(self) -> None:
        """The client sends no more, but waits for its replies."""
        if self._outflow.closing:
            self._transport.loseConnection()
        else:
            self.finish()

    def writeConnectionLost(self) -> None:
        """Our direction is closed after a fatal error; see `Outflow.close`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ending = True
        self._outflow.lost()
        self._pushes.clear()
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
        self._outflow.drop()

    @property
    def _transport(self) -> Any:
        return self.transport

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
                answer = self._dispatch.get(cast(Get, request), trace_id)
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
        if self._pushes.changes:
            self._push()
        return taken

    def _work(self) -> None:
        """Start what may be started, send what may be sent, and read or not."""
        if self._working or self._outflow.closing:
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
        if self._pushes.changes:
            self._push()
        self._read_or_not()

    def _has_room(self) -> bool:
        return (
            not self._outflow.congested
            and len(self._replies) < self._depth
            and self._replies.held_bytes < HELD_BYTES
            and self._order.waiting < MAX_BEHIND
            and self._order.waiting_bytes < BEHIND_BYTES
        )

    def _read_or_not(self) -> None:
        if self._ending and not self._waiting and not len(self._replies):
            if self._outflow.close(self._lost_framing) and self._reading_paused:
                self._transport.resumeProducing()
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
        if kind in MUTATIONS:
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
                slot.sent = lambda: self._pushes.holds(row)
            # No order of a row concerns it.
            self._later(self._dispatch.ask(request, slot.trace), slot, None)

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
            self._in_order(self._dispatch.ask(mutation, slot.trace, request_id), slot, row, False)
        else:
            order.wait(
                row,
                False,
                lambda: self._later(
                    self._dispatch.ask(mutation, slot.trace, request_id), slot, row
                ),
                _size_bytes(mutation),
            )

    def _read(self, request: Get | Scan, slot: Slot) -> None:
        """Answer a read of a row, now or when the row is free."""
        row, order = request.row, self._order
        if order.free(row, True):
            self._in_order(self._dispatch.ask(request, slot.trace), slot, row, True)
        else:
            order.wait(
                row,
                True,
                lambda: self._later(self._dispatch.ask(request, slot.trace), slot, row),
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

    def _broken(self, failure: Failure, slot: Slot, row: bytes | None) -> None:
        reply = self._dispatch.failed(failure, slot.kind, slot.trace, self._transport)
        self._answered(reply, slot, row)

    def _answered(self, reply: Reply, slot: Slot, row: bytes | None) -> None:
        if not self._outflow.closing:
            self._fill(slot, reply)
            if row is not None:
                self._order.ended(row)
            self._work()

    # -- what goes out ---------------------------------------------------------------------------

    def _told(self) -> None:
        """A watched row has changed."""
        if not self._working:
            self._push()

    def _push(self) -> None:
        """Pushes go between replies."""
        if self._outflow.congested or self._outflow.closing:
            return
        data = self._pushes.take()
        if data:
            self._transport.write(data)

    def _send(self) -> bool:
        """Write some of what is complete; whether there was any."""
        if self._outflow.congested:
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
