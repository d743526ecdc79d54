"""What a primary asks of the coordinators: its next configuration, or what they have decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.platform.errors import PennCloudError
from penncloud.replication.messages import Configuration
from penncloud.rpc.registration import Assign, FetchAssignment, Propose, Proposed, Registration

# A proposal is said again by the replica until its outcome is known; one call at a time is enough.
CALL_S: Final = 2.0


class Proposals:
    """The calls of server `node_id`. `applied` is told of a configuration that was applied, `fetched`
    of the newest assignment."""

    log = Logger()

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        applied: Callable[[Configuration], None],
        fetched: Callable[[Assign], Awaitable[None]],
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._applied = applied
        self._fetched = fetched
        self._under_way: set[int] = set()
        self._fetching = False
        self._fetch_again = False
        # Set once the server registers; before that nothing is asked.
        self.registration: Registration | None = None

    def propose(self, configuration: Configuration) -> None:
        """Propose a tablet's next configuration, unless that is under way."""
        if self.registration is not None and configuration.group not in self._under_way:
            self._under_way.add(configuration.group)
            self._spawn(self._propose(self.registration, configuration), "a proposal")

    async def _propose(self, registration: Registration, wanted: Configuration) -> None:
        message = Propose(
            self._node_id,
            self._incarnation,
            wanted.group,
            wanted.cfg - 1,
            wanted.primary,
            wanted.incarnation,
            list(wanted.members),
        )
        try:
            answer = await registration.ask(message, Proposed, CALL_S)
        finally:
            self._under_way.discard(wanted.group)
        if answer.applied and answer.epoch == wanted.cfg:
            self._applied(wanted)
        else:
            self.log.info(
                "tablet {tablet}: configuration {cfg} is not applied: {why}",
                tablet=wanted.group,
                cfg=wanted.cfg,
                why=answer.text or f"it is at {answer.epoch}",
            )
            self.fetch()

    def fetch(self) -> None:
        """Ask for the newest assignment, once more if that is under way already."""
        if self.registration is None:
            return
        if self._fetching:
            self._fetch_again = True
            return
        self._fetching = True
        self._spawn(self._fetch(self.registration), "fetching the assignment")

    async def _fetch(self, registration: Registration) -> None:
        try:
            assign = await registration.ask(FetchAssignment(self._node_id), Assign, CALL_S)
            await self._fetched(assign)
        finally:
            self._fetching = False
        if self._fetch_again:
            self._fetch_again = False
            self.fetch()

    def _spawn(self, work: Any, what: str) -> None:
        Deferred.fromCoroutine(work).addErrback(self._failed, what)

    def _failed(self, failure: Failure, what: str) -> None:
        """The replica says it again; and an assignment comes by itself, only later."""
        if failure.check(PennCloudError):
            self.log.info("{what}: {why}", what=what, why=failure.getErrorMessage())
        else:
            self.log.failure("{what}", failure, what=what)
