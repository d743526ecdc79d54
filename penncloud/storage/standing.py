"""How each replica of this server stands, durably: the highest configuration it has sealed, and whether it
is blank. And the last incarnation of this server, so that the next one is greater whatever the clock says.

The file `replicas` is one record of `lsm.record` at position 0, replaced as a whole; its payload is

    1 byte   format version, 1
    ...      msgpack [incarnation, {tablet: [sealed, blank]}]

A tablet that the file does not name is blank: nobody knows what was promised for it. Updates that come
while one is being written share the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from penncloud.lsm.record import decode, encode
from penncloud.platform.disk import Disk
from penncloud.platform.errors import PennCloudError

FILE: Final = "replicas"
_FORMAT: Final = b"\x01"


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """Of one tablet's replica."""

    sealed: int = 0
    blank: bool = True


class BadStandings(PennCloudError):
    """The file is not what was written."""


_Content = tuple[int, dict[int, Standing]]
_DECODER: Final[msgspec.msgpack.Decoder[_Content]] = msgspec.msgpack.Decoder(_Content)


class Standings:
    """The file, and what it says."""

    def __init__(self, disk: Disk) -> None:
        """Read it, where there is one. Raises BadStandings, DiskError."""
        self._disk = disk
        self.incarnation = 0
        # What is durable, and what the next write will change.
        self._durable: dict[int, Standing] = {}
        self._waiting: list[Deferred[None]] = []
        self._changes: dict[int, Standing | None] = {}
        self._writing = False
        if disk.exists(FILE):
            self.incarnation, self._durable = _read(disk.read(FILE))

    def __getitem__(self, tablet: int) -> Standing:
        """What is durable of a tablet's replica."""
        return self._durable.get(tablet, Standing())

    def knows(self, tablet: int) -> bool:
        """Whether the file names a tablet."""
        return tablet in self._durable

    async def begin(self, incarnation: int) -> int:
        """Take an incarnation for this start, `incarnation` if that is a new one. Raises DiskError."""
        self.incarnation = max(incarnation, self.incarnation + 1)
        await self.update({})
        return self.incarnation

    def update(self, changes: Mapping[int, Standing | None]) -> Deferred[None]:
        """Fire when the changes (None: forget the tablet) are durable.

        Errors: DiskFull (nothing has changed), DiskFailed.
        """
        done: Deferred[None] = Deferred()
        self._changes.update(changes)
        self._waiting.append(done)
        if not self._writing:
            self._write()
        return done

    def _write(self) -> None:
        self._writing = True
        waiting, self._waiting = self._waiting, []
        changes, self._changes = self._changes, {}
        content = dict(self._durable)
        for tablet, standing in changes.items():
            if standing is None:
                content.pop(tablet, None)
            else:
                content[tablet] = standing
        payload = [_FORMAT, msgspec.msgpack.encode((self.incarnation, content))]
        written = self._disk.replace(FILE, b"".join(encode(payload, 0, 0)))
        written.addCallbacks(
            self._written,
            self._not_written,
            callbackArgs=(content, waiting),
            errbackArgs=(waiting,),
        )

    def _written(
        self, _: None, content: dict[int, Standing], waiting: list[Deferred[None]]
    ) -> None:
        self._durable = content
        self._go_on()
        for done in waiting:
            done.callback(None)

    def _not_written(self, failure: Failure, waiting: list[Deferred[None]]) -> None:
        self._go_on()
        for done in waiting:
            done.errback(failure)

    def _go_on(self) -> None:
        self._writing = False
        if self._waiting:
            self._write()


def _read(data: bytes) -> _Content:
    record = decode(data, 0, 0)
    if record is None or record.end != len(data):
        raise BadStandings(f"{FILE}: the checksum does not match")
    if record.payload[:1] != _FORMAT:
        raise BadStandings(f"{FILE}: format version {record.payload[0]} is not known")
    try:
        return _DECODER.decode(record.payload[1:])
    except msgspec.DecodeError as error:
        raise BadStandings(f"{FILE}: {error}") from error
