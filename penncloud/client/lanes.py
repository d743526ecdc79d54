"""Request ids that make mutations exactly-once.

A *lane* is one `client` name of RQID with one mutation under way at a time: its numbers reach the store
one after the other, so that a retry can never fall behind the window which the store remembers. As many
lanes exist as mutations ever ran at once.
"""

from __future__ import annotations

from attrs import define

from penncloud.platform.errors import PennCloudError
from penncloud.wire.messages import RequestId

MAX_LANES = 4096


class TooManyMutations(PennCloudError):
    """More mutations are under way than one client may have."""

    retryable = True


@define(eq=False)
class Lane:
    """`next_id` names the next mutation; its retries use the same id."""

    name: bytes
    seq: int = 0

    def next_id(self) -> RequestId:
        self.seq += 1
        return RequestId(self.name, self.seq)


class Lanes:
    """The lanes of one client run, whose name nobody else may have."""

    def __init__(self, client: bytes) -> None:
        self._client = client
        self._made = 0
        self._free: list[Lane] = []

    def take(self) -> Lane:
        """A lane that nobody uses. Raises TooManyMutations."""
        if self._free:
            return self._free.pop()
        if self._made >= MAX_LANES:
            raise TooManyMutations(f"{MAX_LANES} mutations are under way")
        self._made += 1
        return Lane(b"%b.%d" % (self._client, self._made))

    def give_back(self, lane: Lane) -> None:
        """For use by the next mutation, whatever became of the last one."""
        self._free.append(lane)
