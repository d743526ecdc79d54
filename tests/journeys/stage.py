"""The cluster that the journeys of one test process share, and the browser that visits it.

Both are started by the first journey and ended with the test run: a cluster takes seconds to come up,
and the journeys do not disturb each other, as each has visitors of its own names.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.journeys.browser import Chromium
from tests.processes.cluster import RunningCluster


class VisitedCluster(RunningCluster):
    """A cluster with the addresses that visitors use."""

    def frontend_url(self, number: int) -> str:
        """http-`number`, without the balancer in between; no slash at the end."""
        return f"http://localhost:{self.document.http[number - 1].port}"

    @property
    def smtp_port(self) -> int:
        return self.document.smtp[0].port

    @property
    def status(self) -> dict[str, Any]:
        """What `penncloud status --json` says."""
        document: dict[str, Any] = json.loads(self.penncloud("status", "--json").stdout)
        return document

    def state(self, node_id: str) -> str:
        """The state of one server."""
        states = {node["id"]: node["state"] for node in self.status["nodes"]}
        return str(states.get(node_id, "unknown"))


class Stage:
    """The shared cluster and browser."""

    def __init__(self, chromium: str) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="penncloud-journeys-"))
        self.cluster = VisitedCluster(str(self._root / "data"))
        atexit.register(self.close)
        self.cluster.start()
        self.browser = Chromium(chromium)

    def close(self) -> None:
        """End the cluster; the browser ends with this process's pipes."""
        self.cluster.destroy()
        shutil.rmtree(self._root, ignore_errors=True)


_stages: list[Stage] = []


def shared_stage(chromium: str) -> Stage:
    """The stage of this test process, set up at the first call."""
    if not _stages:
        _stages.append(Stage(chromium))
    return _stages[0]
