"""`penncloud node`: stop, start and restart servers; add, drain and remove storage servers.

Stopping and starting goes through the agents of the hosts. A storage server that is added gets its share
of the tablets by itself; one that is to be removed is drained first, which moves its tablets away while
they go on serving. What the coordinators have begun goes on when this command ends.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.task import deferLater

from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target, agents_of, cluster_of
from penncloud.client.agents import NOT_SUPERVISED, AgentControl
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import ClusterView, Directory, NodeInfo, NoSuchNode
from penncloud.client.table import Refused, Unavailable
from penncloud.platform.config import Cluster
from penncloud.platform.environment import Environment
from penncloud.rpc.errors import Refusal

_ACTIONS: Final = {
    "stop": "stop a server in order; it stays down until it is started",
    "start": "start a server that is down",
    "restart": "stop a server in order and start it; a frontend replaces its workers one by one, which"
    " cuts no request",
}
_POLL_S: Final = 0.5


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "node", help="stop and start servers; add, drain and remove storage servers"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        add_target(found)
        found.set_defaults(run=run, action=name)
        return found

    for name, help_ in _ACTIONS.items():
        action(name, help_).add_argument("id", metavar="ID", help="e.g. storage-2")
    add = action("add", "start one more storage server; tablets move to it by themselves")
    _progress_options(add)
    drain = action("drain", "move all tablets away from a storage server")
    drain.add_argument("id", metavar="ID", help="e.g. storage-2")
    drain.add_argument("--undo", action="store_true", help="let it hold tablets again")
    _progress_options(drain)
    remove = action("remove", "stop a drained storage server and forget it; its data stays on disk")
    remove.add_argument("id", metavar="ID", help="e.g. storage-2")
    remove.add_argument(
        "--accept-data-loss",
        action="store_true",
        help="also while it holds tablets: its copies are given up, and a tablet whose only copy it"
        " has begins anew, empty",
    )


def _progress_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="return when it has begun")
    parser.add_argument(
        "--within", type=float, default=3600.0, metavar="S", help="seconds to wait (default: 3600)"
    )


def run(arguments: argparse.Namespace) -> int:
    async def act(directory: CoordinatorDirectory, environment: Environment) -> int:
        cluster = cluster_of(arguments)
        control = AgentControl(environment, cluster, directory, agents_of(arguments))
        actions: dict[str, Callable[[], Awaitable[None]]] = {
            "stop": lambda: control.stop(arguments.id),
            "start": lambda: control.start(arguments.id),
            "restart": lambda: control.restart(arguments.id),
            "add": lambda: _add(arguments, directory, control, environment, cluster),
            "drain": lambda: _drain(arguments, directory, environment),
            "remove": lambda: _remove(arguments, directory, control, environment),
        }
        await actions[arguments.action]()
        return DONE

    return with_directory(arguments, act)


# -- add ---------------------------------------------------------------------------------------------


async def _add(
    arguments: argparse.Namespace,
    directory: Directory,
    control: AgentControl,
    environment: Environment,
    cluster: Cluster,
) -> None:
    if not agents_of(arguments):
        print(_how_elsewhere(cluster))
        return
    server = await control.add("storage")
    print(f"{server.id} is started (pid {server.pid})", flush=True)

    def joining(view: ClusterView) -> str:
        node = _find(view, server.id)
        if node is None or node.state != "live":
            return "it has not registered yet"
        return ""

    await _follow(environment, directory, joining, arguments.within)
    if not arguments.no_wait:
        await _until_balanced(environment, directory, server.id, arguments.within)


async def _until_balanced(
    environment: Environment, directory: Directory, node_id: str, within_s: float
) -> None:
    def moving(view: ClusterView) -> str:
        if view.balanced:
            return ""
        held = sum(node_id in tablet.members for tablet in view.tablets)
        coming = sum(node_id in tablet.learners for tablet in view.tablets)
        return f"{node_id} holds {held} of {len(view.tablets)} tablets, {coming} are being copied"

    await _follow(environment, directory, moving, within_s)


def _how_elsewhere(cluster: Cluster) -> str:
    addresses = ", ".join(f'"{address}"' for address in cluster.coordinators)
    return f"""To add a storage server on another machine, write a file there, e.g. /etc/penncloud.toml:

  [cluster]
  coordinators = [{addresses}]
  # and secret_file and whatever else the [cluster] section of the other machines has

  [storage]
  id = "storage-N"            # an id that no other server has
  host = "ADDRESS"            # where the others reach it
  data_dir = "DIRECTORY"

and start it:  twistd -n penncloud-storage --config /etc/penncloud.toml
It registers and gets its share of the tablets by itself; `penncloud status` shows it."""


# -- drain -------------------------------------------------------------------------------------------


async def _drain(
    arguments: argparse.Namespace, directory: CoordinatorDirectory, environment: Environment
) -> None:
    await directory.drain_server(arguments.id, not arguments.undo)
    if arguments.undo:
        print(f"{arguments.id} may hold tablets again")
        return
    if arguments.no_wait:
        return

    def left(view: ClusterView) -> str:
        held = sum(arguments.id in tablet.members for tablet in view.tablets)
        moving = sum(
            arguments.id in tablet.members and bool(tablet.learners or tablet.leaving)
            for tablet in view.tablets
        )
        return f"{arguments.id} holds {held} tablets, {moving} are moving" if held else ""

    await _follow(environment, directory, left, arguments.within)
    print(f"{arguments.id} is drained")


# -- remove ------------------------------------------------------------------------------------------


async def _remove(
    arguments: argparse.Namespace,
    directory: CoordinatorDirectory,
    control: AgentControl,
    environment: Environment,
) -> None:
    node_id: str = arguments.id
    view = await directory.view()
    node = _find(view, node_id)
    if node is None:
        raise NoSuchNode(f"there is no server {node_id}")
    if node.role == "coordinator":
        raise Refused("WRONG_ROLE", f"use: penncloud coordinator remove {node_id}")
    if node.role != "storage":
        raise Refused("WRONG_ROLE", f"{node_id} is no storage server; there is nothing to keep")
    held = sum(node_id in tablet.members for tablet in view.tablets)
    if held and not arguments.accept_data_loss:
        raise Refused(
            "HOLDS_TABLETS", f"{node_id} holds {held} tablets: penncloud node drain {node_id}"
        )
    if node.agent:
        await _stop_for_good(control, node_id)
    elif node.state != "dead":
        raise Refused("STILL_RUNS", f"stop {node_id} first: no agent is known that could")

    def stopping(view: ClusterView) -> str:
        known = _find(view, node_id)
        return "" if known is None or known.state == "dead" else f"{node_id} is {known.state}"

    await _follow(environment, directory, stopping, arguments.timeout)
    try:
        await directory.remove_server(node_id, arguments.accept_data_loss)
    except Refused as error:
        if error.code != "NO_SUCH_NODE":  # the answer to the first attempt was lost
            raise
    print(f"{node_id} is removed")


async def _stop_for_good(control: AgentControl, node_id: str) -> None:
    # Its agent may have forgotten it already.
    with contextlib.suppress(NoSuchNode):
        try:
            await control.remove(node_id)
        except Refusal as refusal:
            if refusal.code != NOT_SUPERVISED:
                raise
            await control.stop(node_id)
            print(f"{node_id} is stopped; disable its unit, so that it is not started again")


# -- progress ----------------------------------------------------------------------------------------


def _find(view: ClusterView, node_id: str) -> NodeInfo | None:
    return next((node for node in view.nodes if node.id == node_id), None)


async def _follow(
    environment: Environment,
    directory: Directory,
    missing: Callable[[ClusterView], str],
    within_s: float,
) -> None:
    """Print what is missing whenever it changes, until nothing is. Raises Unavailable when it takes
    longer; a moment without coordinators is waited out."""
    clock = environment.reactor
    deadline = clock.seconds() + within_s
    said = ""
    while True:
        try:
            text = missing(await directory.view())
        except Unavailable as error:
            text = str(error)
        if not text:
            return
        if text != said:
            said = text
            print(text, flush=True)
        if clock.seconds() >= deadline:
            raise Unavailable(f"not yet after {within_s:g} s, but it goes on: {text}")
        await deferLater(clock, _POLL_S)
