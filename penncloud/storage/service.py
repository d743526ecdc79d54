"""What a connection asks of a storage server."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from penncloud.storage.watches import Watcher
from penncloud.wire.messages import (
    Get,
    Mutation,
    Reply,
    RequestId,
    Scan,
    ScanTablet,
    Unwatch,
    Watch,
)


class Service(Protocol):
    """What answers the requests: the server's tablets. They may raise DiskError and TabletDamaged."""

    def get(self, request: Get) -> Reply | Deferred[Reply]: ...

    def mutate(
        self, mutation: Mutation, request_id: RequestId | None
    ) -> Reply | Deferred[Reply]: ...

    def scan(self, request: Scan) -> Reply | Deferred[Reply]: ...

    def scan_tablet(self, request: ScanTablet) -> Reply | Deferred[Reply]: ...

    def watch(self, request: Watch, watcher: Watcher) -> Reply: ...

    def unwatch(self, request: Unwatch, watcher: Watcher) -> Reply: ...
