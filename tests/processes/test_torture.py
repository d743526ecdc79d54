"""`penncloud torture` from the shell: a short run, and one that is interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import TestCase

from penncloud.torture.faults import NEMESES
from tests.processes.cluster import program_environment
from tests.waiting import wait_until

_PATIENCE_S = 240


def _processes_in(directory: Path) -> list[str]:
    """Command lines of processes that have something to do with a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


class TortureTests(TestCase):
    timeout = 2 * _PATIENCE_S

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.picture = Path(self.mktemp()).absolute()

    def _start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "penncloud.cli", "torture", *options]
        process = subprocess.Popen(
            [*command, f"--data={self.directory}", f"--report={self.picture}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=program_environment(),
        )

        def end() -> None:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

        self.addCleanup(end)
        return process

    def _assert_nothing_remains(self, pid: int) -> None:
        wait_until(
            lambda: not _processes_in(self.directory),
            lambda: f"these are left: {_processes_in(self.directory)}",
            20,
        )
        self.assertNotIn(str(self.directory), Path("/proc/mounts").read_text())
        namespaces = Path("/run/netns")
        names = [path.name for path in namespaces.iterdir()] if namespaces.exists() else []
        self.assertEqual([name for name in names if f"-{pid}-" in name], [])

    def test_short_run(self) -> None:
        """A quarter of a minute of faults: what was promised is kept, and nothing stays behind."""
        process = self._start("--minutes=0.25", "--seed=2")
        output, _ = process.communicate(timeout=_PATIENCE_S)
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("verdict: everything that was promised was kept", output)
        self.assertNotIn(" ok (0 of them during faults", output)
        texts = {element.text for element in ElementTree.parse(self.picture).iter()}
        self.assertTrue(texts & set(NEMESES))
        self._assert_nothing_remains(process.pid)

    def test_interrupted(self) -> None:
        """Ctrl-C ends the run soon, says that it was not judged, and nothing stays behind."""
        process = self._start("--minutes=5", "--seed=1")
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("the cluster serves"):
                break
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=_PATIENCE_S)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("interrupted", output)
        self._assert_nothing_remains(process.pid)
