"""One worker, as seen from inside: does what the front says, until that is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.errors import ConfigurationError
from penncloud.platform.metrics import families_of
from penncloud.web.attempts import Attempts
from penncloud.web.serving import Serving
from penncloud.web.site import GRACE_S
from penncloud.web.workers.attempts import CountedByFront
from penncloud.web.workers.words import (
    Begin,
    Counted,
    Failed,
    FromWorker,
    Report,
    Reported,
    Retire,
    Serves,
    ToWorker,
    UseCoordinators,
)


class Workplace(Protocol):
    """The process that a worker lives in."""

    async def build(self, begin: Begin, attempts: Attempts) -> tuple[Serving, CollectorRegistry]:
        """What it serves. Raises ConfigurationError."""
        ...

    async def listen(self, factory: Any) -> IListeningPort:
        """Accept from the inherited socket."""
        ...

    def leave(self, failed: bool) -> None:
        """End the process; all is closed."""
        ...


class Worker:
    """Answers the front's words. `say` brings ours to it; `clock` has IReactorTime."""

    log = Logger()

    def __init__(self, workplace: Workplace, say: Callable[[FromWorker], None], clock: Any) -> None:
        self._workplace = workplace
        self._attempts = CountedByFront(say, clock)
        self._say = say
        self._serving: Serving | None = None
        self._registry: CollectorRegistry | None = None
        self._beginning: Deferred[None] | None = None
        self._is_ending = False
        self._has_ended = False
        self._awaiting_end: list[Deferred[None]] = []

    def heard(self, word: ToWorker) -> None:
        """From the front."""
        if isinstance(word, Begin):
            if self._beginning is None:
                self._beginning = Deferred.fromCoroutine(self._begin(word))
                self._beginning.addErrback(self._cannot)
        elif isinstance(word, UseCoordinators):
            if self._serving is not None:
                self._serving.use_coordinators(word.addresses)
        elif isinstance(word, Retire):
            self.end(word.within_s, patient=word.patient)
        elif isinstance(word, Counted):
            self._attempts.heard(word)
        elif isinstance(word, Report):
            families = [] if self._registry is None else families_of(self._registry)
            self._say(Reported(families))

    def end(self, within_s: float = GRACE_S, *, patient: bool = False) -> Deferred[None]:
        """Accept no more, finish, and leave; fires when all is closed. Called again it may only hasten."""
        ending = Deferred.fromCoroutine(self._end(within_s, patient))
        ending.addErrback(lambda failure: self.log.failure("a worker's end", failure))
        return ending

    async def _begin(self, begin: Begin) -> None:
        serving, self._registry = await self._workplace.build(begin, self._attempts)
        self._serving = serving
        await serving.start(self._workplace.listen)
        serving.use_coordinators(begin.coordinators)
        await serving.prepare()
        if not self._is_ending:
            self._say(Serves())

    def _cannot(self, failure: Failure) -> None:
        if failure.check(ConfigurationError):
            self._say(Failed(str(failure.value)))
        else:
            self.log.failure("a worker cannot begin", failure)
            self._say(Failed(failure.getErrorMessage()))
        self._workplace.leave(failed=True)

    async def _end(self, within_s: float, patient: bool) -> None:
        is_first, self._is_ending = not self._is_ending, True
        if self._serving is not None:
            await self._serving.stop(within_s, patient=patient)
        if not is_first:
            if not self._has_ended:
                ended: Deferred[None] = Deferred()
                self._awaiting_end.append(ended)
                await ended
            return
        if self._serving is not None:
            await self._serving.stop_links()
        self._has_ended = True
        for waiting in self._awaiting_end:
            waiting.callback(None)
        self._workplace.leave(failed=False)
