"""The requests of one connection on their way to the service, and what goes wrong there as replies.

Whatever is logged meanwhile bears the id of what the request is done for (`platform.trace`).
"""

from __future__ import annotations

from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.errors import TabletDamaged
from penncloud.platform import trace
from penncloud.platform.errors import DiskError
from penncloud.storage.pushes import Pushes
from penncloud.storage.service import Service
from penncloud.wire.messages import (
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Error,
    Get,
    Map,
    Mutate,
    Mutation,
    Put,
    Reply,
    Request,
    RequestId,
    Scan,
    ScanTablet,
    Unknown,
    Unwatch,
    Watch,
    Where,
)

MUTATIONS: Final = frozenset((Put, CompareAndPut, CompareVersionAndPut, Delete, Mutate))


class Dispatch:
    """Asks the service; watches are asked of `pushes`. A `trace_id` is "" where there is none."""

    log = Logger()

    def __init__(self, service: Service, pushes: Pushes) -> None:
        self._service = service
        self._pushes = pushes

    def get(self, request: Get, trace_id: str) -> Reply | Deferred[Reply]:
        """The same as `ask`, in fewer steps: most requests are reads of a cell."""
        try:
            if trace_id:
                with trace.working_for(trace_id):
                    return self._service.get(request)
            return self._service.get(request)
        except (DiskError, TabletDamaged) as error:
            with trace.working_for(trace_id):
                return self._unreadable("Get", error)

    def ask(
        self, request: Request, trace_id: str, request_id: RequestId | None = None
    ) -> Reply | Deferred[Reply]:
        """The answer to a request; only one to a mutation has a request id."""
        if trace_id:
            with trace.working_for(trace_id):
                return self._asked(request, request_id)
        return self._asked(request, request_id)

    def failed(self, failure: Failure, kind: str, trace_id: str, transport: Any) -> Reply:
        """What to answer to a request of `kind` whose Deferred has failed; it came over `transport`."""
        error = failure.value
        with trace.working_for(trace_id):
            if isinstance(error, DiskError | TabletDamaged):
                return self._unreadable(kind, error)
            self.log.failure("a request of {peer}", failure, peer=transport.getPeer())
        return Unknown()

    def _asked(self, request: Request, request_id: RequestId | None) -> Reply | Deferred[Reply]:
        try:
            if type(request) in MUTATIONS:
                return self._service.mutate(cast(Mutation, request), request_id)
            return self._looked_up(request)
        except (DiskError, TabletDamaged) as error:
            return self._unreadable(type(request).__name__, error)

    def _looked_up(self, request: Request) -> Reply | Deferred[Reply]:
        match request:
            case Get():
                return self._service.get(request)
            case Scan():
                return self._service.scan(request)
            case ScanTablet():
                return self._service.scan_tablet(request)
            case Watch(row):
                return self._pushes.watch(row)
            case Unwatch(row):
                return self._pushes.unwatch(row)
            case Where() | Map():
                return Error("COMMAND", "WHERE and MAP are answered by coordinators")
            case _:
                raise AssertionError(f"{request} is no request of its own")

    def _unreadable(self, kind: str, error: DiskError | TabletDamaged) -> Reply:
        if isinstance(error, TabletDamaged):
            # Logged where it was found, once: not again for every request that meets it.
            return Error("DAMAGED", str(error))
        self.log.error("{kind}: {error}", kind=kind, error=error)
        return Error("DISK", "the disk cannot give the cells")
