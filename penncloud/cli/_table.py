"""Running one command on the store of a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

from penncloud.cli._reactor import run_command
from penncloud.cli._target import cluster_of, credentials_of
from penncloud.client.router import RoutedTable
from penncloud.client.table import Table
from penncloud.platform.environment import Environment

TableCommand = Callable[[Table, Environment], Awaitable[int]]


def with_table(arguments: argparse.Namespace, command: TableCommand) -> int:
    """Connect to the cluster that the arguments name, run, disconnect; the command's exit code."""
    cluster = cluster_of(arguments)

    async def run(environment: Environment) -> int:
        table = RoutedTable(environment, cluster)
        table.start()
        try:
            return await command(table, environment)
        finally:
            table.stop()

    return run_command(run, credentials_of(arguments))
