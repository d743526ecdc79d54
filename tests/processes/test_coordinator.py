"""The coordinator as a process of its own, started as systemd would."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from penncloud.wire.messages import Map, Tablets
from penncloud.wire.replies import ReplyDecoder
from penncloud.wire.requests import encode_request
from tests.processes.cluster import ROOT, free_block, program_environment
from tests.waiting import PATIENCE_S


class CoordinatorProcessTests(TestCase):
    def setUp(self) -> None:
        self.port = free_block(1)
        self.directory = Path(self.mktemp()).absolute()

    def _start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        command += ["-n", "--pidfile=", "penncloud-coordinator", "--id=coordinator-1"]
        command += [f"--cluster-coordinators=127.0.0.1:{self.port}", f"--data-dir={self.directory}"]
        process = subprocess.Popen(
            [*command, f"--port={self.port}", *options],
            env=program_environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)

    def _serving(self, process: subprocess.Popen[str]) -> str:
        """What it printed until it served."""
        lines = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "serves" in line:
                return "".join(lines)
        raise AssertionError("".join(lines))

    def _map(self) -> Any:
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), 10)) as client:
            client.sendall(encode_request(Map()))
            decoder = ReplyDecoder()
            while not (replies := decoder.feed(client.recv(4096))):
                pass
        return replies[0]

    def test_starts_and_ends(self) -> None:
        """It answers, ends in order on SIGTERM, and a second start is the next term, also after
        SIGKILL."""
        first = self._start()
        self.assertIn("term 1", self._serving(first))
        self.assertEqual(self._map(), Tablets(0, ()))
        first.send_signal(signal.SIGTERM)
        output, _ = first.communicate(timeout=PATIENCE_S)
        self.assertIn("Server Shut Down", output)
        # twistd ends by the signal that it was sent, once it has finished.
        self.assertEqual(first.returncode, -signal.SIGTERM)
        second = self._start()
        self.assertIn("term 2", self._serving(second))
        second.kill()
        second.communicate(timeout=PATIENCE_S)
        self.assertIn("term 3", self._serving(self._start()))

    def test_used_already(self) -> None:
        """A second process on the same directory, or on the same port, ends with one clear line."""
        self._serving(self._start())
        output, _ = self._start().communicate(timeout=PATIENCE_S)
        self.assertIn(f"data directory {self.directory}: in use by another process", output)
        other = self._start(f"--data-dir={Path(self.mktemp()).absolute()}")
        output, _ = other.communicate(timeout=PATIENCE_S)
        self.assertIn(f"cannot listen on 127.0.0.1:{self.port}: Address already in use", output)
        self.assertNotIn("Traceback", output)
        self.assertEqual(other.returncode, 1)
