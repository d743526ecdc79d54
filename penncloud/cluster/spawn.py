"""Starting a role as a child process of the agent, and hearing of its end."""

from __future__ import annotations

import contextlib
import os
import site
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import penncloud
from penncloud.cluster.layout import Layout
from penncloud.cluster.topology import Server
from penncloud.platform.supervisor import Ended, Launch, Running, Signal

CHILD_MODULE: Final = "penncloud.cluster.child"
# What is kept of a process's stdout and stderr, to say why it ended.
_LAST_WORDS_BYTES: Final = 4096


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a child, which runs in another directory than we do.

    It has to find this very package, also where that was found by the current directory.
    """
    paths = [os.path.abspath(part) for part in ours.get("PYTHONPATH", "").split(os.pathsep) if part]
    package = str(Path(penncloud.__file__).parent.parent.absolute())
    if package not in paths and package not in site.getsitepackages():
        paths.insert(0, package)
    return {**ours, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(ours)


class _RoleProcess(ProcessProtocol):
    log = Logger()

    def __init__(self, node_id: str, ended: Callable[[Ended], None]) -> None:
        self._id = node_id
        self._ended = ended
        self._words = b""

    def outReceived(self, data: bytes) -> None:
        self._words = (self._words + data)[-_LAST_WORDS_BYTES:]

    def errReceived(self, data: bytes) -> None:
        self.outReceived(data)
        text = data[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").rstrip()
        self.log.warn("{id} says: {text}", id=self._id, text=text)

    def processEnded(self, reason: Failure) -> None:
        words = self._words.decode("utf-8", "replace")
        how = reason.value
        assert isinstance(how, ProcessDone | ProcessTerminated)
        self._ended(Ended(how.exitCode, how.signal, words))


class _Child:
    """`Running` on top of Twisted's process transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.pid: int = transport.pid

    def signal(self, name: Signal) -> None:
        with contextlib.suppress(ProcessExitedAlready):  # Its end is on its way to us.
            self._transport.signalProcess(name)


def role_launch(
    reactor: Any,
    layout: Layout,
    server: Server,
    *,
    inside: Sequence[str] = (),
    variables: Mapping[str, str] = {},
    module: str = CHILD_MODULE,
) -> Launch:
    """A function that starts the process of `server`; `reactor` has IReactorProcess.

    `inside` is a command that becomes the one that follows it in its arguments, without a new process
    (`ip netns exec NAME`). `variables` are environment variables besides ours. `module` is another main
    program with the arguments of `cluster.child`.
    """

    def launch(ended: Callable[[Ended], None]) -> Running:
        arguments = [
            *inside,
            sys.executable,
            "-m",
            module,
            str(os.getpid()),
            str(layout.log(server.id)),
            f"penncloud-{server.role}",
            "--config",
            str(layout.configuration(server.id)),
        ]
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            transport = reactor.spawnProcess(
                _RoleProcess(server.id, ended),
                arguments[0],
                arguments,
                env={**child_environment(os.environ), **variables},
                path=str(layout.root),
                childFDs={0: nothing, 1: "r", 2: "r"},
            )
        finally:
            os.close(nothing)
        return _Child(transport)

    return launch
