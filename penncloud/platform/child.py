"""Work in a child process: a module that reads one request from stdin and writes one answer to stdout.

For computations that would hold the interpreter's lock for long: a thread would take it away from the
reactor for milliseconds at a time, a process takes another core. The child (`child_main`) runs at low
priority, so that where there is no other core the server still goes first.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from penncloud.platform.errors import PennCloudError

# Longest answer, and how much of what a failing child says is kept.
_ANSWER_BYTES: Final = 1024 * 1024
_LAST_WORDS_BYTES: Final = 2000


class ChildFailed(PennCloudError):
    """The child ended without an answer: it was killed, or there is a mistake in its program."""


class _Protocol(ProcessProtocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = b""
        self._last_words = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._answer = (self._answer + data)[:_ANSWER_BYTES]

    def errReceived(self, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            self.done.callback(self._answer)
            return
        said = self._last_words.decode("utf-8", "replace").strip()
        self.done.errback(ChildFailed(f"{reason.getErrorMessage()} {said}".strip()))


@define
class Child:
    """A child at work. `answer` fires once, or fails with ChildFailed."""

    answer: Deferred[bytes]
    _process: Any = field(alias="process")

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        try:
            self._process.signalProcess("KILL")
        except ProcessExitedAlready:
            return


def spawn_child(reactor: Any, module: str, request: bytes) -> Child:
    """Start `python -m module` with `request` as its stdin. `reactor` has IReactorProcess."""
    protocol = _Protocol(request)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    arguments = [sys.executable, "-m", module]
    process = reactor.spawnProcess(protocol, sys.executable, arguments, env=environment)
    return Child(protocol.done, process)
