"""How often something may be tried: a bounded memory of recent attempts by key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

_MAX_KEYS: Final = 10_000


class Throttle:
    """At most `attempts` per key within `window_s` seconds, counted from a key's first one.

    Attempts are counted before they are made, so that many at once do not slip through. When more
    keys than fit are in use, the one that was used longest ago is forgotten.
    """

    def __init__(
        self, clock: Any, attempts: int, window_s: float, max_keys: int = _MAX_KEYS
    ) -> None:
        self._clock = clock
        self._attempts = attempts
        self._window_s = window_s
        self._max_keys = max_keys
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def attempt(self, key: Hashable) -> float:
        """Count an attempt: 0.0 if it may be made, else the seconds to wait before the next."""
        now = self._clock.seconds()
        began, count = self._seen.get(key, (now, 0))
        if now - began >= self._window_s:
            began, count = now, 0
        if count >= self._attempts:
            self._seen.move_to_end(key)
            return float(began + self._window_s - now)
        self._seen[key] = (began, count + 1)
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        return 0.0

    def forgive(self, key: Hashable) -> None:
        """Forget all attempts of a key: the last one proves that they were legitimate."""
        self._seen.pop(key, None)

    def take_back(self, key: Hashable) -> None:
        """The last attempt of a key does not count: it was legitimate (others may not have been)."""
        began, count = self._seen.get(key, (0.0, 0))
        if count:
            self._seen[key] = (began, count - 1)
