"""Seed 001's demonstration: three copies, two, one, and three again, with people at work throughout.

Something is written; the primary is stopped and a password changed; the next primary is stopped and a chat
message posted; both are started again, and in the end all three hold the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm import tool
from penncloud.placement.tablets import row_hash
from penncloud.platform.real_disk import RealDisk
from tests.journeys.stage import VisitedCluster
from tests.processes.member import Member
from tests.waiting import PATIENCE_S

_OLD: Final = "correct horse battery"
_NEW: Final = "staple and a new horse"
_SERVERS: Final = ("storage-1", "storage-2", "storage-3")


class FailoverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="penncloud-failover-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.cluster = VisitedCluster(str(self.root / "data"))
        self.addCleanup(self.cluster.destroy)
        self.cluster.start()

    # -- what there is ---------------------------------------------------------------------------

    def _tablet(self, row: bytes) -> dict[str, Any]:
        place = row_hash(row)
        tablets = self.cluster.status["tablets"]
        [found] = [t for t in tablets if t["range"][0] <= place < t["range"][1]]
        tablet: dict[str, Any] = found
        return tablet

    def _primary(self, row: bytes) -> str:
        return str(self._tablet(row)["primary"])

    def _states(self) -> set[tuple[str, int]]:
        return {(t["state"], len(t["members"])) for t in self.cluster.status["tablets"]}

    def _is_whole(self) -> bool:
        tablets = self.cluster.status["tablets"]
        behind = [lag for t in tablets for lag in t["lag"].values() if lag]
        return self._states() == {("ok", 3)} and not behind

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > deadline:
                tablets = self.cluster.status["tablets"]
                self.fail(f"{what}: not within {PATIENCE_S:g} s: {tablets}")
            time.sleep(0.2)

    # -- the demonstration -----------------------------------------------------------------------

    def test_three_two_one_three(self) -> None:
        """Everything works with three servers, two and one; afterwards all have the same bytes."""
        anna = Member(self.cluster.frontend_url(1), "anna")
        anna.sign_up(_OLD)
        anna.upload("letter", b"written with three" * 5000)
        anna.say("with three", "message-three")
        self._wait_until(self._is_whole, "three copies")

        account, board = b"user/anna", b"chat/main"
        first = self._primary(account)
        self.cluster.penncloud("node", "stop", first)
        anna.change_password(_OLD, _NEW)

        self._wait_until(lambda: self._primary(board) not in ("", first), "a next primary")
        second = self._primary(board)
        self.assertNotEqual(second, first)
        self.cluster.penncloud("node", "stop", second)
        anna.say("with one", "message-one")
        [last] = {*_SERVERS} - {first, second}
        self._wait_until(lambda: self._states() == {("degraded", 1)}, "one copy, shown as such")
        self.assertEqual(self._tablet(board)["primary"], last)

        guest = Member(self.cluster.frontend_url(2), "anna")
        guest.log_in(_NEW)
        self.assertEqual(guest.board(), ["with three", "with one"])
        self.assertEqual(guest.download("letter"), b"written with three" * 5000)

        for server in (first, second):
            self.cluster.penncloud("node", "start", server)
        self._wait_until(self._is_whole, "three copies again")
        guest.say("with three again", "message-again")
        self._wait_until(self._is_whole, "the last message everywhere")
        self.cluster.stop()
        self._assert_same_bytes()

    def _assert_same_bytes(self) -> None:
        contents = {}
        for server in _SERVERS:
            disk = RealDisk(str(self.cluster.layout.data(server)), None)
            cells = [
                (tablet, cell.row, cell.col, cell.version, bytes(cell.value))
                for tablet, cell in tool.dump(disk)
            ]
            self.assertTrue(any(b"with one" in value for *_, value in cells))
            contents[server] = sorted(cells)
        self.assertEqual(contents["storage-1"], contents["storage-2"])
        self.assertEqual(contents["storage-1"], contents["storage-3"])
