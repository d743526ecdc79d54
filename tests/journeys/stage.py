"""The cluster that the journeys of one test process share, and the browser that visits it.

Both are started by the first journey; the cluster is ended when no journey has used it for a while (other
tests need the processor too), the browser with the test run. Sharing saves the seconds that a cluster
takes to come up; the journeys do not disturb each other, as each has visitors of its own names.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Final

from tests.journeys.browser import Chromium
from tests.processes.cluster import RunningCluster

# Time without a journey after which the cluster is ended, in seconds.
_IDLE_S: Final = 20.0


class VisitedCluster(RunningCluster):
    """A cluster with the addresses that visitors use."""

    def frontend_url(self, number: int) -> str:
        """http-`number`, without the balancer in between; no slash at the end."""
        return f"http://localhost:{self.document.http[number - 1].port}"

    @property
    def smtp_port(self) -> int:
        return self.document.smtp[0].port


class Stage:
    """The shared cluster and browser. Both are there between `enter` and `leave`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._curtain: threading.Timer | None = None
        self._cluster: VisitedCluster | None = None
        self._browser: Chromium | None = None
        atexit.register(self.close)

    @property
    def cluster(self) -> VisitedCluster:
        assert self._cluster is not None
        return self._cluster

    @property
    def browser(self) -> Chromium:
        assert self._browser is not None
        return self._browser

    def enter(self, chromium: str) -> None:
        """A journey begins."""
        if self._curtain is not None:
            self._curtain.cancel()
        with self._lock:
            if self._cluster is None:
                self._root = Path(tempfile.mkdtemp(prefix="penncloud-journeys-"))
                self._cluster = VisitedCluster(str(self._root / "data"))
                self._cluster.start()
        if self._browser is None:
            self._browser = Chromium(chromium)

    def leave(self) -> None:
        """A journey has ended."""
        # Not by the reactor: a pending call of it would be an error of the next test.
        self._curtain = threading.Timer(_IDLE_S, self.close)
        self._curtain.daemon = True
        self._curtain.start()

    def close(self) -> None:
        """End the cluster. The browser belongs to the tests' thread and ends with the process."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.destroy()
                self._cluster = None
            if self._root is not None:
                shutil.rmtree(self._root, ignore_errors=True)
                self._root = None


# One for this test process.
STAGE: Final = Stage()
