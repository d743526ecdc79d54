"""What a run and its users' processes say to each other: JSON, one message a line, and reports in files.

A process answers each order by one answer of the same number, in any order.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from penncloud.judge.history import Operation, Outcome

# The longest line; a report goes to a file for it is longer.
MAX_LINE_BYTES: Final = 1024 * 1024


class Plan(msgspec.Struct, frozen=True):
    """What one process is: argument of its command line, as JSON.

    `begun_s` is the monotonic time from which the run counts; `node` whether it registers as a frontend,
    for the coordinators' workload; `parent` the pid with which it ends.
    """

    name: str
    parent: int
    coordinators: list[str]
    tls_dir: str
    begun_s: float
    node: bool = False


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """Order: use the cluster from now on, by `workloads`, whose names begin with `prefix`.

    `workers` do what users do, `readers` only read; each pauses up to `gap_s` after each thing. Users that
    are 0 in number only settle later.
    """

    number: int
    prefix: str
    workloads: list[str]
    seed: str
    workers: int
    readers: int
    gap_s: float
    deadline_s: float


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """Order: stop; answered when nothing is under way any more."""

    number: int


class Settle(msgspec.Struct, tag="settle", frozen=True):
    """Order: read the end states, which has to work; the answer's `trouble` says what did not."""

    number: int


class Report(msgspec.Struct, tag="report", frozen=True):
    """Order: write a `Seen` of what the users of this round saw to `file`."""

    number: int
    file: str


class Judge(msgspec.Struct, tag="judge", frozen=True):
    """Order, after Settle: check the end states against what all have seen, which is in `files`."""

    number: int
    files: list[str]


class View(msgspec.Struct, tag="view", frozen=True):
    """Order: say what the coordinators know of the tablets; none where they do not answer."""

    number: int


Order = Begin | Stop | Settle | Report | Judge | View


class TabletSeen(msgspec.Struct, frozen=True):
    id: int
    epoch: int
    primary: str
    copies: int
    state: str


class Answer(msgspec.Struct, frozen=True):
    """`trouble`: what did not work, in words; `undecided`: what no verdict was found on."""

    number: int
    trouble: list[str] = []
    undecided: list[str] = []
    tablets: list[TabletSeen] | None = None


# -- reports -------------------------------------------------------------------------------------


class Told(msgspec.Struct, array_like=True, frozen=True):
    """One operation. `result`: a tuple comes as a list."""

    user: str
    key: str
    kind: str
    arguments: list[Any]
    invoked: int
    at_s: float
    returned: int | None
    outcome: Literal["unknown", "done", "failed"]
    result: Any


class WorkloadSeen(msgspec.Struct, frozen=True):
    """What the users of one process saw of one workload."""

    name: str
    operations: list[Told]
    violations: list[str]


class Seen(msgspec.Struct, frozen=True):
    workloads: list[WorkloadSeen]


def told(operation: Operation) -> Told:
    return Told(
        operation.user,
        operation.key,
        operation.kind,
        list(operation.arguments),
        operation.invoked,
        operation.at_s,
        operation.returned,
        operation.outcome.value,
        operation.result,
    )


def heard(told: Told) -> Operation:
    """The operation again, as it was."""
    result = tuple(told.result) if isinstance(told.result, list) else told.result
    return Operation(
        told.user,
        told.key,
        told.kind,
        tuple(told.arguments),
        told.invoked,
        told.at_s,
        told.returned,
        Outcome(told.outcome),
        result,
    )


def frontend_of(prefix: str) -> str:
    """The id by which the auditor registers as a frontend in a round whose names begin with `prefix`."""
    return f"{prefix}http-1"
