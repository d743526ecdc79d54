"""One port, two protocols: the first byte a client sends decides.

An rpc frame begins with a zero byte (its length is below 2**24), a request of the text protocol with a
letter. What follows is handed on unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from penncloud.platform.complaints import Complaints
from penncloud.platform.tls import ANY_ROLE, PeerName, Roles, peer_of
from penncloud.wire.messages import Error
from penncloud.wire.replies import encode_reply

# A connection that has said nothing for so long is closed, so that silent ones cannot pile up.
SILENT_S: Final = 30.0


class SwitchFactory(Factory):
    """Hands each connection to `rpc` or to `text` (factories). `reactor` has IReactorTime.

    `rpc_roles` and `text_roles`: who may speak which, where there is TLS.
    """

    log = Logger()
    noisy = False

    def __init__(
        self,
        reactor: Any,
        rpc: IProtocolFactory,
        text: IProtocolFactory,
        silent_s: float = SILENT_S,
        *,
        rpc_roles: Roles = ANY_ROLE,
        text_roles: Roles = ANY_ROLE,
    ) -> None:
        self.rpc_roles = frozenset(rpc_roles)
        self.text_roles = frozenset(text_roles)
        self._reactor = reactor
        self.complaints = Complaints(reactor, self.log)
        self.rpc = rpc
        self.text = text
        self._silent_s = silent_s

    def later(self, call: Callable[[], None]) -> Any:
        """After as long as a connection may say nothing."""
        return self._reactor.callLater(self._silent_s, call)

    def startFactory(self) -> None:
        self.rpc.doStart()
        self.text.doStart()

    def stopFactory(self) -> None:
        self.rpc.doStop()
        self.text.doStop()

    def buildProtocol(self, addr: Any) -> Protocol:
        protocol = _Switch(self, addr)
        protocol.factory = self
        return protocol


@implementer(IHalfCloseableProtocol)
class _Switch(Protocol):
    def __init__(self, kinds: SwitchFactory, address: Any) -> None:
        self._kinds = kinds
        self._address = address
        self._chosen: Any = None
        self._silence = kinds.later(self._too_silent)
        self._refused = False

    def dataReceived(self, data: bytes) -> None:
        if self._chosen is None and not self._refused:
            self._choose(data[:1])
        if self._chosen is not None:
            self._chosen.dataReceived(data)

    def _choose(self, first: bytes) -> None:
        self._silence.cancel()
        is_rpc = first == b"\0"
        factory = self._kinds.rpc if is_rpc else self._kinds.text
        transport: Any = self.transport
        sender = peer_of(transport)
        roles = self._kinds.rpc_roles if is_rpc else self._kinds.text_roles
        if sender is not None and sender.role not in roles:
            self._forbid(sender, is_rpc)
            return
        chosen: Any = factory.buildProtocol(self._address)
        if chosen is None:
            transport.abortConnection()
        else:
            self._chosen = chosen
            chosen.makeConnection(transport)

    def _forbid(self, sender: PeerName, is_rpc: bool) -> None:
        """A member of the cluster, but not one that has any business here."""
        protocol = "internal calls" if is_rpc else "the key-value protocol"
        text = f"{sender} may not speak {protocol} here"
        self._kinds.complaints.warn(str(sender), text)
        self._refused = True
        transport: Any = self.transport
        if not is_rpc:
            transport.write(encode_reply(Error("FORBIDDEN", text)))
        transport.loseConnection()
        self._silence = self._kinds.later(self._too_silent)

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
