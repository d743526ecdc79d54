"""A real cluster for tests: started by `penncloud up --detach` on free ports, ended by its own pids.

    cluster = RunningCluster(self.mktemp())
    self.addCleanup(cluster.destroy)
    cluster.start()
    cluster.url                         # http://localhost:PORT/
    cluster.document                    # cluster.json
    cluster.penncloud("kv", "get", ...) # a command on this cluster
    cluster.kill_everything()           # SIGKILL to every process
    cluster.start()                     # ... and resume on the same directory

All calls block: use them from plain tests, or from a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penncloud.cluster import cluster_file, leftovers
from penncloud.cluster.cluster_file import ClusterFile
from penncloud.cluster.layout import Layout
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent.parent
# Below the ports that the system gives to outgoing connections (from 32768).
_FIRST_PORT, _LAST_PORT, _BLOCK = 20_000, 31_000, 30
# Groups of commands that give up after a quarter of a minute, which a busy machine may need.
_THAT_TRY = ("coordinator", "kv", "lb", "mail", "node", "status", "tablet", "user")


def program_environment() -> dict[str, str]:
    """Variables with which a child finds this very PennCloud, whatever its directory."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def free_block(count: int = _BLOCK) -> int:
    """The first of `count` ports in a row on which nobody listens on 127.0.0.1.

    Tests run side by side, so the search begins anywhere.
    """
    candidates = list(range(_FIRST_PORT, _LAST_PORT, count))
    random.shuffle(candidates)
    for first in candidates:
        with contextlib.ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


class CommandFailed(AssertionError):
    """A command ended with another exit code than expected; the text has its output."""


class RunningCluster:
    """One cluster in `directory`. `options` are further options of `penncloud up`."""

    def __init__(self, directory: str, options: Sequence[str] = ()) -> None:
        self.layout = Layout.at(directory)
        self._options = list(options)
        self._ports: list[str] = []

    def start(self) -> None:
        """Start or resume; returns when a login page is served."""
        for attempt in range(3):
            if not self._ports:
                first = free_block()
                self._ports = [f"--base-port={first}", f"--smtp-port={first + _BLOCK - 1}"]
            try:
                self._up()
            except CommandFailed as failed:
                # Somebody took one of the ports between our look and the start.
                if "in use by another program" not in str(failed) or attempt == 2:
                    raise
                self._ports = []
            else:
                return

    def _up(self) -> None:
        up = ["up", "--detach", f"--data={self.layout.root}", f"--within={PATIENCE_S}"]
        # By default it depends on the machine's cores.
        processes = ["--set=http.workers=0"]
        self.command([*up, *self._ports, *processes, *self._options], timeout_s=PATIENCE_S + 60)

    def stop(self) -> None:
        """Stop in order."""
        self.command(["down", f"--data={self.layout.root}"], timeout_s=PATIENCE_S)

    def destroy(self) -> None:
        """End whatever runs of this cluster; for addCleanup."""
        self.kill_everything()

    # -- what there is ---------------------------------------------------------------------------

    @property
    def document(self) -> ClusterFile:
        """cluster.json as it is now."""
        found = cluster_file.read(self.layout)
        assert found is not None, f"no cluster.json in {self.layout.root}"
        return found

    @property
    def url(self) -> str:
        """What a person types into a browser."""
        return f"http://localhost:{self.document.lb[0].port}/"

    def tls_context(self, certificate: str = "admin") -> ssl.SSLContext:
        """For connections to internal ports, with somebody's certificate; the administrator's by default."""
        tls = self.document.tls
        assert tls is not None, "this cluster's connections are in the clear"
        context = ssl.create_default_context(cafile=tls.ca)
        path = self.layout.tls / certificate
        context.load_cert_chain(f"{path}.pem", f"{path}.key")
        return context

    def pid(self, node_id: str) -> int:
        """Of a server as last started."""
        pids = {entry.id: entry.pid for entry in self.document.listeners}
        pid = pids[node_id]
        assert pid is not None, f"{node_id} was never started"
        return pid

    @property
    def status(self) -> dict[str, Any]:
        """What `penncloud status --json` prints."""
        found: dict[str, Any] = json.loads(self.penncloud("status", "--json").stdout)
        return found

    def state(self, node_id: str) -> str:
        """That of one server, as the coordinators see it."""
        states = {node["id"]: node["state"] for node in self.status["nodes"]}
        return str(states.get(node_id, "unknown"))

    # -- doing things to it ----------------------------------------------------------------------

    def penncloud(
        self, *arguments: str, stdin: bytes = b"", expect: int | None = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """`penncloud GROUP ACTION ... --data DIR`; an exit code other than `expect` is an error."""
        patience = [f"--timeout={PATIENCE_S // 3}"] if arguments[0] in _THAT_TRY else []
        return self.command([*arguments, f"--data={self.layout.root}", *patience], stdin, expect)

    def command(
        self,
        arguments: Sequence[str],
        stdin: bytes = b"",
        expect: int | None = 0,
        timeout_s: float = 180,
        inside: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        """`penncloud ARGUMENTS`; `inside` is a command that becomes the one that follows it."""
        done = subprocess.run(
            [*inside, sys.executable, "-m", "penncloud.cli", *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=program_environment(),
            check=False,
        )
        if expect is not None and done.returncode != expect:
            output = (done.stdout + done.stderr).decode("utf-8", "replace")
            raise CommandFailed(f"penncloud {' '.join(arguments)}: {done.returncode}\n{output}")
        return done

    def kill(self, node_id: str) -> None:
        """SIGKILL to one server (its agent starts it again)."""
        os.kill(self.pid(node_id), signal.SIGKILL)

    def kill_everything(self) -> None:
        """SIGKILL to the agent and every server at once; returns when all have ended."""
        if not self.layout.cluster_file.exists():
            return
        agent = self.document.agent.pid
        pids = [pid for pid in (agent,) if pid is not None and self._is_agent(pid)]
        deadline = time.monotonic() + PATIENCE_S
        while pids := [*pids, *leftovers.find(self.layout)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"these processes do not end: {pids}"
            pids = [pid for pid in pids[:1] if pid == agent and self._is_agent(pid)]
            time.sleep(0.02)

    def _is_agent(self, pid: int) -> bool:
        """Whether `pid` is our agent still, not somebody else who got its number."""
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"--data={self.layout.root}".encode() in arguments
