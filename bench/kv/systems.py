"""Starting each system on this machine, and asking the kernel what its servers used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Protocol

from attrs import define, field

_HERE = Path(__file__).parent.parent.parent
_TWISTD = "from twisted.scripts.twistd import run; run()"
_START_S = 60.0


class NotThere(Exception):
    """A program that is needed is not installed, or does not start."""


class System(Protocol):
    """One cluster of three copies; `start` returns when it takes writes."""

    name: str
    servers: dict[str, Server]

    def start(self) -> None: ...

    def targets(self) -> tuple[list[str], list[tuple[int, int]]]:
        """Where clients send their requests, and for which keys (none: all to the first)."""
        ...

    def leader(self) -> str:
        """The server whose death is felt."""
        ...

    def stop(self) -> None: ...


@define(eq=False)
class Server:
    """One process of a system."""

    command: list[str]
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(_HERE)},
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def cpu_s(self) -> float:
        """Of this process and those of its children that have ended."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, peak: bool) -> float:
        """Resident, at most so far (`peak`) or now."""
        assert self.process is not None
        wanted = "VmHWM" if peak else "VmRSS"
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{wanted}:"):
                return int(line.split()[1]) / 1024
        raise NotThere(f"no {wanted} of {self.process.pid}")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait(what: str, ready: object, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    assert callable(ready)
    while not ready():
        if time.monotonic() > deadline:
            tail = log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
            raise NotThere(f"{what} does not serve after {_START_S:g} s\n{tail}")
        time.sleep(0.1)


def _ask(port: int, request: bytes, until: bytes) -> bytes:
    """What a server answers; empty when it does not."""
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=2) as connection,
    ):
        connection.sendall(request)
        while until not in answer and (data := connection.recv(65_536)):
            answer += data
    return answer


@define(eq=False)
class _Cluster:
    root: Path
    servers: dict[str, Server] = field(factory=dict)

    def _add(self, name: str, command: list[str]) -> None:
        directory = self.root / name
        directory.mkdir(parents=True)
        self.servers[name] = Server(command, directory)

    def _start_all(self) -> None:
        for server in self.servers.values():
            server.start()

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()
        shutil.rmtree(self.root, ignore_errors=True)


@define(eq=False)
class PennCloud(_Cluster):
    """Three storage servers and three coordinators, as separate processes."""

    name = "penncloud"
    ports: dict[str, int] = field(factory=dict)
    options: list[str] = field(factory=list)

    def start(self) -> None:
        names = [f"{role}-{n}" for role in ("coordinator", "storage") for n in (1, 2, 3)]
        self.ports = dict(zip(names, free_ports(6), strict=True))
        coordinators = ",".join(self.coordinators())
        for name, port in self.ports.items():
            role = name.partition("-")[0]
            command = [sys.executable, "-c", _TWISTD, "-n", "--pidfile=", f"penncloud-{role}"]
            command += [f"--id={name}", f"--port={port}", f"--data-dir={self.root / name / 'data'}"]
            self._add(name, [*command, f"--cluster-coordinators={coordinators}", *self.options])
        self._start_all()
        _wait("PennCloud", self._serves, self.root / "storage-1" / "log")

    def coordinators(self) -> list[str]:
        return [f"127.0.0.1:{port}" for name, port in self.ports.items() if name[0] == "c"]

    def _serves(self) -> bool:
        tablets = self._map()
        if not tablets or not all(address for _, address in tablets):
            return False
        ports = {int(address.rpartition(":")[2]) for _, address in tablets}
        return all(_ask(port, b"GET;x;y\r\n", b"\r\n") for port in ports)

    def _map(self) -> list[tuple[int, str]]:
        """Where each tablet begins, and the address of its primary."""
        for name, port in self.ports.items():
            if not name.startswith("coordinator"):
                continue
            answer = _ask(port, b"MAP\r\nWHERE;x;y\r\n", b"+AT")
            lines = answer.decode().split("\r\n")
            if lines[0].startswith("+MAP;"):
                count = int(lines[0].split(";")[2])
                rows = [line.split(";") for line in lines[1 : 1 + count]]
                return sorted((int(row[1]), row[4]) for row in rows)
        return []

    def targets(self) -> tuple[list[str], list[tuple[int, int]]]:
        tablets = self._map()
        targets = sorted({address for _, address in tablets})
        return targets, [(lo, targets.index(address)) for lo, address in tablets]

    def leader(self) -> str:
        return self.primary_of(0)

    def primary_of(self, place: int) -> str:
        """The server that is primary of the tablet with this hash."""
        address = [address for lo, address in self._map() if lo <= place][-1]
        port = int(address.rpartition(":")[2] or 0)
        return next((name for name, its in self.ports.items() if its == port), "")


@define(eq=False)
class Etcd(_Cluster):
    """Three members."""

    name = "etcd"
    clients: dict[str, int] = field(factory=dict)

    def start(self) -> None:
        if shutil.which("etcd") is None:
            raise NotThere("etcd (Debian: etcd-server) is not installed")
        names = [f"etcd-{n}" for n in (1, 2, 3)]
        ports = free_ports(6)
        self.clients = dict(zip(names, ports[:3], strict=True))
        peers = dict(zip(names, ports[3:], strict=True))
        everybody = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in peers.items())
        for name in names:
            here, peer = f"http://127.0.0.1:{self.clients[name]}", f"http://127.0.0.1:{peers[name]}"
            command = ["etcd", f"--name={name}", f"--data-dir={self.root / name / 'data'}"]
            command += [f"--listen-client-urls={here}", f"--advertise-client-urls={here}"]
            command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
            command += [f"--initial-cluster={everybody}", "--initial-cluster-state=new"]
            command += ["--quota-backend-bytes=8589934592", "--log-level=error"]
            self._add(name, command)
        self._start_all()
        _wait("etcd", self.leader, self.root / "etcd-1" / "log")

    def leader(self) -> str:
        for name, port in self.clients.items():
            url = f"http://127.0.0.1:{port}/v3/maintenance/status"
            with contextlib.suppress(OSError, ValueError):
                request = urllib.request.Request(url, data=b"{}", method="POST")
                with urllib.request.urlopen(request, timeout=2) as answer:
                    status = json.load(answer)
                if status.get("leader") == status["header"]["member_id"]:
                    return name
        return ""

    def targets(self) -> tuple[list[str], list[tuple[int, int]]]:
        _wait("etcd", self.leader, self.root / "etcd-1" / "log")
        return [f"127.0.0.1:{self.clients[self.leader()]}"], []


@define(eq=False)
class Redis(_Cluster):
    """A primary and two replicas, each syncing every write."""

    name = "redis"
    ports: list[int] = field(factory=list)

    def start(self) -> None:
        if shutil.which("redis-server") is None:
            raise NotThere("redis-server (Debian: redis-server) is not installed")
        self.ports = free_ports(3)
        for number, port in enumerate(self.ports):
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            command += ["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"]
            if number:
                command += ["--replicaof", f"127.0.0.1 {self.ports[0]}"]
            self._add(f"redis-{number + 1}", command)
        self._start_all()
        _wait("Redis", self._serves, self.root / "redis-1" / "log")

    def _serves(self) -> bool:
        request = b"SET ready 1\r\nWAIT 2 1000\r\n"
        return _ask(self.ports[0], request, b":") == b"+OK\r\n:2\r\n"

    def targets(self) -> tuple[list[str], list[tuple[int, int]]]:
        return [f"127.0.0.1:{self.ports[0]}"], []

    def leader(self) -> str:
        return "redis-1"


SYSTEMS: dict[str, type[PennCloud | Etcd | Redis]] = {
    "penncloud": PennCloud,
    "etcd": Etcd,
    "redis": Redis,
}
