"""Twin of `penncloud.taps._reload`: what an administrator is told about a configuration read again."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import Cluster, Smtp
from penncloud.taps._reload import reloaded

_CLUSTER = Cluster(coordinators=["a:1"])


class ReloadTests(SynchronousTestCase):
    def lines(self, after: Smtp, taken: set[str], cluster: Cluster = _CLUSTER) -> list[str]:
        return reloaded(_CLUSTER, cluster, Smtp(id="smtp-1"), after, taken)

    def test_nothing_new(self) -> None:
        self.assertEqual(self.lines(Smtp(id="smtp-1"), {"expire_hours"}), [])

    def test_taken_up(self) -> None:
        """A key that is in use now is no news."""
        self.assertEqual(self.lines(Smtp(id="smtp-1", expire_hours=1), {"expire_hours"}), [])

    def test_waits(self) -> None:
        """A key that only a restart takes up is named, whatever section it stands in."""
        lines = self.lines(Smtp(id="smtp-1", port=25), set(), Cluster(coordinators=["b:2"]))
        self.assertEqual(len(lines), 2)
        self.assertIn("[cluster]: coordinators", lines[0])
        self.assertIn("port", lines[1])
