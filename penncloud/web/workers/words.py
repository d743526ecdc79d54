"""What the front and a worker say to each other: JSON, one word per line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from penncloud.platform.config import Cluster, Http
from penncloud.platform.metrics import Family

# The longest word is a worker's metrics: some tens of kilobytes.
_WORD_BYTES: Final = 4 * 1024 * 1024


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """To a worker, the first word: serve, configured so. `coordinators` are those of the group now."""

    number: int
    cluster: Cluster
    role: Http
    coordinators: list[str]


class UseCoordinators(msgspec.Struct, tag="coordinators", frozen=True):
    """To a worker: the coordinators' group has changed."""

    addresses: list[str]


class Retire(msgspec.Struct, tag="retire", frozen=True):
    """To a worker: accept no more, finish what is under way within so many seconds, and end.

    `patient`: connections without a request stay open until they are used or time out as ever, because a
    client may be about to use one. A later word can only shorten the time.
    """

    within_s: float
    patient: bool


class Report(msgspec.Struct, tag="report", frozen=True):
    """To a worker, answered with Reported: its metrics; and the sign that its reactor turns."""


class Serves(msgspec.Struct, tag="serves", frozen=True):
    """From a worker: it accepts connections."""


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """From a worker that cannot serve and ends: what the administrator has to mend."""

    text: str


class Reported(msgspec.Struct, tag="reported", frozen=True):
    """From a worker: the answer to Report."""

    families: list[Family]


class Attempt(msgspec.Struct, tag="attempt", frozen=True):
    """From a worker, answered with Counted: somebody tries to get in, for all workers to count together.

    `name` "": somebody signs up. `number` is the question's.
    """

    number: int
    name: str
    address: str


class Counted(msgspec.Struct, tag="counted", frozen=True):
    """To a worker: the answer to the Attempt of that number: 0.0 if it may be made, else seconds to wait."""

    number: int
    wait_s: float


class Legitimate(msgspec.Struct, tag="legitimate", frozen=True):
    """From a worker: the last attempt with this name and address had the right password."""

    name: str
    address: str


ToWorker = Begin | UseCoordinators | Retire | Report | Counted
FromWorker = Serves | Failed | Reported | Attempt | Legitimate

_log = Logger()
_to_worker = msgspec.json.Decoder(ToWorker)
_from_worker = msgspec.json.Decoder(FromWorker)


def encode(word: ToWorker | FromWorker) -> bytes:
    """A word as a line, with its end."""
    return msgspec.json.encode(word) + b"\n"


class Lines:
    """Cuts what comes through a pipe into lines. One that is longer than `limit_bytes` is dropped."""

    def __init__(self, line: Callable[[bytes], None], limit_bytes: int) -> None:
        self._line = line
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def received(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            size_bytes, parts = self._size_bytes, self._parts
            self._size_bytes, self._parts = 0, []
            if size_bytes <= self._limit_bytes:
                self._line(b"".join(parts))
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._size_bytes += len(part)
        if self._size_bytes > self._limit_bytes:
            self._parts.clear()
        elif part:
            self._parts.append(part)


def _words(decoder: msgspec.json.Decoder[Any], heard: Callable[[Any], None]) -> Lines:
    def line(text: bytes) -> None:
        try:
            word = decoder.decode(text)
        except msgspec.MsgspecError as error:
            _log.error("a word that nobody knows: {error}", error=str(error))
        else:
            heard(word)

    return Lines(line, _WORD_BYTES)


def words_to_worker(heard: Callable[[ToWorker], None]) -> Lines:
    """The worker's ear."""
    return _words(_to_worker, heard)


def words_from_worker(heard: Callable[[FromWorker], None]) -> Lines:
    """The front's ear for one worker."""
    return _words(_from_worker, heard)
