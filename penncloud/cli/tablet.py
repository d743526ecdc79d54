"""`penncloud tablet`: what only an operator may decide about a tablet."""

from __future__ import annotations

import argparse
from typing import Any

from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target
from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError


def add_to(commands: Any) -> None:
    parser = commands.add_parser("tablet", help="force a tablet's primary (data loss)")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    help_ = (
        "let a server go on alone with its copy of a tablet. For tablets whose members are lost for"
        " good: whatever they had and the chosen copy has not is lost"
    )
    force = actions.add_parser("force-primary", help="DATA LOSS: " + help_, description=help_)
    add_target(force)
    force.add_argument("tablet", type=int, metavar="TABLET", help="its id, see `penncloud status`")
    force.add_argument("id", metavar="ID", help="the storage server, e.g. storage-2")
    force.add_argument("--accept-data-loss", action="store_true", help="yes, this is meant")
    force.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.accept_data_loss:
        raise ConfigurationError(
            "what the tablet's other members have and this copy has not would be lost;"
            " --accept-data-loss says that this is meant"
        )

    async def act(directory: CoordinatorDirectory, _: Environment) -> int:
        await directory.force_primary(arguments.tablet, arguments.id)
        print(f"tablet {arguments.tablet} goes on at {arguments.id} alone")
        return DONE

    return with_directory(arguments, act)
