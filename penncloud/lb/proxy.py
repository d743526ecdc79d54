"""Handing one request on to a frontend, and its answer back, piece by piece.

Theory of operation
    The exchange begins when the request's headers are there. Its body is passed on as it comes; while the
    frontend does not take more, the client is not read, and while the client does not take more, the
    frontend is not. Nothing is kept but what is on its way between two buffers, so a body may be as long as
    it likes and an event stream may last for ever.

    A frontend that cannot be reached, or closes the connection before the first byte of its answer, is
    noted (`failures.py`) and the request goes to another, at most ATTEMPTS times, if that is safe: nothing
    of its body has been passed on, and it was not sent at all or is one that changes nothing. Else the
    client hears 502. Once the answer has begun there is nothing to repeat: when it breaks, the client's
    connection is broken, too, so that it does not take a part for the whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import Request as Outgoing
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from penncloud.client.directory import NodeInfo
from penncloud.lb.forwarding import Client, to_client, to_frontend
from penncloud.platform import trace
from penncloud.platform.errors import PennCloudError

if TYPE_CHECKING:
    from penncloud.lb.proxy_site import Proxy, ProxyRequest

ATTEMPTS: Final = 3
# Seconds from the end of a request to the first byte of its answer.
ANSWER_S: Final = 120.0
# RFC 9110 section 9.2.1; PROPFIND (RFC 4918) as well.
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PROPFIND"))


class ClientGone(PennCloudError):
    """The client has closed the connection in the middle of its request."""


@implementer(IBodyProducer)
class Upload:
    """The body of a request on its way to the frontend. `pause` and `resume` are for the client's side."""

    def __init__(self, length: int | None, pause: Any, resume: Any) -> None:
        self.length = UNKNOWN_LENGTH if length is None else length
        self.is_begun = False
        self.is_complete = length == 0
        self._pause = pause
        self._resume = resume
        self._consumer: Any = None
        self._early: list[bytes] = []
        self._done: Deferred[None] = Deferred()
        self._over = False

    def received(self, data: bytes) -> None:
        """From the client."""
        if self._over:
            return
        if self._consumer is None:
            # What came with the headers; no more is read until a frontend takes it.
            self._early.append(data)
            self._pause()
        else:
            self._consumer.write(data)

    def ended(self) -> None:
        """The client has sent all of it."""
        self.is_complete = True
        if self._consumer is not None:
            self._end(None)

    def lost(self) -> None:
        """The client is gone."""
        self._end(Failure(ClientGone("the client closed the connection")))

    def _end(self, outcome: Failure | None) -> None:
        if not self._over:
            self._over = True
            if self._consumer is None:
                return
            if outcome is None:
                self._done.callback(None)
            else:
                self._done.errback(outcome)

    # IBodyProducer

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.is_begun = True
        self._consumer = consumer
        early, self._early = self._early, []
        for data in early:
            consumer.write(data)
        if self.is_complete:
            self._end(None)
        elif not self._over:
            self._resume()
        return self._done

    def pauseProducing(self) -> None:
        if not self._over:
            self._pause()

    def resumeProducing(self) -> None:
        if not self._over:
            self._resume()

    def stopProducing(self) -> None:
        """The frontend takes no more: what still comes is thrown away."""
        self._over = True
        self._resume()


@implementer(IPushProducer)
class _Answer(Protocol):
    """The body of an answer on its way to the client."""

    transport: Any

    def __init__(self, request: ProxyRequest) -> None:
        self._request = request
        self.done: Deferred[bool] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._request.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(reason.check(ResponseDone, PotentialDataLoss) is not None)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.transport.stopProducing()


class HandedOn(ABC):
    """A request from when it is handed on until it is answered, or its client is gone.

    `upload` is its body.
    """

    log = Logger()

    def __init__(self, proxy: Proxy, request: ProxyRequest, upload: Upload | None = None) -> None:
        self._proxy = proxy
        self._request = request
        self.upload = upload
        self._running: Deferred[None] | None = None
        self._is_gone = False

    def begin(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._failed)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        self._is_gone = True
        if self.upload is not None:
            self.upload.lost()
        if self._running is not None:
            self._running.cancel()

    def _failed(self, failure: Failure) -> None:
        if self._is_gone or failure.check(CancelledError):
            return
        self.log.failure("a request could not be handed on", failure)
        self._request.broken()

    @abstractmethod
    async def _run(self) -> None:
        """Ask a frontend, and another one while that is safe, and hand its answer to the client."""


class Exchange(HandedOn):
    """One request and its answer; see the module."""

    async def _run(self) -> None:
        tried: list[str] = []
        while True:
            frontend = self._proxy.choose(tried)
            if frontend is None:
                self._request.unanswered(503 if not tried else 502)
                return
            tried.append(frontend.id)
            attempt = _Attempt(self._proxy, self._request, self.upload, frontend)
            response = await attempt.answer()
            if self._is_gone:
                return
            if response is not None:
                await self._hand_back(frontend, response)
                return
            if not attempt.may_repeat or len(tried) >= ATTEMPTS:
                self._request.unanswered(attempt.status)
                return
            self._proxy.count("retried")

    async def _hand_back(self, frontend: NodeInfo, response: Any) -> None:
        request, proxy = self._request, self._proxy
        proxy.failures.worked(frontend.id, frontend.incarnation)
        request.setResponseCode(response.code, response.phrase)
        for name, values in to_client(response.headers):
            request.responseHeaders.setRawHeaders(name, values)
        if response.length is not UNKNOWN_LENGTH:
            request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % response.length])
        answer = _Answer(request)
        request.begin_answer(answer)
        response.deliverBody(answer)
        try:
            whole = await answer.done
        except CancelledError:
            answer.transport.stopProducing()
            raise
        if self._is_gone:
            return
        if whole:
            proxy.count("proxied")
            request.end_answer()
        else:
            proxy.count("broken")
            self.log.warn("{id} broke off an answer", id=frontend.id)
            request.broken()


class _Attempt:
    """One frontend asked once. `may_repeat` and `status` tell what to do when no answer came."""

    log = Logger()

    def __init__(
        self, proxy: Proxy, request: ProxyRequest, upload: Upload | None, frontend: NodeInfo
    ) -> None:
        self._proxy = proxy
        self._request = request
        self._upload = upload
        self._frontend = frontend
        self.may_repeat = True
        self.status = 502

    async def answer(self) -> Any:
        """The frontend's answer (its head), None when there was none."""
        request, frontend = self._request, self._frontend
        fresh = request.method not in _SAFE or self._upload is not None
        try:
            connection = await self._proxy.frontends.connect(frontend, fresh=fresh)
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (endpoints fail in many ways; all mean: not reached)
            self._note(f"cannot be reached: {error}")
            return None
        headers = to_frontend(
            request.requestHeaders,
            Client(request.client_address, bool(request.isSecure())),
            self._proxy.trusted,
            request.trace_id,
        )
        sent: Any = Outgoing(
            request.method, request.uri, headers, self._upload, persistent=not fresh
        )
        self.may_repeat = False
        asked: Deferred[Any] = connection.request(sent)
        late = self._proxy.environment.reactor.callLater(ANSWER_S, self._too_late, asked)
        try:
            return await asked
        except CancelledError:
            if self.status == 504:
                self._note(f"has not answered within {ANSWER_S:g} s")
                return None
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            untouched = self._upload is None or not self._upload.is_begun
            self.may_repeat = untouched and request.method in _SAFE
            self._note(f"did not answer: {error!r}")
            return None
        finally:
            if late.active():
                late.cancel()

    def _too_late(self, asked: Deferred[Any]) -> None:
        if self._upload is not None and not self._upload.is_complete:
            # As long as the client is still sending, nobody is late but it.
            return
        self.status = 504
        asked.cancel()

    def _note(self, why: str) -> None:
        frontend = self._frontend
        self._proxy.failures.failed(frontend.id, frontend.incarnation)
        with trace.working_for(self._request.trace_id):
            self.log.warn("{id} {why}", id=frontend.id, why=why)
