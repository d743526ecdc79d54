"""`penncloud simulate` from the outside: what it prints for a failure plays that failure again."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]


def simulate(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "penncloud.cli", "simulate", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


class CommandTests(SynchronousTestCase):
    """A planted failure."""

    def test_replay(self) -> None:
        """The printed command plays a shorter form of the run, with its trace and the violation."""
        rule = "vote-without-log-check"
        arguments = [
            "--scenario",
            "raft",
            "--from",
            "2",
            "--seeds",
            "1",
            "--jobs",
            "1",
            "--break",
            rule,
        ]
        found = simulate(arguments)
        self.assertEqual(found.returncode, 1, found.stderr)
        printed = re.search(r"^ +penncloud simulate (.*--trace)$", found.stdout, re.MULTILINE)
        assert printed is not None, found.stdout
        again = simulate(shlex.split(printed[1]))
        self.assertEqual(again.returncode, 1, again.stderr)
        self.assertIn("VIOLATED", again.stdout)
        self.assertIn("crashes", again.stdout)
        until = re.search(r"--until ([0-9.]+)", printed[1])
        assert until is not None
        self.assertLess(float(until[1]), 30.0)
