"""Large compactions in a child process (`merge_child`): the side of the server.

Measured on two busy cores: merging a tablet of 50 MB in small cells takes a second of CPU. In the reactor,
in slices, that halves what the server does meanwhile; in a child, requests go on at full rate while a core
is free.

The child reads tables, which never change, and writes a file that nothing names yet. When parent or child
are killed at any moment, that file is a left-over which the next start removes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred

from penncloud.lsm.errors import TableDamaged
from penncloud.lsm.merge_job import InputDamaged, Merged, MergeJob, MergeRequest, Refused
from penncloud.platform.child import Child, ChildFailed, spawn_child
from penncloud.platform.errors import DiskError, DiskFull

_CHILD: Final = "penncloud.lsm.merge_child"


class ProcessMerger:
    """See `compaction.Merger`. `reactor` has IReactorProcess; `directory` is the disk's."""

    def __init__(self, reactor: Any, directory: str) -> None:
        self._reactor = reactor
        self._directory = directory
        self._child: Child | None = None
        self._stopped = False

    def merge(self, job: MergeJob) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._merge(job))

    async def _merge(self, job: MergeJob) -> bool:
        if self._stopped:
            raise ChildFailed("stopping")
        request = msgspec.msgpack.encode(MergeRequest(self._directory, job))
        self._child = spawn_child(self._reactor, _CHILD, request)
        try:
            data = await self._child.answer
        finally:
            self._child = None
        match msgspec.msgpack.decode(data, type=Merged | InputDamaged | Refused):
            case InputDamaged(path, offset, reason):
                raise TableDamaged(path, offset, reason)
            case Refused(full, text):
                # Whatever went wrong with that file, it is thrown away: nothing has to be trusted.
                raise DiskFull(text) if full else DiskError(text)
            case Merged(written):
                pass
        return written

    def stop(self) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.kill()
