"""Messages that were given up: their text goes, so nobody may come to refer to it any more.

A message's text and those who refer to it lie in different rows. Before the reclaimer removes a text it
puts `given-up/MESSAGE` into the row of everybody for whom it was written, and only then looks whether they
refer to it. Whoever makes a reference does so on the condition that there is no such mark. Both are in one
row, so one of them is first: either the reclaimer sees the reference and keeps the text, or the reference is
not made, and nobody is told that the message was taken. No clock has a part in this: age only decides what
is worth a look. (It has in forgetting the marks, after a month.)
"""

from __future__ import annotations

from typing import ClassVar, Final

from penncloud.client.table import IfVersion, Table, delete_all
from penncloud.platform.errors import PennCloudError

# Marks are kept so long after their message was begun (seconds); then no writer of it can be left.
KEEP_S: Final = 30 * 86_400.0

_PREFIX: Final = b"given-up/"


class GivenUp(PennCloudError):
    """The message took so long that its text was removed. It was not sent: it has to be sent again."""

    retryable: ClassVar[bool] = True


def unless_given_up(message_id: str) -> IfVersion:
    """The condition of whatever mutation makes its row refer to a message."""
    return IfVersion(_col(message_id), 0)


async def is_given_up(table: Table, row: bytes, message_id: str) -> bool:
    """Whether this row can never come to refer to the message. Tells a Conflict's cause."""
    return await table.get(row, _col(message_id)) is not None


async def give_up(table: Table, row: bytes, message_id: str) -> None:
    """From now on this row cannot come to refer to the message; it may do so already."""
    await table.put(row, _col(message_id), b"")


async def forget(table: Table, row: bytes, now: float) -> None:
    """Drop the old marks of a row; `now` in Unix seconds."""
    # The ids of messages begin with the time at which they were made, see `Bodies.new_id`.
    stop = _col(f"{max(0, int((now - KEEP_S) * 1000)):011x}")
    await delete_all(table, row, _PREFIX, stop)


def _col(message_id: str) -> bytes:
    return _PREFIX + message_id.encode()
