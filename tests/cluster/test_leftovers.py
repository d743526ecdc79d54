"""Twin of `penncloud.cluster.leftovers`, with a /proc of our own."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cluster.layout import Layout
from penncloud.cluster.leftovers import find
from penncloud.cluster.spawn import CHILD_MODULE
from penncloud.taps.http import WORKER_MODULE


class FindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = Path(self.mktemp())
        self.proc.mkdir()
        self.layout = Layout.at("/srv/cloud")

    def process(self, pid: int | str, *arguments: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_bytes(
            b"".join(part.encode() + b"\0" for part in arguments)
        )

    def test_only_our_own(self) -> None:
        """Roles of this directory are found; those of others, and what is no role, are not."""
        ours = ("python", "-m", CHILD_MODULE, "1", "log", "penncloud-http", "--config")
        self.process(101, *ours, "/srv/cloud/etc/http-1.toml")
        self.process(102, *ours, "/srv/cloud2/etc/http-1.toml")
        self.process(103, "vi", "/srv/cloud/etc/http-1.toml")
        self.process(104)
        self.process("self", *ours, "/srv/cloud/etc/http-1.toml")
        self.process(os.getpid(), *ours, "/srv/cloud/etc/http-1.toml")
        (self.proc / "105").mkdir()
        self.assertEqual(find(self.layout, self.proc), [101])

    def test_workers(self) -> None:
        """A frontend's workers have its port: they are waited for as well."""
        self.process(
            201, "python", "-m", WORKER_MODULE, "101", "http-1", "1", "/srv/cloud/etc/http-1.toml"
        )
        self.assertEqual(find(self.layout, self.proc), [201])
