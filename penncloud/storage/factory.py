"""All text connections of a storage server: accepted up to a bound, and ended in order."""

from __future__ import annotations

import math
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from penncloud.storage.protocol import TextProtocol
from penncloud.storage.service import Service
from penncloud.wire.messages import Busy
from penncloud.wire.replies import encode_reply

# Connections of one server; one beyond is told -BUSY and closed.
MAX_CONNECTIONS: Final = 10_000
_FULL: Final = encode_reply(Busy(1000))


class _OneTooMany(Protocol):
    """Told so, not closed in silence."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(_FULL)
        transport.loseConnection()


class TextFactory(Factory):
    """Serves the text protocol. `clock` has IReactorTime. Requests that took `slow_s` are logged."""

    noisy = False

    def __init__(
        self,
        clock: Any,
        service: Service,
        pipeline_depth: int,
        max_connections: int = MAX_CONNECTIONS,
        slow_s: float = math.inf,
    ) -> None:
        self._clock = clock
        self._service = service
        self._depth = pipeline_depth
        self._max_connections = max_connections
        self._slow_s = slow_s
        # A dict as an ordered set: what is done to all is done in the same order in every run.
        self.connections: dict[TextProtocol, None] = {}
        self._all_ended: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        if len(self.connections) >= self._max_connections:
            return _OneTooMany()
        protocol = TextProtocol(self._clock, self._service, self._depth, self._ended, self._slow_s)
        protocol.factory = self
        self.connections[protocol] = None
        return protocol

    def log_slower(self, slow_s: float) -> None:
        """Log requests that take so long from now on."""
        self._slow_s = slow_s
        for protocol in self.connections:
            protocol.slow_s = slow_s

    def _ended(self, protocol: TextProtocol) -> None:
        self.connections.pop(protocol, None)
        if not self.connections:
            waiting, self._all_ended = self._all_ended, []
            for ended in waiting:
                ended.callback(None)

    async def stop(self, within_s: float) -> None:
        """Answer what has come and close every connection; those that take too long are dropped."""
        for protocol in list(self.connections):
            protocol.finish()
        if not self.connections:
            return
        ended: Deferred[None] = Deferred()
        self._all_ended.append(ended)
        late = self._clock.callLater(within_s, self._drop_all)
        await ended
        if late.active():
            late.cancel()

    def _drop_all(self) -> None:
        for protocol in list(self.connections):
            protocol.drop()
