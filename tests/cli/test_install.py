"""Twin of `penncloud.cli.install`: what it writes, below a directory of the test's own."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli._exits import DONE, USAGE
from penncloud.cli._main import run

CONFIGURATION = """
[cluster]
coordinators = ["10.0.0.1:8600"]

[storage]
id = "storage-1"
data_dir = "/srv/storage"

[lb]
id = "lb-1"
port = 80
"""


class InstallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.config = Path(self.mktemp()).absolute()
        self.config.write_text(CONFIGURATION)
        self.root = Path(self.mktemp()).absolute()

    def install(self, *arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            code = run(
                ["install", "--config", str(self.config), "--bin", "/opt/pc/bin", *arguments]
            )
        return code, out.getvalue()

    def written(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def test_root(self) -> None:
        """The files are where systemd looks for them; a second time there is nothing to do."""
        code, said = self.install("--role", "storage,lb", "--root", str(self.root))
        self.assertEqual(code, DONE)
        self.assertEqual(said.count("wrote"), 4)
        self.assertEqual(
            self.written(),
            {
                "etc/systemd/system/penncloud-storage.service",
                "etc/systemd/system/penncloud-lb.service",
                "etc/systemd/system/penncloud.target",
                "etc/sysusers.d/penncloud.conf",
            },
        )
        unit = (self.root / "etc/systemd/system/penncloud-lb.service").read_text()
        self.assertIn(f"penncloud-lb --config {self.config}\n", unit)
        self.assertIn("ExecStart=/opt/pc/bin/twistd ", unit)
        self.assertIn("AmbientCapabilities=CAP_NET_BIND_SERVICE", unit)
        self.assertEqual(
            self.install("--role", "storage", "--role", "lb", "--root", str(self.root)), (DONE, "")
        )

    def test_dry_run(self) -> None:
        """Everything is shown and nothing written."""
        code, said = self.install("--role", "lb", "--dry-run", "--root", str(self.root))
        self.assertEqual(code, DONE)
        self.assertIn("# /etc/systemd/system/penncloud-lb.service", said)
        self.assertEqual(self.written(), set())

    def test_mistakes(self) -> None:
        """A wrong role or configuration is one line and exit code 2, and nothing is written."""
        for arguments in (["--role", "postfix"], ["--role", "http"]):
            code, said = self.install(*arguments, "--root", str(self.root))
            self.assertEqual((code, said.count("\n")), (USAGE, 1), said)
        self.config.write_text("[lb]\ncolour = 1\n")
        code, said = self.install("--role", "lb", "--root", str(self.root))
        self.assertEqual(code, USAGE)
        self.assertIn("colour", said)
        self.assertEqual(self.written(), set())
