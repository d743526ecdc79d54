"""`penncloud node`: stop, start and restart single servers through the agents of their hosts."""

from __future__ import annotations

import argparse
from typing import Any

from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target, agents_of, cluster_of
from penncloud.client.agents import AgentControl
from penncloud.client.directory import Directory
from penncloud.platform.environment import Environment

_ACTIONS = {
    "stop": "stop a server in order; it stays down until it is started",
    "start": "start a server that is down",
    "restart": "stop a server in order and start it",
}


def add_to(commands: Any) -> None:
    parser = commands.add_parser("node", help="stop, start or restart one server")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, help_ in _ACTIONS.items():
        action = actions.add_parser(name, help=help_, description=help_)
        add_target(action)
        action.add_argument("id", metavar="ID", help="e.g. storage-2")
        action.set_defaults(run=run, action=name)


def run(arguments: argparse.Namespace) -> int:
    async def act(directory: Directory, environment: Environment) -> int:
        cluster = cluster_of(arguments)
        control = AgentControl(environment, cluster, directory, agents_of(arguments))
        actions = {"stop": control.stop, "start": control.start, "restart": control.restart}
        await actions[arguments.action](arguments.id)
        return DONE

    return with_directory(arguments, act)
