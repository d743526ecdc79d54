"""A frontend's worker as a process: its words through its standard input, see `web.workers.process`."""

from __future__ import annotations

import os
import sys
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorCore
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from penncloud.platform.json_log import JsonLog
from penncloud.platform.listening import accept_from
from penncloud.platform.metrics import process_registry
from penncloud.platform.parent import end_with
from penncloud.platform.process import use_monotonic_clock
from penncloud.platform.resources import version
from penncloud.platform.threads import BoundedPool
from penncloud.taps._service import stop_with_error, world_of
from penncloud.taps.http import parts_of_serving
from penncloud.web.attempts import Attempts
from penncloud.web.serving import Serving
from penncloud.web.workers.process import LISTENING_FD, WORDS_FD
from penncloud.web.workers.words import Begin, FromWorker, encode, words_to_worker
from penncloud.web.workers.worker import Worker


class _ThisProcess:
    """See `web.workers.worker.Workplace`."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._threads: BoundedPool | None = None

    async def build(self, begin: Begin, attempts: Attempts) -> tuple[Serving, CollectorRegistry]:
        self._threads = BoundedPool(self._reactor)
        self._threads.start()
        environment = world_of(self._reactor, self._threads, begin.cluster, begin.role)
        registry = process_registry(environment.now, version())
        parts = parts_of_serving(environment, begin.cluster, begin.role)
        serving = Serving(environment, registry=registry, attempts=attempts, **parts)
        return serving, registry

    async def listen(self, factory: Any) -> IListeningPort:
        return accept_from(self._reactor, LISTENING_FD, factory)

    def leave(self, failed: bool) -> None:
        if self._threads is not None:
            self._threads.stop()
        if failed:
            stop_with_error(self._reactor)
        elif IReactorCore(self._reactor).running:
            # It may be stopping already, which waits for us.
            self._reactor.callLater(0, self._stop)

    def _stop(self) -> None:
        if self._reactor.running and not self._reactor._stopped:
            self._reactor.stop()


class _Front(Protocol):
    """The connection with the front. Its end is the front's end."""

    def __init__(self, reactor: Any) -> None:
        self.worker = Worker(_ThisProcess(reactor), self._say, reactor)
        self._ear = words_to_worker(self.worker.heard)

    def dataReceived(self, data: bytes) -> None:
        self._ear.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.worker.end()

    def _say(self, word: FromWorker) -> None:
        # Nothing is kept for a front that is gone.
        if self.transport is not None:
            self.transport.write(encode(word))


def main(front: int) -> None:
    # Ctrl-C of a terminal reaches the front alone, which ends its workers in order.
    os.setsid()
    end_with(front)
    globalLogBeginner.beginLoggingTo([JsonLog(sys.stdout)], redirectStandardIO=False)
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    protocol = _Front(reactor)
    standard_io: Any = StandardIO
    standard_io(protocol, stdin=0, stdout=WORDS_FD, reactor=reactor)

    def ending() -> Deferred[None]:
        return protocol.worker.end()

    core: Any = reactor
    core.addSystemEventTrigger("before", "shutdown", ending)
    core.run()
