"""The fake of the agents: notes what it is asked to do to which server."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred

from penncloud.platform.errors import PennCloudError


@define
class RecordingControl:
    """Agents that note what they are asked; `problem` is raised instead where set."""

    asked: list[tuple[str, str]] = field(factory=list)
    problem: PennCloudError | None = None
    until: Deferred[None] | None = None

    async def _ask(self, action: str, node_id: str) -> None:
        self.asked.append((action, node_id))
        if self.until is not None:
            await self.until
        if self.problem is not None:
            raise self.problem

    async def start(self, node_id: str) -> None:
        await self._ask("start", node_id)

    async def stop(self, node_id: str) -> None:
        await self._ask("stop", node_id)

    async def restart(self, node_id: str) -> None:
        await self._ask("restart", node_id)
