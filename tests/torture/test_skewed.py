"""A wall clock that a file sets."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from penncloud.torture.skewed import set_clock, skewed


class SkewedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = Path(self.mktemp())
        self.moment_s = 0.0
        self.now = skewed(self.file, lambda: 1000.0, lambda: self.moment_s)

    def _later(self) -> float:
        self.moment_s += 1.0
        return self.now()

    def test_jumps_and_comes_back(self) -> None:
        """The clock follows the file, forwards and backwards."""
        shown = []
        for ahead_s in (0, 3600, -300, 0):
            set_clock(self.file, ahead_s)
            shown.append(self._later())
        self.assertEqual(shown, [1000.0, 4600.0, 700.0, 1000.0])

    def test_nothing_new_is_no_jump(self) -> None:
        """A file that is not there, or says nothing, leaves the clock as it was."""
        self.assertEqual(self._later(), 1000.0)
        set_clock(self.file, 5)
        self.assertEqual(self._later(), 1005.0)
        self.file.write_text("")
        self.assertEqual(self._later(), 1005.0)
