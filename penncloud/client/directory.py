"""The directory: what the coordinators know of the cluster's servers, and what an admin may change.

`coordinator_link.py` has the real one; `MemoryDirectory` here is its fake for tests of those above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from attrs import define, field

from penncloud.client.table import Watching
from penncloud.coordinator.messages import (
    ClusterView,
    CoordinatorInfo,
    NodeInfo,
    NodeState,
    TabletInfo,
)
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.registration import Worker

__all__ = [
    "ClusterView",
    "CoordinatorInfo",
    "Directory",
    "MemoryDirectory",
    "NoSuchNode",
    "NodeInfo",
    "NodeState",
    "TabletInfo",
    "Worker",
]


class NoSuchNode(PennCloudError):
    """The directory knows no server of this id."""


class Directory(Protocol):
    """Every method raises `client.table.Unavailable` when no coordinator answers in time."""

    async def view(self) -> ClusterView: ...

    async def set_enabled(self, node_id: str, enabled: bool) -> None:
        """Let an http server be given new clients or not; kept over restarts of everything."""
        ...

    def subscribe(self, callback: Callable[[Sequence[NodeInfo]], None]) -> Watching:
        """Call back with all nodes now (once known) and at every change of one's state."""
        ...


@define
class MemoryDirectory:
    """A directory that a test fills: `directory.set(nodes...)`."""

    current: ClusterView = field(factory=lambda: ClusterView([], [], []))
    _callbacks: list[Callable[[Sequence[NodeInfo]], None]] = field(factory=list)

    def set(self, *nodes: NodeInfo) -> None:
        self.current = msgspec.structs.replace(self.current, nodes=list(nodes))
        for callback in list(self._callbacks):
            callback(nodes)

    async def view(self) -> ClusterView:
        return self.current

    async def set_enabled(self, node_id: str, enabled: bool) -> None:
        if all(node.id != node_id for node in self.current.nodes):
            raise NoSuchNode(f"there is no server {node_id}")
        change: dict[str, Any] = {"enabled": enabled}
        self.set(
            *(
                msgspec.structs.replace(node, **change) if node.id == node_id else node
                for node in self.current.nodes
            )
        )

    def subscribe(self, callback: Callable[[Sequence[NodeInfo]], None]) -> Watching:
        self._callbacks.append(callback)
        callback(self.current.nodes)
        callbacks = self._callbacks

        class _Subscription:
            def stop(self) -> None:
                if callback in callbacks:
                    callbacks.remove(callback)

        return _Subscription()
