"""`penncloud mail`: the outgoing mail, as it lies in the store."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

import msgspec

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE
from penncloud.cli._table import with_table
from penncloud.cli._target import add_target
from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.services.mail.queue import SHARDS, Item, Queue


def add_to(commands: Any) -> None:
    parser = commands.add_parser("mail", help="look at the outgoing mail")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    text = "each message that waits, when it is tried again, and which server works on it"
    queue = actions.add_parser("queue", help=text, description=text)
    add_target(queue)
    queue.add_argument("--json", action="store_true", help="one JSON document")
    queue.set_defaults(run=run_queue)


def run_queue(arguments: argparse.Namespace) -> int:
    async def show(table: Table, environment: Environment) -> int:
        items = await queued(Queue(table, environment, "", 0))
        print(as_json(items) if arguments.json else as_text(items))
        return DONE

    return with_table(arguments, show)


async def queued(queue: Queue) -> list[Item]:
    """All items, the oldest first."""
    found: list[Item] = []
    for shard in range(SHARDS):
        behind = ""
        while page := await queue.listed(shard, behind):
            found += page
            behind = page[-1].id
    return sorted(found, key=lambda item: (item.created, item.id))


def as_json(items: list[Item]) -> str:
    """What `--json` prints: one object per item, its recipients with what was last said of each."""
    return msgspec.json.format(msgspec.json.encode({"queue": items}), indent=2).decode()


def as_text(items: list[Item]) -> str:
    rows = []
    for item in items:
        due = datetime.fromtimestamp(item.due, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows.append(
            (
                item.id,
                item.sender or "<>",
                item.domain or "(to be split)",
                len(item.recipients),
                item.attempts,
                due,
                item.lease.node if item.lease else "-",
                next((each.reply for each in item.recipients if each.reply), "-"),
            )
        )
    names = ("ID", "FROM", "DOMAIN", "TO", "TRIED", "DUE", "WORKED ON BY", "LAST SAID")
    return columns(names, rows)
