"""The way in: a protocol is built for a connection only when its handshake has succeeded.

    TCP -> _Tls (Twisted's TLS) -> _Waiting  ... handshake ...  -> the protocol of the wrapped factory

So nothing that reads requests ever sees a connection of somebody without a certificate, and a client's
`connect` fires when the server has shown that it is one. A handshake has a deadline. At the listening
side those who are turned away are logged (`complaints.py`).

Both sides look at the other's certificate again, at least every `LOOK_S`, as long as the connection
lasts. It is closed when the certificate has expired or its authority is believed no more. Whoever has a new
one by then connects again at once, as after any lost connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.platform.complaints import Complaints
from penncloud.platform.errors import ConfigurationError, PennCloudError
from penncloud.platform.tls.credentials import Credentials, Roles, Verdict
from penncloud.platform.tls.names import PeerName
from penncloud.platform.tls.reloading import ssl_reason

HANDSHAKE_S: Final = 10.0
LOOK_S: Final = 30.0
# What was written before a connection is closed may take so long to leave.
CLOSE_S: Final = 5.0
# Connections are spread over so many phases, so that those of a server are not all closed at once.
_PHASES: Final = 64


class HandshakeFailed(PennCloudError):
    """One side refused the other's certificate, or does not speak TLS."""

    retryable = True


def entrance(reactor: Any, credentials: Credentials, roles: Roles, factory: Any) -> Any:
    """A factory to listen with: `factory` gets the connections of clients that have one of `roles`.

    Raises ConfigurationError for credentials that cannot be used. `reactor` has IReactorTime.
    """
    credentials.context()
    doorkeeper = _Doorkeeper(reactor, credentials, factory)
    return _TlsFactory(credentials.accepting(roles), False, doorkeeper, clock=reactor)


def over_tls(
    reactor: Any, credentials: Credentials, roles: Roles, endpoint: IStreamClientEndpoint
) -> IStreamClientEndpoint:
    """An endpoint that fires once the server has shown a certificate of one of `roles`.

    Errors, beside those of `endpoint`: HandshakeFailed, ConfigurationError.
    """
    return _TlsEndpoint(reactor, credentials, roles, endpoint)


def peer_of(transport: Any) -> PeerName | None:
    """Whom the peer's certificate speaks for; None on a connection in the clear."""
    return transport.peer_name if isinstance(transport, _Tls) else None


class _Tls(BufferingTLSTransport):
    """TLS on a connection; `peer_name` is known once the handshake is over."""

    log = Logger()
    peer_name: PeerName | None = None
    verdict: Verdict | None = None
    _timer: Any = None

    def look_again(self, reactor: Any, credentials: Credentials) -> None:
        """Close the connection when its peer's certificate is not good any more."""

        def later() -> None:
            self._timer = reactor.callLater(pause_s, look)

        def look() -> None:
            why = credentials.refusal(self.getPeerCertificate())
            if not why:
                later()
                return
            self.log.info("closed the connection with {peer}: {why}", peer=self.peer_name, why=why)
            self.loseConnection()
            self._timer = reactor.callLater(CLOSE_S, self.abortConnection)

        # The ports of a connection are as good as chance, and the same on both sides.
        ports = sum(getattr(one, "port", 0) for one in (self.getHost(), self.getPeer()))
        pause_s = LOOK_S * (1 - ports % _PHASES / (2 * _PHASES))
        later()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        super().connectionLost(reason)


class _TlsFactory(TLSMemoryBIOFactory):
    protocol = _Tls


@implementer(IHandshakeListener)
class _Waiting(Protocol):
    """In the place of the protocol until the handshake is over."""

    def __init__(
        self, reactor: Any, admitted: Callable[[_Tls], None], refused: Callable[[str], None]
    ) -> None:
        self._admitted = admitted
        self._refused = refused
        self._late = False
        self._deadline = reactor.callLater(HANDSHAKE_S, self._too_slow)
        self._verdict: Verdict | None = None

    def connectionMade(self) -> None:
        tls: Any = self.transport
        self._verdict = tls.verdict

    def handshakeCompleted(self) -> None:
        tls: Any = self.transport
        self._deadline.cancel()
        verdict = tls.verdict
        if verdict is None or verdict.name is None:
            # OpenSSL has been told to ask; nobody gets here without having answered.
            tls.abortConnection()
            return
        tls.peer_name = verdict.name
        self._admitted(tls)

    def _too_slow(self) -> None:
        self._late = True
        tls: Any = self.transport
        tls.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        self._refused(self._why(reason))

    def _why(self, reason: Failure) -> str:
        """Empty for a peer that only looked whether somebody listens."""
        if self._late:
            return f"no handshake within {HANDSHAKE_S:g} s"
        if self._verdict is not None and self._verdict.refusal:
            return self._verdict.refusal
        if isinstance(reason.value, SSL.Error):
            return _in_words(ssl_reason(reason.value))
        if reason.check(ConnectionDone, ConnectionLost):
            return ""
        return reason.getErrorMessage()


def _in_words(reason: str) -> str:
    if "did not return a certificate" in reason:
        return "it has shown no certificate"
    if any(word in reason for word in ("wrong version number", "http request", "unexpected")):
        return f"it does not speak TLS ({reason})"
    return reason


def _become(tls: _Tls, factory: Any, address: Any) -> Any:
    """Put the protocol of `factory` into the place of the waiting one; None when it makes none."""
    protocol: Any = factory.buildProtocol(address)
    if protocol is None:
        tls.abortConnection()
        return None
    tls.wrappedProtocol = protocol
    protocol.makeConnection(tls)
    return protocol


@implementer(IProtocolFactory)
class _Doorkeeper:
    """The listening side's factory: makes `_Waiting`s, and hands over those who are let in."""

    log = Logger()
    noisy = False

    def __init__(self, reactor: Any, credentials: Credentials, factory: Any) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._factory = factory
        self._complaints = Complaints(reactor, self.log)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> _Waiting:
        def admitted(tls: _Tls) -> None:
            tls.look_again(self._reactor, self._credentials)
            _become(tls, self._factory, addr)

        def refused(why: str) -> None:
            if why:
                self._complaints.warn(str(getattr(addr, "host", addr)), why)

        return _Waiting(self._reactor, admitted, refused)


@implementer(IStreamClientEndpoint)
class _TlsEndpoint:
    def __init__(self, reactor: Any, credentials: Credentials, roles: Roles, endpoint: Any) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._roles = roles
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        try:
            self._credentials.context()
        except ConfigurationError as error:
            return fail(error)
        attempt = _Attempt(self._reactor, self._credentials, protocolFactory)
        creator = self._credentials.connecting(self._roles)
        factory = _TlsFactory(creator, True, attempt, clock=self._reactor)
        return attempt.begin(self._endpoint.connect(factory))


@implementer(IProtocolFactory)
class _Attempt:
    """One connection being made; also the factory of its `_Waiting`."""

    noisy = False

    def __init__(self, reactor: Any, credentials: Credentials, factory: Any) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._factory = factory
        self._connecting: Any = None
        self._tls: Any = None
        self._over = False
        self._result: Deferred[Any] = Deferred(self._cancel)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def begin(self, connecting: Deferred[Any]) -> Deferred[Any]:
        self._connecting = connecting
        connecting.addCallbacks(self._connected, self._failed)
        return self._result

    def _connected(self, tls: Any) -> None:
        self._connecting = None
        self._tls = tls

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        self._end(failure)

    def _end(self, outcome: Any) -> None:
        if not self._over:
            self._over = True
            self._result.callback(outcome)

    def _cancel(self, _: Deferred[Any]) -> None:
        # The Deferred itself then fails as cancelled.
        self._over = True
        if self._connecting is not None:
            self._connecting.cancel()
        elif self._tls is not None:
            self._tls.abortConnection()

    def buildProtocol(self, addr: Any) -> _Waiting:
        def admitted(tls: _Tls) -> None:
            if self._over:
                tls.abortConnection()
                return
            tls.look_again(self._reactor, self._credentials)
            protocol = _become(tls, self._factory, addr)
            if protocol is not None:
                self._end(protocol)

        def refused(why: str) -> None:
            text = why or "the server closed the connection during the handshake"
            self._end(Failure(HandshakeFailed(text)))

        return _Waiting(self._reactor, admitted, refused)
