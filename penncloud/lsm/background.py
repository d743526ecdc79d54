"""Work on tablets in the background, one job at a time: the frame of flushes and compactions.

Theory of operation
    Whoever owns the work says which job is due (`choose`), does it (`work`) and judges how it went
    (`ended`). A job begins in a reactor turn of its own. Somebody may ask for a job on one tablet and
    wait for it; such tablets are offered to `choose` first. After a failure that may pass, nothing begins
    for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from penncloud.lsm.errors import NoSuchTablet, Overloaded

_J = TypeVar("_J")


class Background(Generic[_J]):
    """See the module.

    `choose(wanted)` gives a tablet and a job on it, one of the tablets in `wanted` if there are any, or
    None. `ended(job, failure)` judges each job, and returns whether to pause for `retry_s` seconds before
    the next; `after()` is called when all this is known.
    """

    def __init__(
        self,
        clock: Any,
        retry_s: float,
        *,
        choose: Callable[[Collection[int]], tuple[int, _J] | None],
        work: Callable[[_J], Coroutine[Any, Any, None]],
        ended: Callable[[_J, Failure | None], bool],
        after: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._retry_s = retry_s
        self._choose = choose
        self._work = work
        self._ended = ended
        self._after = after
        # A job is under way or about to begin.
        self.running = False
        # No more jobs begin.
        self.closed = False
        self._retry: IDelayedCall | None = None
        self._wanted: dict[int, list[Deferred[None]]] = {}
        self._idle: list[Deferred[None]] = []

    @property
    def pausing(self) -> bool:
        """Whether the last job has failed, and the next attempt is still to come."""
        return self._retry is not None

    def request(self, tablet: int) -> Deferred[None]:
        """Fire after a job on `tablet` that begins from now on; fails as that does."""
        if self.closed:
            return fail(Overloaded("the engine is closing"))
        waiter: Deferred[None] = Deferred()
        self._wanted.setdefault(tablet, []).append(waiter)
        self.check()
        return waiter

    def forget(self, tablet: int) -> None:
        """The tablet has been dropped."""
        for waiter in self._wanted.pop(tablet, []):
            waiter.errback(NoSuchTablet(tablet))

    def check(self) -> None:
        """Begin a job, in a turn of its own, if one is due."""
        if self.running or self.closed or self._retry is not None:
            return
        if self._choose(self._wanted) is not None:
            self.running = True
            self._clock.callLater(0, self._start)

    def _start(self) -> None:
        chosen = None if self.closed else self._choose(self._wanted)
        if chosen is None:
            self.running = False
            self._go_on()
            return
        tablet, job = chosen
        waiters = self._wanted.pop(tablet, [])
        d = Deferred.fromCoroutine(self._work(job))
        d.addBoth(self._finish, job, waiters)

    def _finish(self, result: Failure | None, job: _J, waiters: list[Deferred[None]]) -> None:
        failure = result if isinstance(result, Failure) else None
        self.running = False
        if self._ended(job, failure) and not self.closed:
            self._retry = self._clock.callLater(self._retry_s, self._try_again)
        self._after()
        self._go_on()
        for waiter in waiters:
            if failure is None:
                waiter.callback(None)
            else:
                waiter.errback(failure)

    def _try_again(self) -> None:
        self._retry = None
        self.check()

    def _go_on(self) -> None:
        self.check()
        if not self.running:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def close(self) -> Deferred[None]:
        """Begin no more jobs, refuse those that wait; fire when the one under way has ended."""
        self.closed = True
        wanted, self._wanted = self._wanted, {}
        for waiter in (waiter for waiters in wanted.values() for waiter in waiters):
            waiter.errback(Overloaded("the engine is closing"))
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        ended: Deferred[None] = Deferred()
        self._idle.append(ended)
        if not self.running:
            self._go_on()
        return ended
