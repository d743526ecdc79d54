"""The benchmark of the write path counts the same in every run."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.write_path import Cost, measure


class WritePathTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """One client's write is three appends; with more of them writes share appends."""

        def counted(clients: int) -> Cost:
            return measure(clients, 0.1)

        alone, several = counted(1), counted(16)
        self.assertLess(abs(alone.disk_operations - 3), 0.3)
        self.assertLess(several.disk_operations, alone.disk_operations / 2)
        again = counted(16)
        self.assertEqual((again.writes, again.turns), (several.writes, several.turns))
