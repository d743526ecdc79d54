"""One port, two protocols: the first byte a client sends decides.

An rpc frame begins with a zero byte (its length is below 2**24), a request of the text protocol with a
letter. What follows is handed on unchanged.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

# A connection that has said nothing for so long is closed, so that silent ones cannot pile up.
SILENT_S: Final = 30.0


class SwitchFactory(Factory):
    """Hands each connection to `rpc` or to `text` (factories). `reactor` has IReactorTime."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        rpc: IProtocolFactory,
        text: IProtocolFactory,
        silent_s: float = SILENT_S,
    ) -> None:
        self._reactor = reactor
        self.rpc = rpc
        self.text = text
        self._silent_s = silent_s

    def startFactory(self) -> None:
        self.rpc.doStart()
        self.text.doStart()

    def stopFactory(self) -> None:
        self.rpc.doStop()
        self.text.doStop()

    def buildProtocol(self, addr: Any) -> Protocol:
        protocol = _Switch(self, self._reactor, self._silent_s, addr)
        protocol.factory = self
        return protocol


@implementer(IHalfCloseableProtocol)
class _Switch(Protocol):
    def __init__(self, kinds: SwitchFactory, reactor: Any, silent_s: float, address: Any) -> None:
        self._kinds = kinds
        self._address = address
        self._chosen: Any = None
        self._silence = reactor.callLater(silent_s, self._too_silent)

    def dataReceived(self, data: bytes) -> None:
        if self._chosen is None:
            self._choose(data[:1])
        if self._chosen is not None:
            self._chosen.dataReceived(data)

    def _choose(self, first: bytes) -> None:
        self._silence.cancel()
        factory = self._kinds.rpc if first == b"\0" else self._kinds.text
        transport: Any = self.transport
        chosen: Any = factory.buildProtocol(self._address)
        if chosen is None:
            transport.abortConnection()
        else:
            self._chosen = chosen
            chosen.makeConnection(transport)

    def _too_silent(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def readConnectionLost(self) -> None:
        """The peer sends no more, but may still read (as `nc -N` does)."""
        if IHalfCloseableProtocol.providedBy(self._chosen):
            self._chosen.readConnectionLost()
        elif self.transport is not None:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._chosen):
            self._chosen.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._silence.active():
            self._silence.cancel()
        if self._chosen is not None:
            self._chosen.connectionLost(reason)
            self._chosen = None
