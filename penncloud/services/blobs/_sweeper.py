"""The sweeper: goes round all owners' rows and collects, slowly and for ever.

It runs in every http node. The rounds of several nodes do not disturb each other (collection is
idempotent); jitter keeps them from walking in step. Within one node one row is collected at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError

# Between two rounds, and between two owners: the load on the store stays small however many there are.
ROUND_S: Final = 300.0
PAUSE_S: Final = 0.05

# Collects what one owner (an account's name) left behind.
Collect = Callable[[str], Awaitable[Any]]


class Sweeper:
    """Calls every one of `collects` for each name that `names()` gives, round after round."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        names: Callable[[], AsyncIterator[str]],
        collects: Sequence[Collect],
        *,
        round_s: float = ROUND_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._environment = environment
        self._names = names
        self._collects = collects
        self._round_s = round_s
        self._pause_s = pause_s
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Begin the rounds, the first one after a random part of the pause between rounds."""
        running = Deferred.fromCoroutine(self._run())
        running.addErrback(lambda failure: failure.trap(CancelledError))
        running.addErrback(lambda failure: self.log.failure("the sweeper died", failure))
        self._running = running

    def stop(self) -> None:
        """No more rounds; what is under way is dropped, which loses nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    async def sweep(self) -> None:
        """One round. An owner whose collection fails is left for the next one."""
        async for name in self._names():
            for collect in self._collects:
                try:
                    await collect(name)
                except (PennCloudError, msgspec.MsgspecError) as error:
                    self.log.warn("sweep of {name} put off: {error}", name=name, error=error)
            await self._sleep(self._pause_s)

    async def _run(self) -> None:
        while True:
            await self._sleep(self._round_s * self._environment.random.uniform(0.5, 1.5))
            try:
                await self.sweep()
            except PennCloudError as error:
                self.log.info("sweep put off: {error}", error=error)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._environment.reactor, seconds, lambda: None)
