"""The network of a run: an address for each host, and ways to disturb what goes between them.

`Namespaces` gives each host a network namespace with one interface on a bridge, which is in a namespace
too: nothing of the machine's own network is touched, and all of it ends with the namespaces. A cut is
made by giving the sender a wrong link address for the receiver. Packets then get lost on the way, one way,
as silently as behind a broken switch; no firewall is needed for that.

`Loopback` is what there is without the rights for that: every host is 127.0.0.1, and nothing can be cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from penncloud.platform.errors import PennCloudError

# No command of these takes longer, unless the machine hangs.
_COMMAND_S: Final = 20.0
# An address that belongs to nobody: of the locally administered ones, and not of veth's.
_NOBODY: Final = "02:00:00:00:00:00"
_NAME: Final = "pctorture"
_BRIDGE: Final = "bridge"
_INTERFACE: Final = "eth0"


class NoNamespaces(PennCloudError):
    """Network namespaces cannot be had here; the text says why."""


class Lan(Protocol):
    """See the module. Hosts are known by name; `cut` and `mend` are for one direction."""

    @property
    def can_cut(self) -> bool: ...

    def add(self, host: str) -> str:
        """A new host; returns its address."""
        ...

    def inside(self, host: str) -> list[str]:
        """What a command line begins with, to be run on that host."""
        ...

    def cut(self, source: str, target: str) -> None: ...

    def mend(self, source: str, target: str) -> None: ...

    def remove(self) -> None:
        """Take everything down; to be called when no process runs there any more."""
        ...


class Loopback:
    """One address for all."""

    can_cut = False

    def add(self, host: str) -> str:
        return "127.0.0.1"

    def inside(self, host: str) -> list[str]:
        return []

    def cut(self, source: str, target: str) -> None:
        raise NoNamespaces("hosts without namespaces cannot be cut off")

    mend = cut

    def remove(self) -> None:
        """There is nothing."""


class Namespaces:
    """One namespace for each host, and one for the bridge between them.

    They are named by the pid of the process that makes them, and so those of a run that was killed are
    known and removed by the next. Raises NoNamespaces.
    """

    can_cut = True

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NoNamespaces("only root can make network namespaces")
        if shutil.which("ip") is None:
            raise NoNamespaces("the program `ip` (Debian: iproute2) is not installed")
        remove_forsaken()
        self._run = f"{_NAME}-{os.getpid()}"
        self._addresses: dict[str, str] = {}
        self._made: list[str] = []
        try:
            self._namespace(self._hub)
            _ip("-n", self._hub, "link", "add", _BRIDGE, "type", "bridge")
            _ip("-n", self._hub, "link", "set", _BRIDGE, "up")
        except NoNamespaces:
            self.remove()
            raise

    @property
    def _hub(self) -> str:
        return f"{self._run}-hub"

    def add(self, host: str) -> str:
        number = len(self._addresses) + 1
        address, port, name = f"10.77.0.{number}", f"port{number}", self._name(host)
        self._namespace(name)
        _ip("-n", self._hub, "link", "add", port, "type", "veth", *_peer(name))
        _ip("-n", self._hub, "link", "set", port, "master", _BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", _INTERFACE)
        _ip("-n", name, "link", "set", _INTERFACE, "up")
        self._addresses[host] = address
        return address

    def _namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _name(self, host: str) -> str:
        return f"{self._run}-{host}"

    def inside(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", self._name(host)]

    def cut(self, source: str, target: str) -> None:
        neighbour = ("neigh", "replace", self._addresses[target], "lladdr", _NOBODY)
        _ip("-n", self._name(source), *neighbour, "nud", "permanent", "dev", _INTERFACE)

    def mend(self, source: str, target: str) -> None:
        # It is asked for again when it is needed.
        _ip("-n", self._name(source), "neigh", "del", self._addresses[target], "dev", _INTERFACE)

    def remove(self) -> None:
        while self._made:
            _remove(self._made.pop())


def remove_forsaken() -> list[str]:
    """Remove the namespaces of runs whose process has ended; returns their names."""
    with contextlib.suppress(OSError):
        names = [path.name for path in Path("/run/netns").iterdir()]
        forsaken = [name for name in names if name.startswith(f"{_NAME}-") and not _alive(name)]
        for name in forsaken:
            _remove(name)
        return forsaken
    return []


def _alive(name: str) -> bool:
    pid = name.split("-")[1]
    return pid.isdecimal() and Path(f"/proc/{pid}").exists()


def _remove(name: str) -> None:
    with contextlib.suppress(NoNamespaces):  # Somebody else has removed it.
        _ip("netns", "del", name)


def _peer(namespace: str) -> Sequence[str]:
    return ("peer", "name", _INTERFACE, "netns", namespace)


def _ip(*arguments: str) -> None:
    """Raises NoNamespaces."""
    command = ["ip", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_COMMAND_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNamespaces(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise NoNamespaces(f"{' '.join(command)}: {done.stderr.strip()}")
