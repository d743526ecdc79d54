"""A role runs on the prompt reactor, unless it is told otherwise."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster.spawn import child_environment

# What twistd does before it starts a role; this process has a reactor already.
_PROGRAM = """
import sys
from twisted.scripts._twistd_unix import ServerOptions
ServerOptions().parseOptions(sys.argv[1:])
from twisted.internet import reactor
print(type(reactor).__name__)
"""
_ROLE = ["penncloud-lb", "--id", "lb-1", "--cluster-coordinators", "127.0.0.1:8600"]


class ReactorTests(SynchronousTestCase):
    def reactor_of(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments],
            env=child_environment({}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return ended.stdout.strip()

    def test_prompt(self) -> None:
        """Nothing has to be said."""
        self.assertEqual(self.reactor_of(*_ROLE), "PromptReactor")

    def test_twisteds_own(self) -> None:
        """`reactor = "twisted"` goes back to what Twisted takes by itself."""
        chosen = self.reactor_of(*_ROLE, "--cluster-reactor", "twisted")
        self.assertEqual(chosen, "EPollReactor")

    def test_named(self) -> None:
        """What twistd is told wins."""
        self.assertEqual(self.reactor_of("--reactor", "poll", *_ROLE), "PollReactor")

    def test_by_its_name(self) -> None:
        """The plugin makes it known to everything that takes `--reactor`."""
        named = self.reactor_of("--reactor", "prompt", *_ROLE, "--cluster-reactor", "twisted")
        self.assertEqual(named, "PromptReactor")
