"""One role as a real process, started as systemd would start it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

ROOT = Path(__file__).resolve().parents[2]
_TWISTD = "from twisted.scripts.twistd import run; run()"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RoleProcess(ProcessProtocol):
    """`twistd -n penncloud-NAME OPTIONS`; `output` is all that it printed.

    `file_limit_bytes`: no file may become larger (a write beyond fails with EFBIG).
    """

    def __init__(
        self, reactor: Any, name: str, options: dict[str, object], file_limit_bytes: int = 0
    ) -> None:
        self.output = ""
        self.ended: Deferred[int] = Deferred()
        self._awaited: list[tuple[str, Deferred[None]]] = []
        limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (%d, %d));"
        program = (limit % ((file_limit_bytes,) * 2) if file_limit_bytes else "") + _TWISTD
        arguments = [f"--{key}={value}" for key, value in options.items()]
        command = [sys.executable, "-c", program, "-n", "--pidfile=", f"penncloud-{name}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process: Any = reactor.spawnProcess(
            self, sys.executable, [*command, *arguments], environment, str(ROOT)
        )

    def says(self, text: str) -> Deferred[None]:
        """Fires once `text` stands in the output; fails when the process ends without it."""
        told: Deferred[None] = Deferred()
        self._awaited.append((text, told))
        self._look()
        return told

    def signal(self, number: signal.Signals) -> Deferred[int]:
        """Send a signal; fires with the exit code (negative: the signal that ended it)."""
        if not self.ended.called:
            self._process.signalProcess(number)
        return self.ended

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode("utf-8", "replace")
        self._look()

    errReceived = outReceived

    def _look(self) -> None:
        for awaited in list(self._awaited):
            if awaited[0] in self.output:
                self._awaited.remove(awaited)
                awaited[1].callback(None)

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        code = 0 if reason.check(ProcessDone) else value.exitCode
        self.ended.callback(-value.signal if code is None else code)
        for text, told in self._awaited:
            told.errback(AssertionError(f"ended without saying {text!r}:\n{self.output}"))
        self._awaited.clear()
