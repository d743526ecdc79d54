"""Hosts of their own in network namespaces, with files of their own in /etc and /var/lib.

    lan = Namespaces()
    host = Host(lan, "cloud-1")
    host.write("/etc/penncloud/penncloud.toml", text)
    host.start("storage", ["--config", "/etc/penncloud/penncloud.toml"])
    visitor.call(Member(f"http://{host.address}:8080", "alice").sign_up, password)

What a host writes goes to memory and is gone with it. It takes root; `Namespaces` and `Host` raise
NoNamespaces where hosts cannot be had.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from penncloud.torture.lan import Lan, NoNamespaces
from tests.processes import roles
from tests.waiting import PATIENCE_S

_Result = TypeVar("_Result")

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
# $1: an empty directory. The process stays, as long as its stdin, for others to enter its namespaces.
_FILES: Final = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
for each in etc var/lib; do
    mkdir -p "$1/$each/new" "$1/$each/work"
    mount -t overlay overlay -o lowerdir="/$each",upperdir="$1/$each/new",workdir="$1/$each/work" "/$each"
done
echo ready
exec cat
"""


class Host:
    """One host on `lan`. `destroy` ends its processes; its namespace ends with the lan."""

    def __init__(self, lan: Lan, name: str) -> None:
        self.name = name
        self.address = lan.add(name)
        self.directory = Path(tempfile.mkdtemp(prefix="penncloud-host-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._holder = subprocess.Popen(
            [
                *lan.inside(name),
                "unshare",
                "--mount",
                "sh",
                "-c",
                _FILES,
                "sh",
                str(self.directory),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            _, said = self._holder.communicate()
            shutil.rmtree(self.directory)
            raise NoNamespaces(f"no files of its own for {name}: {said.decode().strip()}")

    @property
    def inside(self) -> list[str]:
        """What a command line begins with, to be run on this host."""
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net"]

    def write(self, path: str, data: bytes) -> None:
        """A file of this host, for its owner alone."""
        there = Path(f"/proc/{self._holder.pid}/root{path}")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch(0o600)
        there.write_bytes(data)

    def start(self, role: str, options: Sequence[str]) -> None:
        """Start a role by twistd; it is to live as long as the host."""
        self._processes[role] = roles.start(role, options, self.directory, inside=self.inside)

    def ended(self) -> list[str]:
        """The roles whose process has ended by itself, with what it said."""
        return [
            f"{self.name}: {role}: {(self.directory / f'{role}.out').read_text('utf-8', 'replace')}"
            for role, process in self._processes.items()
            if process.poll() is not None
        ]

    def kill(self) -> None:
        """The whole host dies: SIGKILL to all that runs on it."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.communicate()
        self._processes.clear()

    def destroy(self) -> None:
        self.kill()
        self._holder.kill()
        self._holder.communicate()
        shutil.rmtree(self.directory)


class Visitor:
    """Somebody on a host of their own, who does things there within this process: in a thread of it
    that has entered the host's network."""

    def __init__(self, lan: Lan, name: str = "visitor") -> None:
        lan.add(name)
        self._namespace = Path("/run/netns") / lan.inside(name)[-1]
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(self._namespace, os.O_RDONLY)
        try:
            if libc.setns(descriptor, _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What `function` returns or raises, called there."""
        return self._thread.submit(function, *arguments).result(timeout=PATIENCE_S)

    def leave(self) -> None:
        self._thread.shutdown()
