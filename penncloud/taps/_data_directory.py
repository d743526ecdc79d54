"""A role that keeps data: its node together with its data directory, which no other process may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from penncloud.platform.config import Role
from penncloud.platform.disk import Disk
from penncloud.taps._service import Node, stop_with_error


class OnDataDirectory:
    """The node that `build` makes on the disk of `data_dir`, locked while the process lives.

    When the disk fails the process ends with exit code 1. Raises ConfigurationError for a directory
    that cannot be used.
    """

    log = Logger()

    def __init__(self, reactor: Any, data_dir: str, build: Callable[[Disk], Node]) -> None:
        from penncloud.platform.lockfile import DirectoryLock
        from penncloud.platform.real_disk import RealDisk

        self._reactor = reactor
        self._lock = DirectoryLock(data_dir)
        disk = RealDisk(data_dir, reactor)
        disk.on_failure(self._failed)
        self._node = build(disk)

    async def start(self) -> None:
        await self._node.start()

    async def stop(self) -> None:
        await self._node.stop()
        self._lock.release()

    def trouble(self) -> str:
        return self._node.trouble()

    def reload(self, role: Role) -> frozenset[str]:
        return self._node.reload(role)

    def _failed(self, error: BaseException) -> None:
        self.log.error("the disk has failed, so this process ends: {error}", error=str(error))
        stop_with_error(self._reactor)
