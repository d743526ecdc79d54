"""Attempts to get in, which the workers of a frontend count together: the front has the count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from penncloud.platform.errors import PennCloudError
from penncloud.web.attempts import NAME_CHARACTERS, CountedHere
from penncloud.web.workers.words import Attempt, Counted, FromWorker, Legitimate

# The front answers at once, unless it hangs.
_PATIENCE_S: Final = 5.0
# Questions at a time: far more than passwords that are hashed at a time.
_MAX_WAITING: Final = 1000


class NotCounted(PennCloudError):
    """The front does not say whether somebody may try."""

    retryable = True


class CountedByFront:
    """`web.attempts.Attempts` of a worker. `say` brings our words to the front; `clock` has IReactorTime."""

    def __init__(self, say: Callable[[FromWorker], None], clock: Any) -> None:
        self._say = say
        self._clock = clock
        self._number = 0
        self._waiting: dict[int, Deferred[float]] = {}

    async def log_in(self, name: str, address: str) -> float:
        # A name that is none is one to count all the same; the empty one means signing up.
        return await self._ask(name[:NAME_CHARACTERS] or " ", address)

    async def sign_up(self, address: str) -> float:
        return await self._ask("", address)

    def was_legitimate(self, name: str, address: str) -> None:
        self._say(Legitimate(name[:NAME_CHARACTERS], address))

    def heard(self, word: Counted) -> None:
        """From the front."""
        waiting = self._waiting.pop(word.number, None)
        if waiting is not None:
            waiting.callback(word.wait_s)

    async def _ask(self, name: str, address: str) -> float:
        if len(self._waiting) >= _MAX_WAITING:
            raise NotCounted("too many attempts are being counted")
        self._number += 1
        number = self._number
        answer: Deferred[float] = Deferred()
        self._waiting[number] = answer
        self._say(Attempt(number, name, address))
        try:
            return await answer.addTimeout(_PATIENCE_S, self._clock)
        except DeferredTimeout as error:
            raise NotCounted("the attempts are not counted just now") from error
        finally:
            self._waiting.pop(number, None)


def count(attempts: CountedHere, word: Attempt) -> Counted:
    """The front's answer."""
    if word.name:
        return Counted(word.number, attempts.count_log_in(word.name, word.address))
    return Counted(word.number, attempts.count_sign_up(word.address))
