"""`penncloud lb`: which frontends the load balancer gives clients to."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penncloud.cli._columns import columns
from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target
from penncloud.client.directory import Directory, NodeInfo, NoSuchNode
from penncloud.rpc.endpoints import address_text


def add_to(commands: Any) -> None:
    parser = commands.add_parser("lb", help="list, enable or disable the balancer's frontends")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(
        name: str,
        command: Callable[[Directory, argparse.Namespace], Awaitable[int]],
        help_: str,
    ) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        add_target(found)
        found.set_defaults(
            run=lambda arguments: with_directory(
                arguments, lambda directory, _: command(directory, arguments)
            )
        )
        return found

    listing = action("list", list_frontends, "the http servers, their states, and who is enabled")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    for name, command, help_ in (
        ("enable", enable, "give new clients to a frontend again"),
        ("disable", disable, "give no new clients to a frontend; it goes on running"),
    ):
        action(name, command, help_).add_argument("id", metavar="ID", help="e.g. http-1")


async def list_frontends(directory: Directory, arguments: argparse.Namespace) -> int:
    view = await directory.view()
    frontends = sorted((node for node in view.nodes if node.role == "http"), key=lambda n: n.id)
    if arguments.json:
        rows = [
            {"id": n.id, "host": n.host, "port": n.port, "state": n.state, "enabled": n.enabled}
            for n in frontends
        ]
        print(msgspec.json.encode(rows).decode())
    else:
        rows_ = [(n.id, address_text(n.host, n.port), n.state, _enabled(n)) for n in frontends]
        print(columns(("ID", "ADDRESS", "STATE", "CLIENTS"), rows_))
    return DONE


def _enabled(node: NodeInfo) -> str:
    return "enabled" if node.enabled else "disabled"


async def enable(directory: Directory, arguments: argparse.Namespace) -> int:
    return await _set(directory, arguments.id, True)


async def disable(directory: Directory, arguments: argparse.Namespace) -> int:
    return await _set(directory, arguments.id, False)


async def _set(directory: Directory, node_id: str, enabled: bool) -> int:
    view = await directory.view()
    if all(node.id != node_id or node.role != "http" for node in view.nodes):
        raise NoSuchNode(f"there is no http server {node_id}")
    await directory.set_enabled(node_id, enabled)
    return DONE
