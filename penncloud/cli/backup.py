"""`penncloud backup` and `penncloud restore`: the whole cloud, as it was at one moment, in a directory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE
from penncloud.cli._reactor import run_command
from penncloud.cli._target import add_target, agents_of, cluster_of, credentials_of
from penncloud.client.agents import AgentControl
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import Directory
from penncloud.client.router import RoutedTable
from penncloud.client.snapshot import ClusterSnapshot, SnapshotLost
from penncloud.platform.config import Cluster
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.rpc.errors import RpcError
from penncloud.services.backups import (
    Manifest,
    Repository,
    Target,
    cluster_id,
    restore,
    save,
    verify_files,
)

# A server that is restarted takes its part of a snapshot with it; then the backup begins anew.
_ATTEMPTS: Final = 3
_WRITERS: Final = ("http", "smtp")


def add_to(commands: Any) -> None:
    text = (
        "Saves everything that the cloud holds, as it was at one moment, into DIR, while it goes on"
        " working. A further backup into the same DIR takes up only what is new."
    )
    parser = commands.add_parser(
        "backup", help="save everything into a directory", description=text
    )
    add_target(parser)
    parser.add_argument("directory", metavar="DIR")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show the backups in DIR")
    what.add_argument("--verify", metavar="NAME", help="read a backup and check it ('all': each)")
    what.add_argument("--remove", metavar="NAME", help="remove a backup from DIR")
    parser.set_defaults(run=run_backup)

    text = (
        "Lets a cluster, of whatever size, hold exactly what a backup holds, and checks that it does."
        " Nothing else may write meanwhile: the frontends and mail servers have to be stopped."
    )
    parser = commands.add_parser("restore", help="make a cluster hold a backup", description=text)
    add_target(parser)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--name", metavar="NAME", help="which backup (default: the latest)")
    parser.add_argument(
        "--replace", action="store_true", help="remove what the cluster holds; it is gone then"
    )
    parser.add_argument(
        "--stop-frontends",
        action="store_true",
        help="stop http and smtp servers first, and start them afterwards",
    )
    parser.set_defaults(run=run_restore)


def _say(line: str) -> None:
    print(line, flush=True)


def run_backup(arguments: argparse.Namespace) -> int:
    repository = Repository(Path(arguments.directory))
    if arguments.list or arguments.verify:
        repository.check()
        return _list(repository) if arguments.list else _verify(repository, arguments.verify)
    if arguments.remove:
        repository.check()
        repository.open_to_write()
        try:
            repository.remove(arguments.remove)
        finally:
            repository.close()
        return DONE
    cluster = cluster_of(arguments)

    async def run(environment: Environment) -> int:
        repository.open_to_write()
        table = RoutedTable(environment, cluster)
        table.start()
        try:
            _say(_told(await _backup(environment, cluster, table, repository)))
        except OSError as error:
            raise ConfigurationError(f"{repository.root}: {error.strerror}") from error
        finally:
            table.stop()
            repository.close()
        return DONE

    return run_command(run, credentials_of(arguments))


async def _backup(
    environment: Environment, cluster: Cluster, table: RoutedTable, repository: Repository
) -> Manifest:
    name = await cluster_id(table, environment)
    for attempt in range(_ATTEMPTS):
        snapshot = ClusterSnapshot(environment, cluster)
        try:
            await snapshot.take(table)
            return await save(snapshot, repository, environment, name, _say)
        except SnapshotLost as error:
            if attempt == _ATTEMPTS - 1:
                raise
            _say(f"begins anew: {error}")
        finally:
            await snapshot.close()
    raise AssertionError("unreachable")


def _told(made: Manifest) -> str:
    return (
        f"{made.name}: {made.cells:,} cells with {made.bytes:,} bytes,"
        f" of which {made.new_bytes:,} bytes were written"
    )


def _list(repository: Repository) -> int:
    rows = []
    for name in repository.names():
        found = repository.manifest(name)
        at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        rows.append((name, at, found.cells, found.bytes, found.new_bytes))
    print(columns(("NAME", "AT", "CELLS", "BYTES", "WRITTEN"), rows))
    return DONE


def _verify(repository: Repository, wanted: str) -> int:
    names = repository.names() if wanted == "all" else [wanted]
    for name in names:
        found = verify_files(repository, repository.manifest(name))
        _say(f"{name}: {found.cells:,} cells with {found.bytes:,} bytes are as they were written")
    return DONE


# -- restore -----------------------------------------------------------------------------------------


def run_restore(arguments: argparse.Namespace) -> int:
    repository = Repository(Path(arguments.directory))
    repository.check()
    manifest = repository.manifest(arguments.name) if arguments.name else repository.latest()
    cluster = cluster_of(arguments)

    async def run(environment: Environment) -> int:
        directory = CoordinatorDirectory(environment, cluster, deadline_s=arguments.timeout)
        directory.start()
        control = AgentControl(environment, cluster, directory, agents_of(arguments))
        try:
            writers = await _running_writers(directory, control)
            if writers and not arguments.stop_frontends:
                raise ConfigurationError(
                    f"{', '.join(writers)} may write meanwhile: stop them (penncloud node stop ID),"
                    " or let --stop-frontends do it"
                )
            for node_id in writers:
                _say(f"stops {node_id}")
                await control.stop(node_id)
            try:
                await _restore(environment, cluster, repository, manifest, arguments.replace)
            finally:
                for node_id in writers:
                    _say(f"starts {node_id}")
                    await control.start(node_id)
        finally:
            await directory.stop()
        return DONE

    return run_command(run, credentials_of(arguments))


async def _running_writers(directory: Directory, control: AgentControl) -> Sequence[str]:
    """The servers that write for people: those that live, and those that an agent is about to start."""
    view = await directory.view()
    found = {
        node.id
        for node in view.nodes
        if node.role in _WRITERS and node.state in ("live", "suspected")
    }
    for agent in {node.agent for node in view.nodes if node.agent}:
        try:
            servers = await control.servers(agent)
        except RpcError:
            continue  # Its host is down, and so is what it runs.
        found |= {each.id for each in servers if each.role in _WRITERS and each.state != "down"}
    return sorted(found)


async def _restore(
    environment: Environment,
    cluster: Cluster,
    repository: Repository,
    manifest: Manifest,
    replace: bool,
) -> None:
    table = RoutedTable(environment, cluster)
    table.start()

    async def take() -> ClusterSnapshot:
        snapshot = ClusterSnapshot(environment, cluster)
        await snapshot.take(table)
        return snapshot

    try:
        target = Target(table, table.tablet_map, take, _say)
        await restore(repository, manifest, target, replace=replace)
    finally:
        table.stop()
    _say(f"the cluster holds what {manifest.name} holds")
