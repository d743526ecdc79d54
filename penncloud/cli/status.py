"""`penncloud status`: servers, coordinators and tablets as the coordinators see them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from penncloud.cli._columns import columns
from penncloud.cli._directory import with_directory
from penncloud.cli._exits import DONE
from penncloud.cli._target import add_target
from penncloud.client.directory import ClusterView, Directory, NodeInfo, TabletInfo, Worker
from penncloud.rpc.endpoints import address_text


def add_to(commands: Any) -> None:
    parser = commands.add_parser("status", help="show servers, coordinators and tablets")
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(
        run=lambda arguments: with_directory(
            arguments, lambda directory, _: show(directory, arguments)
        )
    )


async def show(directory: Directory, arguments: argparse.Namespace) -> int:
    view = await directory.view()
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(as_document(view)), indent=2).decode())
    else:
        print(as_text(view))
    return DONE


def as_document(view: ClusterView) -> dict[str, object]:
    """What `--json` prints; scripts rely on these keys."""
    return {
        "balanced": view.balanced,
        "nodes": [
            {
                "role": node.role,
                "id": node.id,
                "host": node.host,
                "port": node.port,
                "pid": node.pid,
                "state": node.state,
                "mail": node.mail,
                "workers": [
                    {"number": one.number, "pid": one.pid, "state": one.state}
                    for one in node.workers
                ],
            }
            for node in view.nodes
        ],
        "coordinators": [
            {
                "id": each.id,
                "host": each.host,
                "port": each.port,
                "pid": each.pid,
                "role": each.role,
                "term": each.term,
            }
            for each in view.coordinators
        ],
        "tablets": [
            {
                "id": tablet.id,
                "range": [tablet.lo, tablet.hi],
                "cfg": tablet.epoch,
                "primary": tablet.primary,
                "members": tablet.members,
                "learners": tablet.learners,
                "leaving": tablet.leaving,
                "lag": tablet.lag,
                "state": tablet.state,
            }
            for tablet in view.tablets
        ],
    }


def _node_state(node: NodeInfo) -> str:
    draining = node.draining and node.state != "drained"
    words = [node.state, *["disabled"] * (not node.enabled), *["draining"] * draining]
    return ", ".join([*words, *[node.mail] * bool(node.mail), *workers_text(node.workers)])


def workers_text(workers: Sequence[Worker]) -> list[str]:
    """How many of a frontend's processes serve, and what the others do: nothing where it has none."""
    if not workers:
        return []
    found = Counter(one.state for one in workers)
    serving = found.pop("serving", 0)
    return [f"{serving} workers", *(f"{found[state]} {state}" for state in sorted(found))]


def _others(tablet: TabletInfo) -> str:
    """Who holds it besides the primary: `+` is to join, `-` is to leave."""
    others = [member for member in tablet.members if member != tablet.primary]
    named = [f"-{one}" if one in tablet.leaving else one for one in others]
    return " ".join([*named, *(f"+{learner}" for learner in tablet.learners)]) or "-"


def as_text(view: ClusterView) -> str:
    nodes = [
        (
            node.role,
            node.id,
            address_text(node.host, node.port),
            node.pid,
            _node_state(node),
        )
        for node in view.nodes
    ]
    coordinators = [
        (each.id, address_text(each.host, each.port), each.pid, each.role, each.term)
        for each in view.coordinators
    ]
    tablets = [
        (
            tablet.id,
            f"{tablet.lo:08x}-{tablet.hi:08x}",
            tablet.epoch,
            tablet.primary or "-",
            _others(tablet),
            " ".join(f"{member}:{lag}" for member, lag in sorted(tablet.lag.items())) or "-",
            tablet.state,
        )
        for tablet in view.tablets
    ]
    parts = (
        columns(("ROLE", "ID", "ADDRESS", "PID", "STATE"), nodes),
        columns(("COORDINATOR", "ADDRESS", "PID", "ROLE", "TERM"), coordinators),
        columns(("TABLET", "RANGE", "EPOCH", "PRIMARY", "SECONDARIES", "LAG", "STATE"), tablets),
    )
    return "\n\n".join(parts)
