"""A lock for `async with`, for coroutines that may be thrown away before they end.

A simulated machine that loses its power is dropped with all its coroutines, and Python then closes these in
any order: the body of each `async with` is left by GeneratorExit. Twisted's lock would be handed on at
that moment, to a coroutine that may be closed already ("cannot reuse already awaited coroutine"), or to
one that would go on running on a machine that is no more. Nobody gets this one then.
"""

from __future__ import annotations

from types import TracebackType

from twisted.internet.defer import DeferredLock


class Exclusive:
    """One holder at a time, in the order of their asking."""

    def __init__(self) -> None:
        self._lock = DeferredLock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is not GeneratorExit:
            self._lock.release()
