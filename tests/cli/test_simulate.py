"""`penncloud simulate` finds, shortens and shows failures."""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli._main import run
from tests.processes.cluster import program_environment


def simulate(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["simulate", *arguments])
    return code, out.getvalue(), err.getvalue()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


class SimulateTests(SynchronousTestCase):
    """The command, in processes of its own as it runs them."""

    def test_clean(self) -> None:
        """Without a violation the exit code is 0, and there is a summary."""
        code, out, _ = simulate("--scenario", "calm", "--seeds", "2", "--jobs", "1")
        self.assertEqual(code, 0)
        self.assertIn("2 runs, 0 failed", out)

    def test_failing(self) -> None:
        """A failing seed is named with its violation and the command that plays it."""
        code, out, _ = simulate(
            *("--scenario", "storage", "--from", "4", "--seeds", "1", "--jobs", "1"),
            *("--break", "answer-when-durable"),
        )
        self.assertEqual(code, 1)
        self.assertIn("FAILED scenario storage, seed 4", out)
        self.assertIn("penncloud simulate --scenario storage --from 4 --faults", out)
        self.assertIn("--break answer-when-durable --trace", out)

    def test_killed(self) -> None:
        """Whoever kills the command is rid of its workers, too."""
        command = [sys.executable, "-um", "penncloud.cli", "simulate", "--minutes=5", "--jobs=1"]
        # It tells of a failure, and then looks for a shorter one.
        failing = ["--scenario=storage", "--from=4", "--break=answer-when-durable"]
        with subprocess.Popen(
            [*command, *failing], stdout=subprocess.PIPE, env=program_environment()
        ) as running:
            assert running.stdout is not None
            self.assertIn(b"FAILED", running.stdout.readline())
            workers = [os.pidfd_open(pid) for pid in children(running.pid)]
            running.kill()
        self.assertNotEqual(workers, [])
        for worker in workers:
            self.addCleanup(os.close, worker)
            ended, _, _ = select.select([worker], [], [], 60)
            self.assertEqual(ended, [worker])

    def test_usage(self) -> None:
        """Numbers and names that make no sense are refused."""
        for arguments in (("--seeds", "0"), ("--minutes", "-1"), ("--scenario", "none")):
            code, _, err = simulate(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertIn(arguments[0], err)
