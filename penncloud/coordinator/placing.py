"""Carries out what `placement.planner` plans, on the leader: looks, plans, and puts the steps into the log.

What the plan needs to know of the past (since when a tablet has too few members, since when its
configuration is as it is) is this leader's own observation: another one begins to count anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from penncloud.coordinator.commands import Command, Configure, PlanReplicas, TabletRecord
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.members import Members
from penncloud.coordinator.succession import Sight
from penncloud.placement.planner import (
    Limits,
    MovePrimary,
    Replicas,
    Server,
    Step,
    is_balanced,
    plan,
)
from penncloud.platform.environment import Environment

# Pause between two plans: servers that have just been told of the last one have acted by then.
PLAN_PAUSE_S: Final = 0.5
# A server that has come back is given no more than what it held for so long.
STEADY_S: Final = 10.0

Decide = Callable[[str, Command], bool]


class Placing:
    """`decide` puts a command about a thing into the log, one at a time about each."""

    log = Logger()

    def __init__(
        self,
        environment: Environment,
        limits: Limits,
        decisions: Decisions,
        members: Members,
        decide: Decide,
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._limits = limits
        self._decisions = decisions
        self._members = members
        self._decide = decide
        self._next_at = 0.0
        self._short_since: dict[int, float] = {}
        # Tablet -> its epoch, and since when it is that.
        self._epochs: dict[int, tuple[int, float]] = {}

    def forget(self) -> None:
        """This coordinator begins to lead."""
        self._short_since.clear()
        self._epochs.clear()

    def look(self) -> None:
        """Plan, if it is time to."""
        now = self._clock.seconds()
        if now < self._next_at:
            return
        self._next_at = now + PLAN_PAUSE_S
        state = self._decisions.machine.state
        servers = self._servers(now)
        wanted = min(self._limits.copies, sum(not server.draining for server in servers))
        self._short_since = {
            record.id: self._short_since.get(record.id, now)
            for record in state.tablets.values()
            if len(record.members) < wanted
        }
        known = self._epochs
        self._epochs = {
            record.id: known[record.id]
            if record.id in known and known[record.id][0] == record.epoch
            else (record.epoch, now)
            for record in state.tablets.values()
        }
        sight = self._members.sight()
        for step in plan(servers, self._tablets(sight, now), self._limits):
            self._carry_out(step, state.tablets[step.tablet], sight)

    @property
    def is_balanced(self) -> bool:
        """Whether there are tablets, and no replica is missing, on its way, or going to be moved."""
        tablets = self._decisions.machine.state.tablets.values()
        if not tablets or any(record.is_new for record in tablets):
            return False
        now = self._clock.seconds()
        replicas = self._tablets(self._members.sight(), now)
        return is_balanced(self._servers(now), replicas, self._limits)

    def _tablets(self, sight: Sight, now: float) -> list[Replicas]:
        return [
            self._replicas(record, sight, now)
            for record in self._decisions.machine.state.tablets.values()
            if not record.is_new
        ]

    def _servers(self, now: float) -> list[Server]:
        found = []
        for record in self._decisions.machine.state.nodes.values():
            node_id = record.node.id
            if record.node.role != "storage":
                continue
            session = self._members.sessions.get(node_id)
            live = self._members.detector.state(node_id) != "dead"
            steady = live and session is not None and now - session.live_since >= STEADY_S
            found.append(Server(node_id, live, record.draining, steady))
        return found

    def _replicas(self, record: TabletRecord, sight: Sight, now: float) -> Replicas:
        tips = {
            one: seen.tips[record.id]
            for one, seen in sight.seen.items()
            if record.id in seen.tips and sight.liveness(one) != "dead"
        }
        usable = {member for member in record.members if sight.usable(record.id, member)}
        seen = sight.seen.get(record.primary)
        if seen is None or seen.incarnation != record.incarnation:
            usable.discard(record.primary)
        short_since = self._short_since.get(record.id)
        # Only the leader keeps both; who asks another coordinator whether all is balanced needs neither.
        _, as_it_is_since = self._epochs.get(record.id, (record.epoch, now))
        return Replicas(
            record.id,
            record.primary,
            tuple(record.members),
            tuple(record.learners),
            tuple(record.leaving),
            frozenset(usable),
            frozenset(one for one, tip in tips.items() if tip.version and not tip.damaged),
            max((tip.size_bytes for tip in tips.values()), default=0),
            0.0 if short_since is None else max(now - short_since, 0.001),
            now - as_it_is_since,
        )

    def _carry_out(self, step: Step, record: TabletRecord, sight: Sight) -> None:
        about, now = f"tablet {record.id}", self._environment.now()
        if isinstance(step, MovePrimary):
            incarnation = sight.seen[step.to].incarnation
            command: Command = Configure(
                now, record.id, record.epoch, step.to, record.members, incarnation
            )
            what = f"{step.to} becomes primary after {record.primary}"
        else:
            learners, leaving = list(step.learners), list(step.leaving)
            command = PlanReplicas(now, record.id, record.epoch, learners, leaving)
            what = f"to join: {' '.join(learners) or '-'}, to leave: {' '.join(leaving) or '-'}"
        if self._decide(about, command):
            self.log.info("{about}: {what}", about=about, what=what)
