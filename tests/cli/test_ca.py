"""`penncloud ca`, as it is typed."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli._main import run
from penncloud.platform.tls import Credentials


class CaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()

    def penncloud(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was printed."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = run(["ca", *arguments])
        return code, out.getvalue()

    def test_from_nothing_to_a_new_authority(self) -> None:
        """The commands of an administrator's day, one after the other."""
        where = f"--dir={self.root}"
        self.assertEqual(self.penncloud("init", where)[0], 0)
        issue = ["issue", where, "--role=storage", "--id=storage-1", "--host=10.0.0.5"]
        self.assertEqual(self.penncloud(*issue)[0], 0)
        self.assertEqual(
            self.penncloud("issue", where, "--role=admin", "--id=admin", "--days=3")[0], 0
        )
        code, shown = self.penncloud("show", where)
        self.assertEqual(code, 0)
        self.assertRegex(shown, r"storage +storage-1 +36\d +storage-1 10.0.0.5")
        self.assertRegex(shown, r"admin +admin +[23] ")
        for step in ("begin", "switch", "finish"):
            self.assertEqual(self.penncloud("rotate", where, step)[0], 0)
        code, shown = self.penncloud("show", where)
        self.assertRegex(shown, r"authority +ca-2 +36\d\d +signs")
        self.assertNotIn("ca-1", shown)
        member = Credentials.at(str(self.root / "issued"), "storage-1")
        self.assertEqual(member.name.id, "storage-1")

    def test_refused(self) -> None:
        """What cannot be done is one line and exit code 2."""
        where = f"--dir={self.root}"
        for arguments, text in (
            (("issue", where, "--role=http", "--id=x"), "no authority"),
            (("show", where), "no authority"),
            (("issue", where, "--role=king", "--id=x"), "king"),
            (("rotate", where), "which step"),
        ):
            code, said = self.penncloud(*arguments)
            self.assertEqual(code, 2, said)
            self.assertIn(text, said)
        self.assertFalse((self.root / "issued").exists())
