"""Servers that systemd keeps running: started, stopped and looked at through `systemctl`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from penncloud.client.agents import SupervisedServer
from penncloud.platform.errors import PennCloudError

SYSTEMCTL: Final = "/bin/systemctl"
# `stop` answers when the server is down: longer than a unit may take (TimeoutStopSec).
_WITHIN_S: Final = 40.0
_OUTPUT_BYTES: Final = 64 * 1024

_STATES: Final = {
    "active": "running",
    "reloading": "running",
    "activating": "waiting",
    "deactivating": "stopping",
}
_PROPERTIES: Final = (
    "ActiveState",
    "MainPID",
    "NRestarts",
    "Result",
    "LoadState",
    "ExecMainStatus",
)


class SystemdRefused(PennCloudError):
    """systemctl failed; the text is what it said."""


class Systemctl(Protocol):
    """Runs `systemctl ARGUMENTS`; what it prints. Raises SystemdRefused."""

    async def __call__(self, *arguments: str) -> str: ...


class _Run(ProcessProtocol):
    def __init__(self) -> None:
        self.done: Deferred[str] = Deferred()
        self._said = b""

    def outReceived(self, data: bytes) -> None:
        self._said = (self._said + data)[:_OUTPUT_BYTES]

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        said = self._said.decode("utf-8", "replace").strip()
        if reason.check(ProcessDone):
            self.done.callback(said)
        else:
            self.done.errback(SystemdRefused(said or reason.getErrorMessage()))


def real_systemctl(reactor: Any, program: str = SYSTEMCTL) -> Systemctl:
    """`reactor` has IReactorProcess and IReactorTime. A call that hangs is ended after a bound."""

    async def systemctl(*arguments: str) -> str:
        run = _Run()
        words = [program, "--no-ask-password", "--no-pager", *arguments]
        process = reactor.spawnProcess(run, program, words, env={"LC_ALL": "C"})

        def hung() -> None:
            with contextlib.suppress(ProcessExitedAlready):  # Its end is on its way to us.
                process.signalProcess("KILL")

        timer = reactor.callLater(_WITHIN_S, hung)
        try:
            return await run.done
        finally:
            if timer.active():
                timer.cancel()

    return systemctl


@frozen
class Unit:
    """The server `id` as the systemd service `name`. `renews`: a reload replaces its workers."""

    id: str
    role: str
    name: str
    systemctl: Systemctl
    renews: bool = False

    async def start(self) -> None:
        """Returns when it serves. Raises SystemdRefused."""
        await self.systemctl("start", self.name)

    async def stop(self) -> None:
        """Returns when it is down; it stays so, also where it was about to be started again."""
        await self.systemctl("stop", self.name)

    async def restart(self) -> None:
        """A frontend with workers replaces them one by one, which cuts no request."""
        verb = "reload-or-restart" if self.renews else "restart"
        await self.systemctl(verb, self.name)

    async def describe(self) -> SupervisedServer:
        shown = await self.systemctl("show", self.name, f"--property={','.join(_PROPERTIES)}")
        found = dict(line.partition("=")[::2] for line in shown.splitlines())
        if found.get("LoadState") == "not-found":
            raise SystemdRefused(
                f"{self.name} is not installed: penncloud install --role {self.role}"
            )
        state = _STATES.get(found.get("ActiveState", ""), "down")
        pid = int(found.get("MainPID", "0") or 0)
        return SupervisedServer(
            id=self.id,
            role=self.role,
            state=state,
            pid=pid or None,
            deaths=int(found.get("NRestarts", "0") or 0),
            last_end=_last_end(found.get("Result", ""), found.get("ExecMainStatus", "")),
        )


def _last_end(result: str, status: str) -> str:
    if result in ("", "success"):
        return ""
    return f"{result} (status {status})"


def units_of(
    servers: Sequence[tuple[str, str, str]], systemctl: Systemctl, renewing: Collection[str] = ()
) -> dict[str, Unit]:
    """By id, for (id, role, unit name). `renewing` are the ids of those that have workers."""
    return {
        node_id: Unit(node_id, role, name, systemctl, node_id in renewing)
        for node_id, role, name in servers
    }
