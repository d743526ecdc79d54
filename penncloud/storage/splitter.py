"""Tablets that have grown too large are cut in two, while their clients notice little.

How a split goes
    1. The primary hints at it in the log: every member makes a checkpoint, so that little is left to be
       flushed later, while everything would wait. It picks the hash that cuts
       the tablet in about equal halves, and has two tablet ids reserved that nobody else gets.
    2. It writes the split into the tablet's log (`split`), like any write, and decides no further mutation:
       the entry is the last one that changes anything. Clients are told to come again; reads go on.
    3. When it is committed every member has it. The primary, or whoever is primary after it, asks the
       coordinators for the two tablets in the place of the one, by compare-and-set on its configuration,
       until they have them.
    4. Every server that has the entry cuts its copy when it hears of the two (`Replicas.make`).
    5. The two share the files of the one. Each is compacted a while later, one at a time, so that it has
       only what is its own: that is what another server would fetch.

`docs/replication.md` says why nothing is lost, whoever dies in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.lsm.engine import Engine
from penncloud.platform.errors import PennCloudError
from penncloud.rpc.registration import Proposed, ProposeSplit, Reserved, ReserveTablets
from penncloud.storage.member import Member
from penncloud.storage.proposals import CALL_S
from penncloud.storage.replicas import Replicas

# How often tablets are looked at: a split under way is pushed on, a large tablet begins one.
LOOK_S: Final = 0.1
# How long the members have for the checkpoint that the hint asks for.
HINT_S: Final = 2.0
# How often a tablet that shares files is compacted, if there is one.
TRIM_S: Final = 5.0
# A tablet that cannot be cut (nearly all of it is one row) is looked at again when it has grown by so much.
_GROWN: Final = 1.25

# `Registration.ask`, once there is one.
Ask = Callable[[Any, type[Any], float], Awaitable[Any]]


class Splitter:
    """See the module. `incarnation` is this process's, `ask` asks the coordinators."""

    log = Logger()

    def __init__(
        self, node_id: str, clock: Any, engine: Engine, replicas: Replicas, split_bytes: int
    ) -> None:
        self._node_id = node_id
        self._clock = clock
        self._engine = engine
        self._replicas = replicas
        self._split_bytes = split_bytes
        self._incarnation = 0
        self._ask: Ask | None = None
        # The tablet that is being brought to its split, and those whose split is being told.
        self._beginning: Member | None = None
        self._telling: set[int] = set()
        # Sizes at which tablets could not be cut.
        self._in_vain: dict[int, int] = {}
        self._trimming = False
        self._trim_at = 0.0
        self._beat = LoopingCall(self._look)
        self._beat.clock = clock
        # Since the start.
        self.splits = 0

    def start(self, incarnation: int, ask: Ask) -> None:
        """Look from now on."""
        self._incarnation = incarnation
        self._ask = ask
        self._start_beat()

    def _start_beat(self) -> None:
        self._beat.start(LOOK_S, now=False).addErrback(self._beat_failed)

    def _beat_failed(self, failure: Failure) -> None:
        self.log.failure("looking for tablets to split failed; it goes on", failure)
        self._start_beat()

    def stop(self) -> None:
        """Begin nothing more."""
        if self._beat.running:
            self._beat.stop()

    def _look(self) -> None:
        largest: Member | None = None
        for member in self._replicas.members.values():
            if not member.tablet.serving:
                continue
            if member.tablet.agreed_split is not None:
                if member.id not in self._telling:
                    self._telling.add(member.id)
                    self._spawn(self._tell(member), member)
            elif self._is_due(member) and (
                largest is None or member.size_bytes > largest.size_bytes
            ):
                largest = member
        if largest is not None and self._beginning is None:
            self._beginning = largest
            self._spawn(self._begin(largest), largest)

        self._trim()

    def _trim(self) -> None:
        now = self._clock.seconds()
        if self._trimming or now < self._trim_at:
            return
        self._trim_at = now + TRIM_S
        self._in_vain = {
            n: size for n, size in self._in_vain.items() if n in self._replicas.members
        }
        for member in self._replicas.members.values():
            number = member.id
            if member.blank or not self._engine.has(number) or self._engine.damage(number):
                continue
            if self._engine.reaches_out(number):
                self._trimming = True
                self._engine.compact(number).addBoth(self._trimmed, number)
                return

    def _trimmed(self, result: object, tablet: int) -> None:
        self._trimming = False
        self._trim_at = self._clock.seconds() + TRIM_S
        if isinstance(result, Failure):
            why = result.getErrorMessage()
            self.log.info("tablet {tablet} is not trimmed now: {why}", tablet=tablet, why=why)

    def _is_due(self, member: Member) -> bool:
        size = member.size_bytes
        if size <= self._split_bytes or member.tablet.frozen or member.tablet.damage:
            return False
        return size > self._in_vain.get(member.id, 0) * _GROWN

    async def _begin(self, member: Member) -> None:
        try:
            if not member.tablet.hint_at_split():
                return
            await deferLater(self._clock, HINT_S)
            await self._engine.checkpoint(member.id)
            at = self._engine.split_point(member.id)
            if at is None:
                self._in_vain[member.id] = member.size_bytes
                self.log.info("tablet {tablet} is one large row: not split", tablet=member.id)
                return
            assert self._ask is not None
            reserved = await self._ask(ReserveTablets(2), Reserved, CALL_S)
            if self._is_due(member) and member.tablet.begin_split(at, reserved.first):
                self.log.info(
                    "tablet {tablet} ({size} bytes) is split at {at} into {low} and {high}",
                    tablet=member.id,
                    size=member.size_bytes,
                    at=at,
                    low=reserved.first,
                    high=reserved.first + 1,
                )
        finally:
            self._beginning = None

    async def _tell(self, member: Member) -> None:
        try:
            split, config = member.tablet.agreed_split, member.replica.config
            if split is None or config is None:
                return
            assert self._ask is not None
            wanted = ProposeSplit(
                self._node_id,
                self._incarnation,
                member.id,
                config.cfg,
                split.at,
                split.low,
                split.high,
            )
            answer = await self._ask(wanted, Proposed, CALL_S)
            if answer.applied:
                self.splits += 1
            else:
                self.log.warn(
                    "tablet {tablet}: the split at configuration {cfg} is not applied: {why}",
                    tablet=member.id,
                    cfg=config.cfg,
                    why=answer.text or f"it is at {answer.epoch}",
                )
            self._replicas.ask()
        finally:
            self._telling.discard(member.id)

    def _spawn(self, work: Any, member: Member) -> None:
        Deferred.fromCoroutine(work).addErrback(self._failed, member)

    def _failed(self, failure: Failure, member: Member) -> None:
        """It is tried again with the next look."""
        if failure.check(PennCloudError):
            why = failure.getErrorMessage()
            self.log.info("splitting tablet {tablet}: {why}", tablet=member.id, why=why)
        else:
            self.log.failure("splitting tablet {tablet}", failure, tablet=member.id)
