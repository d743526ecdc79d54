"""An OpenSSL context made of files, and made again when they have changed.

Before each new connection the files are looked at (a `stat` each): one that has changed makes all of them be
read again, so that a renewed certificate is in use at the next connection, without a restart. What cannot be
used, because it is being written or does not match, is logged once for each change; the last good one stays.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Final

from OpenSSL import SSL
from twisted.logger import Logger

from penncloud.platform.errors import ConfigurationError

# (mtime, inode, size) of each file.
_Stamp = tuple[tuple[int, int, int], ...]


class Reloading(ABC):
    """`context` for each new connection; `paths` are the files that it is made of."""

    log: Final = Logger()

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._context: SSL.Context | None = None
        self._stamp: _Stamp | None = None

    @abstractmethod
    def load(self) -> SSL.Context:
        """A context from the files. Raises ConfigurationError."""

    def context(self) -> SSL.Context:
        """The files as they are now. Raises ConfigurationError when they were never any good."""
        try:
            stamp = self._look()
            if self._context is None or stamp != self._stamp:
                # Remembered also for files that are no good: each change is tried, and logged, once.
                self._stamp = stamp
                again = self._context is not None
                self._context = self.load()
                if again:
                    self.log.info("{path} was read again", path=self._paths[-1])
        except ConfigurationError as error:
            if self._context is None:
                raise
            self.log.error("{error}: going on with what was read before", error=str(error))
        return self._context

    def _look(self) -> _Stamp:
        try:
            found = [os.stat(path) for path in self._paths]
        except OSError as error:
            if self._context is not None and self._stamp is not None:
                # A file that is being replaced: the next connection looks again.
                return self._stamp
            raise ConfigurationError(f"{error.filename}: {error.strerror}") from error
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found)


def ssl_reason(error: BaseException) -> str:
    """What OpenSSL's error queue says, for people."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, list | tuple) and queue and isinstance(queue[-1], tuple):
        reasons = [str(entry[-1]) for entry in queue if entry[-1]]
        if reasons:
            return "; ".join(dict.fromkeys(reasons))
    return "it is not usable (no PEM, or a key that does not match)"
