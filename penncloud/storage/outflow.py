"""The way out of one connection: its back-pressure, and its end.

Theory of operation
    The transport says when its buffer is full and when it has room again. A client that has taken nothing
    for `STALLED_S` meanwhile is dropped.

    Closing a socket that holds unread bytes resets the connection, and the reset may overtake the last
    reply. So after a fatal error only our direction is closed, and what the client still sends is thrown
    away for `LINGER_S`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableDescriptor, IPushProducer, ITCPTransport
from twisted.logger import Logger
from zope.interface import implementer

# A client that takes none of the waiting replies for so long is dropped.
STALLED_S: Final = 30.0
# After a fatal error: how long what the client still sends is read and thrown away.
LINGER_S: Final = 2.0


@implementer(IPushProducer)
class Outflow:
    """See the module. `clock` has IReactorTime; `room` is called when the transport takes more again.

    It is the transport's producer: a LineReceiver's own methods of these names are about reading.
    """

    log = Logger()

    def __init__(self, clock: Any, room: Callable[[], None]) -> None:
        self._clock = clock
        self._room = room
        self._transport: Any = None
        self._deadline: Any = None
        self.congested = False
        # All replies are out and the connection is being closed.
        self.closing = False

    def begin(self, transport: Any) -> None:
        """The connection is there."""
        self._transport = transport
        transport.registerProducer(self, True)
        if ITCPTransport.providedBy(transport):
            # Else a reply waits until the client's kernel has acknowledged the one before, up to 40 ms.
            transport.setTcpNoDelay(True)

    def close(self, lost_framing: bool) -> bool:
        """Close after the last reply, such that it arrives.

        True when the client, after a fatal error, has to be read on: what it sends is thrown away.
        """
        self.closing = True
        self._transport.unregisterProducer()
        half_closeable = IHalfCloseableDescriptor.providedBy(self._transport)
        if lost_framing and half_closeable:
            self._set_deadline(LINGER_S)
            self._transport.loseWriteConnection()
            return True
        self._set_deadline(STALLED_S)
        self._transport.loseConnection()
        return False

    def drop(self) -> None:
        """End the connection now, whatever has not been sent."""
        self._transport.abortConnection()

    def lost(self) -> None:
        """The connection is gone."""
        self.closing = True
        self._set_deadline(None)

    # -- what the transport tells of its buffer --------------------------------------------------

    def pauseProducing(self) -> None:
        self.congested = True
        if not self.closing:
            self._set_deadline(STALLED_S)

    def resumeProducing(self) -> None:
        self.congested = False
        if not self.closing:
            self._set_deadline(None)
            self._room()

    def stopProducing(self) -> None:
        """The connection is lost; its protocol sees to it."""

    # -- how long it may take --------------------------------------------------------------------

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._clock.callLater(seconds, self._stalled)

    def _stalled(self) -> None:
        self._deadline = None
        if not self.closing:
            self.log.info("{peer} takes no replies: dropped", peer=self._transport.getPeer())
        self.drop()
