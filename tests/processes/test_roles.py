"""Each role alone in the foreground: what is wrong is one clear line, and any starting order works."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.lockfile import DirectoryLock
from tests.certificates import TestAuthority
from tests.processes.cluster import RunningCluster, free_block
from tests.processes.roles import ROLES, outcome, start, write_configuration
from tests.waiting import PATIENCE_S

CLUSTER = {"coordinators": ["127.0.0.1:1"]}
WITH_DATA = ("coordinator", "storage")


class WrongConfigurationTests(SynchronousTestCase):
    """All roles at once in each test, as a process takes its time to start."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def keys(self, role: str, **more: Any) -> dict[str, Any]:
        keys: dict[str, Any] = {"id": f"{role}-1", "port": free_block(1), **more}
        if role in WITH_DATA:
            keys.setdefault("data_dir", str(self.directory / f"{role}-data"))
        return keys

    def run_all(
        self, roles: tuple[str, ...] = ROLES, cluster: dict[str, Any] = CLUSTER, **more: Any
    ) -> dict[str, str]:
        """The one line on stderr with which each role has ended."""
        processes = {}
        for role in roles:
            path = self.directory / f"{role}.toml"
            write_configuration(path, role, self.keys(role, **more), cluster)
            processes[role] = start(role, ["--config", str(path)], self.directory)
        return {role: self.one_line(role, process) for role, process in processes.items()}

    def one_line(self, role: str, process: subprocess.Popen[bytes]) -> str:
        code, lines = outcome(process)
        self.assertEqual((code, len(lines)), (1, 1), f"{role}: {code}: {lines}")
        self.assertIn(role, lines[0])
        return lines[0]

    def test_unknown_key(self) -> None:
        """A key that no section has is named, with its file and section."""
        for role, line in self.run_all(colour="blue").items():
            self.assertIn(f"{role}.toml: [{role}]", line)
            self.assertIn("colour", line)

    def test_wrong_type(self) -> None:
        """A value of the wrong type is an error about its key."""
        for line in self.run_all(port="eighty").values():
            self.assertIn("port", line)

    def test_no_coordinators(self) -> None:
        """No role guesses where the coordinators are."""
        for line in self.run_all(cluster={}).values():
            self.assertIn("coordinators", line)

    def test_unknown_option(self) -> None:
        """A mistyped option is named, without pages of help."""
        processes = {role: start(role, ["--colour", "x"], self.directory) for role in ROLES}
        for role, process in processes.items():
            self.assertIn("colour", self.one_line(role, process))

    def test_port_taken(self) -> None:
        """A port that another program has is named."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for line in self.run_all(port=port).values():
                self.assertIn(str(port), line)
                self.assertIn("in use", line)

    def test_no_such_address(self) -> None:
        """An address that this machine does not have is named (RFC 5737 keeps it unused)."""
        ca = TestAuthority(str(self.directory))
        for role in ROLES:
            ca.issue(role, f"{role}-1")
        cluster = {**CLUSTER, "tls_dir": str(ca.out)}
        for line in self.run_all(cluster=cluster, host="192.0.2.1").values():
            self.assertIn("192.0.2.1", line)

    def test_certificates(self) -> None:
        """Connections in the clear are for loopback; a missing or wrong certificate is named."""
        for line in self.run_all(host="192.0.2.1").values():
            self.assertIn("tls_dir", line)
        ca = TestAuthority(str(self.directory))
        cluster = {**CLUSTER, "tls_dir": str(ca.out)}
        for role, line in self.run_all(cluster=cluster).items():
            self.assertRegex(line, f"(ca|{role}-1).pem: No such file")
        for role in ROLES:
            ca.issue("monitor", f"{role}-1")
        for role, line in self.run_all(cluster=cluster).items():
            self.assertIn(f"is the certificate of {role}-1 (monitor)", line)

    def test_data_directory_not_writable(self) -> None:
        """A data directory that cannot be made or written is named (a file is in the way)."""
        in_the_way = self.directory / "file"
        in_the_way.write_bytes(b"")
        for line in self.run_all(WITH_DATA, data_dir=str(in_the_way / "data")).values():
            self.assertIn(str(in_the_way / "data"), line)

    def test_data_directory_locked(self) -> None:
        """A data directory in use is refused, with the pid of who uses it."""
        used = self.directory / "used"
        lock = DirectoryLock(str(used))
        self.addCleanup(lock.release)
        for line in self.run_all(WITH_DATA, data_dir=str(used)).values():
            self.assertIn(str(used), line)
            self.assertIn(f"pid {os.getpid()}", line)


class OrderTests(SynchronousTestCase):
    def test_coordinator_last(self) -> None:
        """Everybody is started before the coordinator, by options alone, and finds it later."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        first = free_block(len(ROLES))
        coordinator = f"127.0.0.1:{first}"
        for offset, role in reversed(list(enumerate(ROLES))):
            options = [
                f"--id={role}-1",
                f"--port={first + offset}",
                f"--cluster-coordinators={coordinator}",
            ]
            if role in WITH_DATA:
                options.append(f"--data-dir={directory / role}")
            if role == "coordinator":
                options.append("--expect-storage=1")
            process = start(role, options, directory)
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
        commands = RunningCluster(str(directory))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = commands.command(
                ["status", "--json", "--coordinators", coordinator], expect=None
            )
            if status.returncode == 0:
                document = json.loads(status.stdout)
                live = {node["role"] for node in document["nodes"] if node["state"] == "live"}
                serving = {tablet["state"] for tablet in document["tablets"]} == {"ok"}
                if serving and live >= {"storage", "http", "smtp", "lb"}:
                    break
            self.assertLess(time.monotonic(), deadline, status)
