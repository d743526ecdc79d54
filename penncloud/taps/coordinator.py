"""`twistd penncloud-coordinator`."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry
from twisted.application.service import IService
from twisted.logger import Logger

from penncloud.platform.config import Cluster, Coordinator
from penncloud.platform.environment import Environment
from penncloud.taps._options import RoleOptions, role_options
from penncloud.taps._service import Node, RoleService, stop_with_error

Options = role_options("coordinator", "[options]")


class _OnItsDirectory:
    """The coordinator's node together with its data directory, which no other process may use."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        cluster: Cluster,
        role: Coordinator,
        registry: CollectorRegistry,
    ) -> None:
        from penncloud.coordinator.node import CoordinatorNode
        from penncloud.platform.lockfile import DirectoryLock
        from penncloud.platform.real_disk import RealDisk

        self._reactor = environment.reactor
        self._lock = DirectoryLock(role.data_dir)
        disk = RealDisk(role.data_dir, environment.reactor)
        disk.on_failure(self._failed)
        self._node = CoordinatorNode(environment, cluster, role, registry, disk)

    async def start(self) -> None:
        await self._node.start()

    async def stop(self) -> None:
        await self._node.stop()
        self._lock.release()

    def _failed(self, error: BaseException) -> None:
        self.log.error("the disk has failed, so this process ends: {error}", error=str(error))
        stop_with_error(self._reactor)


def makeService(options: RoleOptions) -> IService:
    cluster, role = options.cluster, cast(Coordinator, options.role)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        return _OnItsDirectory(environment, cluster, role, registry)

    return RoleService(cluster, role, build)
