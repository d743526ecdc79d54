"""What a hypervisor takes away is known."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.torture.stolen import Stolen

_BEFORE = "cpu  100 10 50 1000 5 0 1 200 7 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"


class StolenTests(SynchronousTestCase):
    def _share(self, before: str, after: str) -> float:
        texts = iter((before, after))
        return Stolen(lambda: next(texts)).share

    def test_share(self) -> None:
        """Of all that passed since; idle time is there, a guest's is part of the user's."""
        after = "cpu  110 10 60 1030 5 0 1 350 17 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
        self.assertEqual(self._share(_BEFORE, after), 150 / 200)

    def test_nothing(self) -> None:
        """Nothing is stolen while no time passes, or where nobody counts it."""
        for text in (_BEFORE, "", "cpu  1 2 3 4\n"):
            self.assertEqual(self._share(text, text), 0.0)

    def test_this_machine(self) -> None:
        """The kernel's own figures are a share."""
        self.assertTrue(0.0 <= Stolen().share <= 1.0)

    def test_elsewhere(self) -> None:
        """A system without /proc/stat steals nothing."""

        def read() -> str:
            raise FileNotFoundError

        self.assertEqual(Stolen(read).share, 0.0)
