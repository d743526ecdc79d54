"""The golden scripts: what is told in `scripts/` is what happens.

`python -m tests.raft.test_scripts` writes what happens into the files; read the difference before it is kept.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.raft.theatre import Theatre

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


class ScriptTests(SynchronousTestCase):
    """Every file in `scripts/`."""

    maxDiff = None

    def test_scripts(self) -> None:
        """Playing a script gives the script."""
        self.assertGreater(len(SCRIPTS), 5)
        for path in SCRIPTS:
            self.assertEqual(
                Theatre().play(path.read_text("utf-8")), path.read_text("utf-8"), path.name
            )

    def test_figure_8(self) -> None:
        """Without the rule of 5.4.2 the script of figure 8 ends differently: an entry is applied
        that another one replaces later."""
        script = next(path for path in SCRIPTS if path.name == "figure8.txt").read_text("utf-8")
        self.assertNotIn("applies 2 old", script)
        with_mutant = Theatre(lambda rule: rule == "commit-old-term-by-count")
        self.assertIn("s1 applies 2 old", with_mutant.play(script))


if __name__ == "__main__":
    for script in SCRIPTS:
        script.write_text(Theatre().play(script.read_text("utf-8")), "utf-8")
