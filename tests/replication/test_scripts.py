"""The golden scripts: what is told in `scripts/` is what happens.

`python -m tests.replication.test_scripts` writes what happens into the files; read the difference before
it is kept.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.replication.theatre import Theatre

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


class ScriptTests(SynchronousTestCase):
    """Every file in `scripts/`."""

    maxDiff = None

    def test_scripts(self) -> None:
        """Playing a script gives the script."""
        self.assertGreater(len(SCRIPTS), 3)
        for path in SCRIPTS:
            told = path.read_text("utf-8")
            self.assertEqual(Theatre().play(told), told, path.name)


if __name__ == "__main__":
    for script in SCRIPTS:
        script.write_text(Theatre().play(script.read_text("utf-8")), "utf-8")
