"""`penncloud user`: accounts, from the shell. Passwords are asked for, or read from stdin."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from penncloud.cli._exits import DONE
from penncloud.cli._table import with_table
from penncloud.cli._target import add_target
from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.services.accounts import Account, Accounts

_PAGE: Final = 100


def add_to(commands: Any) -> None:
    parser = commands.add_parser("user", help="administer accounts")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        add_target(found)
        found.set_defaults(run=run)
        return found

    add = action("add", _add, "make an account; its password is asked for, or read from stdin")
    add.add_argument("name", metavar="NAME")
    passwd = action(
        "passwd", _passwd, "set a password, asked for or read from stdin; ends sessions"
    )
    passwd.add_argument("name", metavar="NAME")
    action("list", _list, "name, date of creation and state of every account; tab-separated")
    disable = action("disable", _disable, "let an account no longer log in, and end its sessions")
    disable.add_argument("name", metavar="NAME")
    disable.add_argument("--undo", action="store_true", help="let it log in again")


def read_password(name: str) -> str:
    """Typed twice at a terminal, else the first line of stdin. Raises ConfigurationError."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise ConfigurationError("a password is expected on stdin")
        return line.rstrip("\r\n")
    password = getpass.getpass(f"New password for {name}: ")
    if password != getpass.getpass("The same again: "):
        raise ConfigurationError("the two passwords differ")
    return password


def _with_accounts(
    arguments: argparse.Namespace, command: Callable[[Accounts], Awaitable[None]]
) -> int:
    async def run(table: Table, environment: Environment) -> int:
        await command(Accounts(table, environment))
        return DONE

    return with_table(arguments, run)


def _add(arguments: argparse.Namespace) -> int:
    password = read_password(arguments.name)

    async def add(accounts: Accounts) -> None:
        await accounts.create(arguments.name, password, reserved_names=True)

    return _with_accounts(arguments, add)


def _passwd(arguments: argparse.Namespace) -> int:
    password = read_password(arguments.name)

    async def set_password(accounts: Accounts) -> None:
        await accounts.set_password(arguments.name, password)

    return _with_accounts(arguments, set_password)


def _list(arguments: argparse.Namespace) -> int:
    async def show(accounts: Accounts) -> None:
        start = ""
        while page := await accounts.list(start, _PAGE):
            for account in page:
                print(line(account))
            start = page[-1].name + "\0"

    return _with_accounts(arguments, show)


def line(account: Account) -> str:
    """One account as `list` prints it."""
    created = datetime.fromtimestamp(account.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{account.name}\t{created}\t{'disabled' if account.disabled else 'enabled'}"


def _disable(arguments: argparse.Namespace) -> int:
    async def disable(accounts: Accounts) -> None:
        await accounts.disable(arguments.name, not arguments.undo)

    return _with_accounts(arguments, disable)
