"""What the coordinators assigned to this server, remembered durably.

A server that comes back follows the primaries that it knew at once, and can tell clients where they
are, whether or not a coordinator is there to ask. The file `assignment`, replaced as a whole before an
assignment is answered, is one record of `lsm.record` at position 0; its payload is JSON:

    {"map_version": 3, "tablets": [{"id": 1, "lo": 0, "hi": 715827882, "epoch": 1, "primary": ..., ...}],
     "peers": {"storage-2": "127.0.0.1:8702", ...}, "suspects": [], "dropped": []}

A wrong digit in it could make a replica follow a configuration that nobody decided: hence the checksum. A
file that does not match is as good as none, as the coordinators tell it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
from twisted.logger import Logger

from penncloud.lsm.record import decode, encode
from penncloud.platform.disk import Disk
from penncloud.platform.errors import PennCloudError
from penncloud.platform.exclusive import Exclusive
from penncloud.rpc.registration import Assign, TabletAssignment

FILE: Final = "assignment"

Tablets: TypeAlias = tuple[TabletAssignment, ...]


class BadAssignment(PennCloudError):
    """What a coordinator sent is no assignment."""


class Assignment:
    """The assignment that this server acts on."""

    log = Logger()

    def __init__(self, disk: Disk) -> None:
        """Read the file, where there is one. Raises DiskError."""
        self._disk = disk
        # Several coordinators may send at once.
        self._one_at_a_time = Exclusive()
        self.news = Assign(0, [])
        self._remembered: tuple[object, ...] = ()
        kept = self._kept() if disk.exists(FILE) else None
        if kept is not None:
            # Who was alive then says nothing about now.
            self.news = msgspec.structs.replace(kept, suspects=[], dropped=[])
            self._remembered = _remembered(kept)

    def _kept(self) -> Assign | None:
        """What the file says; None where it is damaged."""
        data = self._disk.read(FILE)
        record = decode(data, 0, 0)
        if record is not None and record.end == len(data):
            with suppress(msgspec.MsgspecError, BadAssignment):
                return _checked(msgspec.json.decode(record.payload, type=Assign))
        self.log.error("{file} is damaged: the coordinators will say it again", file=FILE)
        return None

    async def update(self, news: Assign, make: Callable[[Tablets], Awaitable[None]]) -> bool:
        """Take `news` for what is known, then remember it durably; False when it is older.

        `make` makes those tablets that are new, durably, before they are known: whatever the file names
        was there. Raises BadAssignment for one whose tablets overlap, what `make` raises, and DiskError:
        when there is no room for the file, the news is known all the same.
        """
        async with self._one_at_a_time:
            # What a leader of before says of who lives is older, too, though the tablets are the same.
            known = self.news.map_version, self.news.term
            if (news.map_version, news.term) < known:
                return False
            _checked(news)
            remembered = _remembered(news) == self._remembered
            if not remembered:
                await make(tuple(news.tablets))
            self.news = news
            if not remembered:
                record = encode([msgspec.json.encode(news)], 0, 0)
                await self._disk.replace(FILE, b"".join(record))
                self._remembered = _remembered(news)
            return True


def _remembered(assign: Assign) -> tuple[object, ...]:
    """What of an assignment has to be on the disk."""
    return assign.map_version, assign.tablets, assign.peers


def _checked(assign: Assign) -> Assign:
    end = 0
    for tablet in sorted(assign.tablets, key=lambda tablet: tablet.lo):
        if not end <= tablet.lo < tablet.hi:
            raise BadAssignment(f"tablet {tablet.id} overlaps another one or is empty")
        end = tablet.hi
    if len({tablet.id for tablet in assign.tablets}) != len(assign.tablets):
        raise BadAssignment("a tablet is assigned twice")
    return assign
