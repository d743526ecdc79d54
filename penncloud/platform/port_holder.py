"""A port that one process of a host holds while others stand by: who finds it free takes it.

The kernel frees the port of a process that dies, however it dies. Whoever stands by tries it every
`RETRY_S`, so the port is open again well within a second.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.listening import PortTaken, listen

RETRY_S: Final = 0.2


class PortHolder:
    """Listens with `factory` on a port, now or as soon as it is free."""

    log = Logger()

    def __init__(self, reactor: Any, host: str, port: int, factory: Any) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._factory = factory
        self._stopped = False
        self._trying: LoopingCall | None = None
        self.listening: IListeningPort | None = None

    async def hold(self) -> None:
        """Listen. Raises ConfigurationError, also when another process has the port."""
        self.listening = await listen(self._reactor, self._host, self._port, self._factory)

    async def stand_by(self) -> None:
        """Listen, or go on trying while another process has the port. Raises ConfigurationError for
        everything that waiting does not mend."""
        try:
            await self.hold()
        except PortTaken:
            self.log.info("standing by for {host}:{port}", host=self._host, port=self._port)
            self._trying = LoopingCall(lambda: Deferred.fromCoroutine(self._try()))
            self._trying.clock = self._reactor
            self._trying.start(RETRY_S, now=False).addErrback(
                lambda failure: self.log.failure("standing by", failure)
            )

    async def _try(self) -> None:
        try:
            found = await listen(self._reactor, self._host, self._port, self._factory)
        except PortTaken:
            return
        except ConfigurationError as error:
            # It may pass (no descriptors, say): the loop goes on.
            self.log.error("{error}", error=str(error))
            return
        if self._stopped:
            await maybeDeferred(found.stopListening)
            return
        self.listening = found
        self._end()
        self.log.info("took over {host}:{port}", host=self._host, port=self._port)

    def _end(self) -> None:
        if self._trying is not None and self._trying.running:
            self._trying.stop()

    async def stop(self) -> None:
        """Stand by no longer, and let the port go."""
        self._stopped = True
        self._end()
        if self.listening is not None:
            await maybeDeferred(self.listening.stopListening)
