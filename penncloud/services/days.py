"""Days under which rows remember what was done, so that it is done once."""

from __future__ import annotations

from typing import Final

# What was done is remembered for today and so many days before.
REMEMBER_DAYS: Final = 2
_DAY_S: Final = 86_400


def today(now: float) -> int:
    """The day of a Unix time, in days since 1970."""
    return int(now // _DAY_S)


def days_to_look(now: float) -> range:
    """Where something that was done may be remembered.

    Also under tomorrow: whoever did it may have another clock, and ours may have been set back.
    """
    day = today(now)
    return range(day - REMEMBER_DAYS, day + 2)
