"""`penncloud raft inspect`: what a coordinator's data directory holds, without changing it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from penncloud.cli._columns import columns
from penncloud.cli._exits import DONE, FAILED
from penncloud.coordinator.decisions import describe
from penncloud.coordinator.raft_store import Kept, inspect
from penncloud.coordinator.state import StateMachine
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.real_disk import RealDisk


def add_to(commands: Any) -> None:
    parser = commands.add_parser("raft", help="look at a coordinator's log")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    help_ = "show term, vote, snapshot and log of a coordinator's data directory; changes nothing"
    looking = actions.add_parser("inspect", help=help_, description=help_)
    looking.add_argument("path", metavar="PATH", help="e.g. penncloud-data/coordinator-1")
    looking.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 when something is damaged."""
    if not Path(arguments.path).is_dir():
        raise ConfigurationError(f"{arguments.path}: no such directory")
    # Nothing is written, so the disk's thread never starts and needs no reactor.
    kept, damages = inspect(RealDisk(arguments.path, None))
    if kept is None:
        raise ConfigurationError(f"{arguments.path}: no coordinator has kept anything here")
    print(as_text(kept))
    for damage in damages:
        print(f"penncloud: damaged: {damage}", file=sys.stderr)
    return FAILED if damages else DONE


def as_text(kept: Kept) -> str:
    """For people: one line per entry."""
    snapshot = kept.snapshot
    machine = StateMachine()
    machine.restore(snapshot.data)
    state = machine.state
    lines = [
        f"term      {kept.hard_state.term}",
        f"vote      {kept.hard_state.vote or '-'}",
        f"snapshot  up to entry {snapshot.index} of term {snapshot.term}, {len(snapshot.data)} bytes:"
        f" {len(state.nodes)} servers, {len(state.tablets)} tablets",
        f"voters    {' '.join(sorted(snapshot.membership.voters)) or '-'}",
        f"learners  {' '.join(sorted(snapshot.membership.learners)) or '-'}",
        "",
    ]
    rows = [(entry.index, entry.term, entry.kind, describe(entry)) for entry in kept.entries]
    lines.append(columns(("INDEX", "TERM", "KIND", "CONTENT"), rows))
    return "\n".join(lines)
