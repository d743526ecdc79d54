"""Requests and replies of the key-value protocol as values.

Rows, columns and values are bytes. A *version* is the number of the mutation in its tablet that wrote
a cell; versions of one tablet only grow, and 0 stands for "no such cell" wherever one is compared.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class _Message(msgspec.Struct, frozen=True, gc=False):
    """A value that is made for every request or reply: cheaply. None holds anything that could hold it."""


# -- requests ------------------------------------------------------------------------------------


class Get(_Message, frozen=True):
    row: bytes
    col: bytes


class Put(_Message, frozen=True):
    row: bytes
    col: bytes
    value: bytes


class CompareAndPut(_Message, frozen=True):
    """Put `value` if the cell holds exactly `expected`."""

    row: bytes
    col: bytes
    expected: bytes
    value: bytes


class CompareVersionAndPut(_Message, frozen=True):
    """Put `value` if the cell's version is `version`; 0: only if there is no such cell."""

    row: bytes
    col: bytes
    version: int
    value: bytes


class Delete(_Message, frozen=True):
    row: bytes
    col: bytes


class RequestId(_Message, frozen=True):
    """Makes the next mutation exactly-once. `client` names one client run, `seq` grows by one."""

    client: bytes
    seq: int


class TraceId(_Message, frozen=True):
    """Names what the next request is done for, for the server's log; see `platform.trace`."""

    id: bytes


class Scan(_Message, frozen=True):
    """Cells of a row with start <= col < stop (stop empty: to the end), at most `limit`.

    With `reverse` the last ones come first. Values longer than `max_value` are cut (their full
    size is told); None: never.
    """

    row: bytes
    start: bytes
    stop: bytes
    limit: int
    reverse: bool = False
    max_value: int | None = None


class ScanTablet(_Message, frozen=True):
    """Cells of one tablet from (row, col) on: the administrator's raw view.

    Rows come in the order of their hash, the cells of a row in the order of their columns. An empty
    row begins at the first.
    """

    tablet: int
    row: bytes
    col: bytes
    limit: int
    max_value: int


class PutCell(_Message, frozen=True):
    """Sub-operation of Mutate."""

    col: bytes
    value: bytes


class AppendCell(_Message, frozen=True):
    """Sub-operation of Mutate: put under `prefix` + the mutation's version as 16 hex digits.

    The store so gives every appended cell of a row its place in one order, without anybody having
    to read first (as FoundationDB's versionstamped keys do).
    """

    prefix: bytes
    value: bytes


def appended(prefix: bytes, version: int) -> bytes:
    """The column under which AppendCell put its value in the mutation of this version."""
    return b"%b%016x" % (prefix, version)


class DeleteCell(_Message, frozen=True):
    """Sub-operation of Mutate; deleting what is not there is no error."""

    col: bytes


class IfVersion(_Message, frozen=True):
    """Condition of Mutate: the cell has this version (0: there is no such cell)."""

    col: bytes
    version: int


class IfValue(_Message, frozen=True):
    """Condition of Mutate: the cell holds exactly this value."""

    col: bytes
    value: bytes


SubOperation: TypeAlias = PutCell | AppendCell | DeleteCell | IfVersion | IfValue


class Mutate(_Message, frozen=True):
    """Sub-operations on one row, all or nothing: every condition is checked before any change."""

    row: bytes
    operations: tuple[SubOperation, ...]


class Watch(_Message, frozen=True):
    """From now on tell this connection of every commit to `row`."""

    row: bytes


class Unwatch(_Message, frozen=True):
    row: bytes


class Where(_Message, frozen=True):
    """Asked of a coordinator: who holds this cell?"""

    row: bytes
    col: bytes


class Map(_Message, frozen=True):
    """Asked of a coordinator: the whole tablet map."""


class Malformed(_Message, frozen=True):
    """What the decoder gives for a request that is not one; answered with `-ERR`.

    `fatal`: where the next request begins is not known, so the connection has to be closed.
    """

    code: str
    text: str
    fatal: bool = False


Mutation: TypeAlias = Put | CompareAndPut | CompareVersionAndPut | Delete | Mutate
StorageRequest: TypeAlias = (
    Get | Mutation | RequestId | TraceId | Scan | ScanTablet | Watch | Unwatch
)
Request: TypeAlias = StorageRequest | Where | Map

# -- replies -------------------------------------------------------------------------------------


class Ok(_Message, frozen=True):
    """Done; `version` is the mutation's. For Watch: the tablet's version at this moment.

    `local` (async replication only): it is on the primary's disk, and not yet on the others'.
    """

    version: int
    local: bool = False


class Value(_Message, frozen=True):
    version: int
    value: bytes


class Missing(_Message, frozen=True):
    """No such cell."""


class Mismatch(_Message, frozen=True):
    """A comparison failed; this stands there (`value` None and version 0: nothing)."""

    version: int
    value: bytes | None


class Moved(_Message, frozen=True):
    """Not the primary here. `address` is host:port, or empty when unknown."""

    address: str
    epoch: int


class Busy(_Message, frozen=True):
    """No primary now, or overloaded: nothing was done. Try again after `retry_ms`."""

    retry_ms: int


class Unknown(_Message, frozen=True):
    """The outcome could not be learnt: ask again with the same request id."""


class Error(_Message, frozen=True):
    """Bad request."""

    code: str
    text: str


class CellLine(_Message, frozen=True):
    """One cell of a scan. `size` is the full size of the value, `value` perhaps only its beginning."""

    row: bytes
    col: bytes
    version: int
    size: int
    value: bytes


class Cells(_Message, frozen=True):
    """Answer to a scan. `more`: the limit was reached and there are further cells."""

    cells: tuple[CellLine, ...]
    more: bool


class At(_Message, frozen=True):
    """Answer to Where. `address` is empty while the tablet has no primary."""

    tablet: int
    epoch: int
    address: str


class TabletLine(_Message, frozen=True):
    """One tablet of the map: it holds the rows whose hash is in [lo, hi)."""

    tablet: int
    lo: int
    hi: int
    epoch: int
    address: str


class Tablets(_Message, frozen=True):
    """Answer to Map, ordered by `lo`. `version` grows with every change of the map."""

    version: int
    tablets: tuple[TabletLine, ...]


class Changed(_Message, frozen=True):
    """Pushed to a watcher: a hint to read `row` again. May come more often than needed."""

    row: bytes
    version: int


Reply: TypeAlias = (
    Ok
    | Value
    | Missing
    | Mismatch
    | Moved
    | Busy
    | Unknown
    | Error
    | Cells
    | At
    | Tablets
    | Changed
)
