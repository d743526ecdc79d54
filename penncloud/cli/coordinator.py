"""`penncloud coordinator`: who belongs to the coordinators' group, and who leads it."""

from __future__ import annotations

import argparse
from typing import Any

from twisted.internet.task import deferLater

from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.table import Refused, Unavailable
from penncloud.platform.config import parse_address
from penncloud.platform.environment import Environment

_POLL_S = 0.2


def add_to(commands: Any) -> None:
    parser = commands.add_parser("coordinator", help="change the coordinators' group")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        add_target(found)
        found.set_defaults(run=run, action=name)
        return found

    add = action(
        "add", "wait until a coordinator that was started is taken into the group and votes"
    )
    add.add_argument("id", metavar="ID", help="e.g. coordinator-4")
    add.add_argument("address", metavar="HOST:PORT", help="where the others reach it")
    remove = action(
        "remove", "take a coordinator out of the group; its process goes on, and decides no more"
    )
    remove.add_argument("id", metavar="ID")
    transfer = action("transfer", "hand leadership over")
    transfer.add_argument("id", metavar="ID", nargs="?", default="", help="default: any other")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "add":
        parse_address(arguments.address)

    async def act(directory: CoordinatorDirectory, environment: Environment) -> int:
        if arguments.action == "add":
            await _until(environment, directory, arguments, _votes)
        elif arguments.action == "remove":
            await directory.remove_coordinator(arguments.id)
        else:
            before = await _leader(directory)
            if arguments.id != before:
                await directory.transfer_leadership(arguments.id)
                arguments.before = before
                await _until(environment, directory, arguments, _leads)
        return DONE

    return with_directory(arguments, act)


async def _leader(directory: CoordinatorDirectory) -> str:
    view = await directory.view()
    return next((one.id for one in view.coordinators if one.role == "leader"), "")


async def _votes(directory: CoordinatorDirectory, arguments: argparse.Namespace) -> str:
    """Empty once it does; else what is still missing."""
    try:
        await directory.add_coordinator(arguments.id, *parse_address(arguments.address))
    except Refused as refused:
        if refused.code != "NOT_STARTED":
            raise
        return str(refused)
    view = await directory.view()
    roles = [one.role for one in view.coordinators if one.id == arguments.id]
    if roles and roles[0] in ("leader", "follower"):
        return ""
    return f"{arguments.id} is added and still catches up ({roles[0] if roles else 'not heard of'})"


async def _leads(directory: CoordinatorDirectory, arguments: argparse.Namespace) -> str:
    leader = await _leader(directory)
    done = leader == arguments.id if arguments.id else leader not in ("", arguments.before)
    return "" if done else f"{leader or 'nobody'} leads: the hand-over did not succeed, try again"


async def _until(
    environment: Environment,
    directory: CoordinatorDirectory,
    arguments: argparse.Namespace,
    missing: Any,
) -> None:
    clock = environment.reactor
    deadline = clock.seconds() + arguments.timeout
    while trouble := await missing(directory, arguments):
        if clock.seconds() >= deadline:
            raise Unavailable(trouble)
        await deferLater(clock, _POLL_S)
