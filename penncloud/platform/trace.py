"""The id of the request which the present code works for.

A balancer or frontend gives every request of a client an id, tells it in the answer (`X-Request-Id`) and
hands it on to the storage servers (`TRAC` of the wire protocol). It follows the work through coroutines by
a context variable, so that nothing in between has to pass it on; the logs show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

_current: Final[ContextVar[str]] = ContextVar("penncloud_request", default="")

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RANDOM_BYTES: Final = 8


def current() -> str:
    """The id of the request that is worked for, "" for none."""
    return _current.get()


def is_id(text: str) -> bool:
    """Whether a text may be an id: 1 to 64 letters, digits, `.`, `_` and `-`."""
    return _ID.fullmatch(text) is not None


def new_id(entropy: Callable[[int], bytes]) -> str:
    """A fresh id."""
    return entropy(_RANDOM_BYTES).hex()


@contextmanager
def working_for(request_id: str) -> Iterator[None]:
    """What is begun within works for this request; also what goes on later of coroutines begun here."""
    token = _current.set(request_id)
    try:
        yield
    finally:
        # A coroutine that waits for ever is thrown away in another context: nothing is to be undone there.
        with suppress(ValueError):
            _current.reset(token)
