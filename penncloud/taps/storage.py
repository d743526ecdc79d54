"""`twistd penncloud-storage`."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry
from twisted.application.service import IService

from penncloud.platform.config import Storage
from penncloud.platform.environment import Environment
from penncloud.taps._data_directory import OnDataDirectory
from penncloud.taps._options import RoleOptions, role_options
from penncloud.taps._service import Node, RoleService

Options = role_options("storage", "[options]")


def makeService(options: RoleOptions) -> IService:
    cluster, role = options.cluster, cast(Storage, options.role)

    def build(environment: Environment, registry: CollectorRegistry) -> Node:
        from penncloud.lsm.merge_process import ProcessMerger
        from penncloud.storage.node import StorageNode

        merger = ProcessMerger(environment.reactor, role.data_dir)
        return OnDataDirectory(
            environment.reactor,
            role.data_dir,
            lambda disk: StorageNode(environment, cluster, role, registry, disk, merger=merger),
        )

    return RoleService(cluster, role, build, options.read)
