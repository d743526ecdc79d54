"""A bounded pool for the few computations that block: password hashing, HTML sanitising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from penncloud.platform.errors import PennCloudError

_T = TypeVar("_T")


class PoolBusy(PennCloudError):
    """Too many computations wait already; nothing was done."""

    retryable: ClassVar[bool] = True


class BoundedPool:
    """At most `workers` calls run and `waiting` more wait; one beyond that is refused at once."""

    def __init__(self, reactor: Any, workers: int = 2, waiting: int = 64) -> None:
        self._reactor = reactor
        self._limit = workers + waiting
        self._pending = 0
        self._pool = ThreadPool(minthreads=0, maxthreads=workers, name="penncloud")

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        self._pool.stop()

    def __call__(self, f: Callable[..., _T], *args: Any, **kwargs: Any) -> Deferred[_T]:
        if self._pending >= self._limit:
            return fail(PoolBusy("too many computations wait already"))
        self._pending += 1
        result: Deferred[_T] = deferToThreadPool(self._reactor, self._pool, f, *args, **kwargs)

        def done(value: Any) -> Any:
            self._pending -= 1
            return value

        return result.addBoth(done)
