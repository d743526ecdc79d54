"""A worker as a process: started with the listening socket, heard and logged through pipes.

Descriptors of the child: 0 takes our words, 1 gives what it logs (a JSON object per line, `json_log`), 2 what
the interpreter says when all else fails, 3 its words, 4 is the listening socket.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from penncloud.platform import trace
from penncloud.platform.supervisor import Ended, Signal
from penncloud.web.workers.pool import Spawn, WorkerRunning
from penncloud.web.workers.words import (
    Begin,
    FromWorker,
    Lines,
    ToWorker,
    encode,
    words_from_worker,
)

WORDS_FD: Final = 3
LISTENING_FD: Final = 4
# What is kept of its last words, to say why it ended.
_LAST_WORDS_BYTES: Final = 4096
# `json_log` writes no longer line than 40 kB.
_LINE_BYTES: Final = 64 * 1024
# The fields of a line that are the line's own; see `platform.json_log`.
_OWN: Final = ("time", "level", "logger", "message", "request", "traceback")


_log = Logger()


def _log_lines(number: int) -> Lines:
    """Says in our log what a worker has logged."""

    def line(text: bytes) -> None:
        try:
            said = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            words = text.decode("utf-8", "replace")
            _log.warn("worker {worker} says: {text}", worker=number, text=words)
            return
        own = {name: str(said.get(name, "")) for name in _OWN}
        fields = {
            name: value
            for name, value in said.items()
            if name not in _OWN and not name.startswith("log_")
        }
        fields["worker"] = number
        fields["said"] = "\n".join(filter(None, (own["message"], own["traceback"])))
        request = own["request"]
        with trace.working_for(request) if request else contextlib.nullcontext():
            logger = Logger(namespace=own["logger"])
            logger.emit(_level(own["level"]), "worker {worker}: {said}", **fields)

    return Lines(line, _LINE_BYTES)


def _level(name: str) -> Any:
    try:
        return LogLevel.levelWithName(name)
    except ValueError:
        return LogLevel.warn


class _WorkerProcess(ProcessProtocol):
    def __init__(
        self, begin: Begin, heard: Callable[[FromWorker], None], ended: Callable[[Ended], None]
    ) -> None:
        self._begin = begin
        self._ended = ended
        self._words = words_from_worker(heard)
        self._log = _log_lines(begin.number)
        self._last_words = b""

    def connectionMade(self) -> None:
        self.tell(self._begin)

    def tell(self, word: ToWorker) -> None:
        # A pipe whose other side has closed takes no more; the end is on its way to us.
        assert self.transport is not None
        self.transport.write(encode(word))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == 1:
            self._log.received(data)
        elif childFD == WORDS_FD:
            self._words.received(data)
        else:
            self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        how = reason.value
        assert isinstance(how, ProcessDone | ProcessTerminated)
        said = self._last_words.decode("utf-8", "replace")
        self._ended(Ended(how.exitCode, how.signal, said))


class _Process:
    """`WorkerRunning` on top of Twisted's process transport."""

    def __init__(self, protocol: _WorkerProcess, transport: Any) -> None:
        self._protocol = protocol
        self._transport = transport
        self.pid: int = transport.pid

    def signal(self, name: Signal) -> None:
        with contextlib.suppress(ProcessExitedAlready):  # Its end is on its way to us.
            self._transport.signalProcess(name)

    def tell(self, word: ToWorker) -> None:
        self._protocol.tell(word)


def spawn_workers(
    reactor: Any, listening: Callable[[], int], module: str, label: Sequence[str]
) -> Spawn:
    """A function that starts worker processes; `reactor` has IReactorProcess.

    `listening` gives the descriptor of the socket to accept from. `module` is the main program,
    see `taps.http_worker`. `label`
    stands among the arguments, for those who look at the processes.
    """

    def spawn(
        begin: Begin, heard: Callable[[FromWorker], None], ended: Callable[[Ended], None]
    ) -> WorkerRunning:
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        protocol = _WorkerProcess(begin, heard, ended)
        told = [str(os.getpid()), begin.role.id, str(begin.number), begin.cluster.reactor]
        transport = reactor.spawnProcess(
            protocol,
            sys.executable,
            [sys.executable, "-m", module, *told, *label],
            env={**os.environ, "PYTHONPATH": path},
            childFDs={0: "w", 1: "r", 2: "r", WORDS_FD: "r", LISTENING_FD: listening()},
        )
        return _Process(protocol, transport)

    return spawn
