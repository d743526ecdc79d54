"""Exactly once: what each (client, seq) was answered. Pure; one table per tablet.

Theory of operation
    A client gives every mutation a number of its own (`RQID;client;seq`) and repeats it with the same
    number until it has an answer. The first time it is executed, its outcome is recorded here at the
    moment it commits; every later time the recorded outcome is the answer. The table is part of the
    tablet's state: it changes only by `record`, in version order, so every replica has the same one,
    and the checkpoint carries it (`encode`).

    It is bounded in three ways. A client's oldest outcomes go beyond `WINDOW`; when the whole table
    holds more than `MAX_RESULTS`, the oldest outcome of the client that wrote least recently goes. In
    both cases the client's *floor* rises: an id at or below it that is not recorded any more is
    refused, not executed, because it may have been executed before. Beyond `MAX_CLIENTS` the client
    that wrote least recently is forgotten whole: its ids would be executed anew, so the bound is far
    above the number of clients that can be retrying at one time.

    Values in recorded mismatches are kept up to `MAX_KEPT_VALUE` bytes; of longer ones only the version
    and the column are kept, and the repeated answer shows what stands there at that time.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final, TypeAlias

import msgspec
from attrs import define, field

from penncloud.platform.errors import PennCloudError
from penncloud.wire.messages import Mismatch, Missing, Ok

WINDOW: Final = 1024
MAX_RESULTS: Final = 32_768
MAX_CLIENTS: Final = 16_384
MAX_KEPT_VALUE: Final = 256

Reply: TypeAlias = Ok | Missing | Mismatch


class CorruptTable(PennCloudError):
    """Bytes that are no encoded table of request ids, or no outcome of one."""


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """A recorded outcome that changed nothing.

    `version` is that of the compared cell (0: there was none). `value` is None where there was no
    cell, and where it was too long to be kept (`cut`).
    """

    col: bytes
    missing: bool  # the answer was -MISSING
    version: int = 0
    value: bytes | None = None
    cut: bool = False


# A version for a mutation that was done: nearly all of them, so it is kept as small as can be.
Outcome: TypeAlias = int | Failed


class Refusal(Enum):
    """Why an id is neither answered nor executed."""

    BELOW_WINDOW = "below window"


def outcome_of(reply: Reply, failed_at: bytes | None) -> Outcome:
    """What is recorded of a decision."""
    match reply:
        case Ok(version):
            return version
        case Missing():
            return Failed(failed_at or b"", True)
        case Mismatch(version, value):
            cut = value is not None and len(value) > MAX_KEPT_VALUE
            return Failed(failed_at or b"", False, version, None if cut else value, cut)


def reply_of(outcome: Outcome, now: Mismatch | None = None) -> Reply:
    """The answer that a recorded outcome stands for; `now` replaces a value that was cut."""
    if isinstance(outcome, int):
        return Ok(outcome)
    if outcome.missing:
        return Missing()
    if outcome.cut and now is not None:
        return now
    return Mismatch(outcome.version, outcome.value)


def encode_outcome(outcome: Outcome) -> bytes:
    """As the log keeps it beside the mutation's effects."""
    return _ENCODER.encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """The reverse. Raises CorruptTable."""
    try:
        return _OUTCOME_DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptTable(f"not an outcome: {error}") from error


@define
class _Client:
    floor: int = -1
    # In the order of recording; the first one goes first.
    results: dict[int, Outcome] = field(factory=dict)

    def drop_oldest(self) -> None:
        seq = next(iter(self.results))
        del self.results[seq]
        self.floor = max(self.floor, seq)


class DedupTable:
    """The recorded outcomes of one tablet."""

    def __init__(
        self,
        window: int = WINDOW,
        max_results: int = MAX_RESULTS,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        if not 0 < window <= max_results or max_clients < 1:
            raise ValueError("a client's window has to fit in the table")
        self._window = window
        self._max_results = max_results
        self._max_clients = max_clients
        self._count = 0
        # Clients by their last recording, the least recent first: those with results, and those of
        # which only the floor is left.
        self._clients: OrderedDict[bytes, _Client] = OrderedDict()
        self._retired: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        """Recorded outcomes."""
        return self._count

    def find(self, client: bytes, seq: int) -> Outcome | Refusal | None:
        """The recorded outcome, a refusal, or None for an id that was never executed."""
        known = self._clients.get(client)
        if known is None:
            floor = self._retired.get(client, -1)
        else:
            outcome = known.results.get(seq)
            if outcome is not None:
                return outcome
            floor = known.floor
        return Refusal.BELOW_WINDOW if seq <= floor else None

    def record(self, client: bytes, seq: int, outcome: Outcome) -> None:
        """Remember an outcome that has committed; called in version order."""
        known = self._clients.get(client)
        if known is None:
            known = self._clients[client] = _Client(self._retired.pop(client, -1))
        else:
            self._clients.move_to_end(client)
        if seq not in known.results:
            self._count += 1
        known.results[seq] = outcome
        if len(known.results) > self._window:
            known.drop_oldest()
            self._count -= 1
        while self._count > self._max_results:
            self._drop_least_recent()
        while len(self._clients) + len(self._retired) > self._max_clients:
            self._forget()

    def _drop_least_recent(self) -> None:
        name, known = next(iter(self._clients.items()))
        known.drop_oldest()
        self._count -= 1
        if not known.results:
            del self._clients[name]
            self._retired[name] = known.floor

    def _forget(self) -> None:
        if self._retired:
            self._retired.popitem(last=False)
        else:
            _, known = self._clients.popitem(last=False)
            self._count -= len(known.results)

    def encode(self) -> bytes:
        """The table as bytes, for the checkpoint; equal tables give equal bytes."""
        clients = [(name, c.floor, list(c.results.items())) for name, c in self._clients.items()]
        return _ENCODER.encode((clients, list(self._retired.items())))

    def restore(self, data: bytes) -> None:
        """Become the table that `encode` gave (empty bytes: an empty one). Raises CorruptTable."""
        self._clients.clear()
        self._retired.clear()
        self._count = 0
        if not data:
            return
        try:
            clients, retired = _DECODER.decode(data)
        except msgspec.DecodeError as error:
            raise CorruptTable(f"not a table of request ids: {error}") from error
        for name, floor, results in clients:
            self._clients[name] = _Client(floor, dict(results))
            self._count += len(results)
        self._retired.update(retired)


_Encoded: TypeAlias = tuple[
    list[tuple[bytes, int, list[tuple[int, int | Failed]]]], list[tuple[bytes, int]]
]
_ENCODER = msgspec.msgpack.Encoder()
_OUTCOME_DECODER: msgspec.msgpack.Decoder[int | Failed] = msgspec.msgpack.Decoder(int | Failed)
_DECODER = msgspec.msgpack.Decoder(_Encoded)
