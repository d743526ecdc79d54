"""Running one command on what the coordinators know."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from penncloud.cli._reactor import run_command
from penncloud.cli._target import cluster_of, credentials_of
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.platform.environment import Environment

DirectoryCommand = Callable[[CoordinatorDirectory, Environment], Awaitable[int]]


def with_directory(arguments: argparse.Namespace, command: DirectoryCommand) -> int:
    """Connect to the coordinators that the arguments name, run, disconnect; the exit code."""
    cluster = cluster_of(arguments)

    async def run(environment: Environment) -> int:
        directory = CoordinatorDirectory(environment, cluster, deadline_s=arguments.timeout)
        directory.start()
        try:
            return await command(directory, environment)
        finally:
            await directory.stop()

    return run_command(run, credentials_of(arguments))
