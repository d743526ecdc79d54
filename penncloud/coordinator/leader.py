"""What only the leader does: writes registrations down, makes tablets, chooses primaries, tells servers.

`work` is called after every round of pings and, once per turn of the reactor, after every change. Whatever
it decides goes through the log by compare-and-set, so that a choice made on what was true a moment ago
changes nothing. It chooses where new tablets go, and moves tablets, only when it has led for a while:
until then what its predecessor chose by the same pings may still come.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.coordinator.assignments import Assignments
from penncloud.coordinator.commands import (
    Command,
    Configure,
    CreateTablets,
    Rejected,
    TabletRecord,
)
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.members import Members
from penncloud.coordinator.placing import Placing
from penncloud.coordinator.succession import first_tablets, next_configuration
from penncloud.placement.planner import Limits
from penncloud.platform import config
from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError

# A tablet that is being created waits so long for a server that lives and does not make it.
CREATION_PATIENCE_S: Final = 10.0
# Pause before a tablet whose primary lives gets another one: a primary that gives up each time at once
# must not fill the log.
RENEWAL_PAUSE_S: Final = 0.5
# What the leader may have under way at a time.
MAX_DECIDING: Final = 256


class Leader:
    """`copies`: how many members a new tablet has, if there are so many servers."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        role: config.Coordinator,
        copies: int,
        *,
        decisions: Decisions,
        members: Members,
        assignments: Assignments,
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._role = role
        self._copies = copies
        self._decisions = decisions
        self._members = members
        self._assignments = assignments
        limits = Limits(copies, role.repair_after_s, role.moves_at_once)
        self._placing = Placing(environment, limits, decisions, members, self.decide)
        # The term in which it began to lead, and when; leadership may be lost and won again between two
        # looks. 0: it does not lead.
        self._term = 0
        self._led_since = 0.0
        self._soon: Any = None
        self._stopped = False
        # What is being decided, by what it is about.
        self._deciding: set[str] = set()
        self._new_since: dict[int, float] = {}
        self._renewed_at: dict[int, float] = {}

    # -- when ------------------------------------------------------------------------------------

    def work_soon(self) -> None:
        """Something has changed."""
        if self._soon is None and not self._stopped and self._decisions.leads:
            self._soon = self._clock.callLater(0, self._work_now)

    def _work_now(self) -> None:
        self._soon = None
        self.work()

    def stop(self) -> None:
        self._stopped = True
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def work(self) -> None:
        """Do what is due; nothing on a coordinator that does not lead."""
        if not self._decisions.leads:
            self._term = 0
            return
        if self._term != self._decisions.term:
            self._term = self._decisions.term
            self._led_since = self._clock.seconds()
            self._assignments.forget_all()
            self._placing.forget()
        self._members.write_down_all()
        self._create_tablets()
        self._choose_primaries()
        if self.is_settled:
            self._placing.look()
        self._assignments.tell_all()

    def is_balanced(self) -> bool:
        """Whether no replica is missing, on its way, or going to be moved; also told by who does not lead."""
        return self._placing.is_balanced

    @property
    def is_settled(self) -> bool:
        """Whether everything that the predecessor may have chosen is certainly decided or lost."""
        if not self._term or self._term != self._decisions.term:
            return False
        patience = self._role.dead_after_missed * self._role.heartbeat_ms / 1000
        waited: float = self._clock.seconds() - self._led_since
        return waited >= patience + self._decisions.timing.election_s

    # -- tablets ---------------------------------------------------------------------------------

    def _create_tablets(self) -> None:
        """Cut the hash space once enough storage servers live."""
        if self._decisions.machine.state.tablets or not self.is_settled:
            return
        present = sorted(
            session.id
            for session in self._members.sessions.values()
            if session.role == "storage" and self._members.detector.state(session.id) == "live"
        )
        if len(present) >= self._role.expect_storage:
            tablets = first_tablets(self._role.initial_tablets, present, self._copies)
            self.decide("tablets", CreateTablets(self._environment.now(), tablets))

    def _choose_primaries(self) -> None:
        sight = self._members.sight()
        tablets = self._decisions.machine.state.tablets
        self._renewed_at = {n: at for n, at in self._renewed_at.items() if n in tablets}
        self._new_since = {n: at for n, at in self._new_since.items() if n in tablets}
        for record in list(tablets.values()):
            choice = next_configuration(record, sight, self._waited(record))
            if choice is None or not self._may_renew(record, sight.liveness(record.primary)):
                continue
            command = Configure(
                self._environment.now(),
                record.id,
                record.epoch,
                choice.primary,
                choice.members,
                choice.incarnation,
            )
            if self.decide(f"tablet {record.id}", command):
                self._renewed_at[record.id] = self._clock.seconds()
                self.log.info(
                    "tablet {tablet}: {primary} becomes primary in epoch {epoch}, after {before}",
                    tablet=record.id,
                    primary=choice.primary,
                    epoch=record.epoch + 1,
                    before=record.primary or "nobody",
                )

    def _waited(self, record: TabletRecord) -> bool:
        if not record.is_new:
            self._new_since.pop(record.id, None)
            return False
        now: float = self._clock.seconds()
        return now - self._new_since.setdefault(record.id, now) >= CREATION_PATIENCE_S

    def _may_renew(self, record: TabletRecord, liveness: str) -> bool:
        last = self._renewed_at.get(record.id)
        if last is None or liveness == "dead":
            return True
        now: float = self._clock.seconds()
        return now - last >= RENEWAL_PAUSE_S

    # -- deciding --------------------------------------------------------------------------------

    def decide(self, about: str, command: Command) -> bool:
        """Propose it in the background, one at a time about each thing; False when it has to wait."""
        if about in self._deciding or len(self._deciding) >= MAX_DECIDING:
            return False
        self._deciding.add(about)
        work = Deferred.fromCoroutine(self._decide(about, command))
        work.addErrback(self._not_decided, about)
        return True

    async def _decide(self, about: str, command: Command) -> None:
        try:
            result = await self._decisions.propose_here(command)
        finally:
            self._deciding.discard(about)
        if isinstance(result, Rejected):
            self.log.info("{about}: not applied: {text}", about=about, text=result.text)

    def _not_decided(self, failure: Failure, about: str) -> None:
        if failure.check(PennCloudError):
            why = failure.getErrorMessage()
            self.log.warn("{about}: not decided: {why}", about=about, why=why)
        else:
            self.log.failure("{about}: deciding", failure, about=about)
