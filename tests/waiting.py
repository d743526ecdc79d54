"""Waiting for what other processes do: the one place where tests look again and again, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# What has not come true by then will not, on a machine however busy. A test that passes does not wait for it.
PATIENCE_S: Final = 180
_LOOK_S = 0.05


def wait_until(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    within_s: float,
    look_s: float = _LOOK_S,
) -> None:
    """Return once `condition()`; AssertionError, saying `what` is missing, when it takes too long.

    `look_s`: the pause between two looks, longer for what is dear to ask.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(look_s)
