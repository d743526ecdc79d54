"""What the coordinators assigned to this server, remembered durably.

A server that comes back serves its tablets at once, whether or not a coordinator is there to ask. The
file is JSON, replaced as a whole before an assignment is answered:

    {"map_version": 3, "tablets": [{"id": 1, "lo": 0, "hi": 715827882, "epoch": 1, "primary": ..., ...}]}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec
from twisted.internet.defer import DeferredLock

from penncloud.platform.disk import Disk
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.registration import Assign, TabletAssignment

FILE: Final = "assignment.json"

Tablets: TypeAlias = tuple[TabletAssignment, ...]


class BadAssignment(PennCloudError):
    """The file, or what a coordinator sent, is no assignment."""


class Assignment:
    """The assignment that this server acts on."""

    def __init__(self, disk: Disk) -> None:
        """Read the file, where there is one. Raises BadAssignment."""
        self._disk = disk
        # Several coordinators may send at once.
        self._one_at_a_time = DeferredLock()
        self.map_version = 0
        self.tablets: Tablets = ()
        if disk.exists(FILE):
            try:
                kept = msgspec.json.decode(disk.read(FILE), type=Assign)
            except msgspec.DecodeError as error:
                raise BadAssignment(f"{FILE}: {error}") from error
            self._take(_checked(kept))

    async def update(self, news: Assign, make: Callable[[Tablets], Awaitable[None]]) -> bool:
        """Remember `news` durably and act on it; False when it is older than what is known.

        `make` makes those tablets that are new, durably, before they are remembered: whatever the file
        names was there. Raises BadAssignment for one whose tablets overlap, what `make` raises, and
        DiskError.
        """
        async with self._one_at_a_time:
            if news.map_version < self.map_version:
                return False
            tablets = tuple(_checked(news).tablets)
            if (news.map_version, tablets) != (self.map_version, self.tablets):
                await make(tablets)
                await self._disk.replace(FILE, msgspec.json.encode(news))
                self._take(news)
            return True

    def _take(self, assign: Assign) -> None:
        self.map_version = assign.map_version
        self.tablets = tuple(assign.tablets)


def _checked(assign: Assign) -> Assign:
    end = 0
    for tablet in sorted(assign.tablets, key=lambda tablet: tablet.lo):
        if not end <= tablet.lo < tablet.hi:
            raise BadAssignment(f"tablet {tablet.id} overlaps another one or is empty")
        end = tablet.hi
    if len({tablet.id for tablet in assign.tablets}) != len(assign.tablets):
        raise BadAssignment("a tablet is assigned twice")
    return assign
