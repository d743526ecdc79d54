"""The queue runner: takes what is due, sends it, and says what becomes of it.

Theory of operation
    A shard of the queue is looked at when it changed (watch), when its next item is due, and now and
    then in any case. What is due is claimed (a lease, see services.mail.queue) and worked on, a bounded
    number at once, and of one domain only a few. While an item is worked on its lease is renewed;
    if that fails for too long the work stops before the point of no return, and another node goes on.

    After an attempt each recipient is done (gone from the item), refused (a report to the sender) or
    put off (the item comes back later, at growing intervals, until it is too old). The report is filed
    before those refused leave the item, under a token of theirs: a crash in between repeats it without
    effect.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, Counter, Gauge
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from penncloud.client.table import Unavailable, Watching
from penncloud.platform import trace
from penncloud.platform.environment import Environment
from penncloud.services.mail.bodies import Bodies, NoSuchMessage
from penncloud.services.mail.outbox import Outbox
from penncloud.services.mail.queue import (
    RENEW_S,
    SHARDS,
    Claimed,
    Item,
    LeaseLost,
    Queue,
    Recipient,
)
from penncloud.services.mail.reclaim import Reclaimer
from penncloud.smtp.client import Answer, Job
from penncloud.smtp.dsn import Reports
from penncloud.smtp.relay import Relay, Verdict

# Due items looked at per shard and look.
_LOOK_AT = 100
# Seconds after which a shard is looked at although nothing told us to, and between reclaiming rounds.
_LOOK_AGAIN_S = 30.0
_RECLAIM_S = 3600.0
# Attempts to record what became of an item, while we hold its lease.
_SETTLE_ATTEMPTS = 20
# Seconds that stopping waits for conversations under way.
_STOP_S = 10.0


@frozen
class Schedule:
    """When a message is tried again, told of, given up. Seconds since it was queued or last tried."""

    retry_s: Sequence[float] = (60, 300, 900, 1800, 3600, 7200, 14400)
    delay_notice_s: float = 4 * 3600.0
    expire_s: float = 4 * 86400.0

    def pause_s(self, attempts: int, jitter: float) -> float:
        """The pause after so many attempts (1 or more), the last one of the list for all later ones."""
        step = self.retry_s[min(attempts, len(self.retry_s)) - 1]
        return step * (0.9 + 0.2 * jitter)


@frozen
class Bounds:
    """Items worked on at the same time, in all and of one domain."""

    at_once: int = 20
    per_domain: int = 4


@define(eq=False)
class QueueRunner:
    """Runs the queue from start() to stop()."""

    _environment: Environment
    _queue: Queue
    _bodies: Bodies
    _outbox: Outbox
    _relay: Relay
    _reports: Reports
    _reclaimer: Reclaimer
    _registry: CollectorRegistry
    schedule: Schedule = field(factory=Schedule)
    bounds: Bounds = field(factory=Bounds)

    _is_running: bool = field(default=False, init=False)
    _watches: list[Watching] = field(factory=list, init=False)
    _dirty: set[int] = field(factory=lambda: set(range(SHARDS)), init=False)
    _blocked: set[int] = field(factory=set, init=False)
    _active: dict[str, str] = field(factory=dict, init=False)
    _timers: dict[int, Any] = field(factory=dict, init=False)
    _looking: bool = field(default=False, init=False)
    _idle: list[Deferred[None]] = field(factory=list, init=False)
    _reclaiming: LoopingCall | None = field(default=None, init=False)
    _round: Deferred[None] | None = field(default=None, init=False)
    _attempts: Counter = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self._attempts = Counter(
            "penncloud_smtp_relay_recipients",
            "Recipients by what became of them in one attempt.",
            ["outcome"],
            registry=self._registry,
        )
        Gauge(
            "penncloud_smtp_relay_active", "Queue items worked on.", registry=self._registry
        ).set_function(lambda: len(self._active))

    def start(self) -> None:
        self._is_running = True
        for shard in range(SHARDS):
            self._watches.append(self._queue.watch(shard, lambda _, n=shard: self._changed(n)))
        self._reclaiming = LoopingCall(self._reclaim)
        self._reclaiming.clock = self._environment.reactor
        self._reclaiming.start(_RECLAIM_S * self._environment.random.uniform(0.8, 1.2), now=False)

    async def stop(self) -> None:
        """Claim nothing more, and wait a little for what is worked on.

        What is not done by then is not lost: its leases run out, and another node goes on.
        """
        self._is_running = False
        for watch in self._watches:
            watch.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._reclaiming is not None and self._reclaiming.running:
            self._reclaiming.stop()
        if self._round is not None:
            # It goes on where the store is away: it would, one thing after the other, without an end.
            self._round.cancel()
        if self._active:
            waiting: Deferred[None] = Deferred()
            self._idle.append(waiting)
            waiting.addTimeout(_STOP_S, self._environment.reactor)
            waiting.addErrback(lambda failure: failure.trap(DeferredTimeout))
            await waiting

    # -- looking -----------------------------------------------------------------------------------

    def _changed(self, shard: int) -> None:
        self._dirty.add(shard)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._is_running and not self._looking:
            self._looking = True
            # After the present call, so that several changes are one look.
            self._environment.reactor.callLater(0, self._look)

    def _look(self) -> None:
        work = Deferred.fromCoroutine(self._look_at_all())
        work.addErrback(lambda failure: self.log.failure("looking at the queue", failure))

    async def _look_at_all(self) -> None:
        try:
            while self._dirty and self._is_running:
                await self._look_at(self._dirty.pop())
        finally:
            self._looking = False

    async def _look_at(self, shard: int) -> None:
        again_s = _LOOK_AGAIN_S
        try:
            busy = self._busy_domains()
            if busy:
                self._blocked.add(shard)
            free, again = await self._queue.due(shard, _LOOK_AT, busy)
            for item, version in free:
                if not await self._begin(item, version):
                    self._blocked.add(shard)
            if again is not None:
                again_s = min(again_s, max(0.05, again - self._environment.now()))
        except Unavailable as error:
            self.log.info("queue shard {shard} not read: {error}", shard=shard, error=str(error))
            again_s = 2.0
        finally:
            self._look_later(shard, again_s)

    def _look_later(self, shard: int, seconds: float) -> None:
        old = self._timers.pop(shard, None)
        if old is not None and old.active():
            old.cancel()
        if self._is_running:
            later = self._environment.reactor.callLater
            self._timers[shard] = later(seconds, self._timer_fired, shard)

    def _timer_fired(self, shard: int) -> None:
        self._timers.pop(shard, None)
        self._changed(shard)

    def _busy_domains(self) -> set[str]:
        """Domains that have as many conversations as one may have."""
        tally = Tally(domain for domain in self._active.values() if domain)
        return {domain for domain, count in tally.items() if count >= self.bounds.per_domain}

    async def _begin(self, item: Item, version: int) -> bool:
        """Claim and start an item; False when there is no room for it now."""
        if item.id in self._active or not self._is_running:
            return True
        if len(self._active) >= self.bounds.at_once or item.domain in self._busy_domains():
            return False
        self._active[item.id] = item.domain
        try:
            claimed = await self._queue.claim(item, version)
        except BaseException:
            self._ended(item)
            raise
        if claimed is None:
            self._ended(item)
            return True
        work = Deferred.fromCoroutine(self._work(claimed))
        work.addErrback(self._failed, item).addBoth(lambda _: self._ended(item))
        return True

    def _ended(self, item: Item) -> None:
        self._active.pop(item.id, None)
        self._dirty |= self._blocked
        self._blocked.clear()
        if not self._active:
            waiting, self._idle = self._idle, []
            for each in waiting:
                if not each.called:
                    each.callback(None)
        if self._dirty:
            self._look_soon()

    def _failed(self, failure: Failure, item: Item) -> None:
        """The lease runs out, and the item is taken up again."""
        if failure.check(LeaseLost):
            self.log.info("{id} was taken over by another node", id=item.id)
        elif failure.check(Unavailable):
            self.log.warn("{id} put off: {error}", id=item.id, error=failure.getErrorMessage())
        else:
            self.log.failure("queue item {id}", failure, id=item.id)

    # -- one item ----------------------------------------------------------------------------------

    async def _work(self, claimed: Claimed) -> None:
        keeper = _LeaseKeeper(self._environment, self._queue, claimed)
        keeper.start()
        try:
            with trace.working_for(claimed.item.message_id):
                if claimed.item.domain:
                    await self._send(claimed, keeper)
                else:
                    await keeper.last_word(lambda: self._outbox.carry_out(claimed))
        finally:
            keeper.stop()

    async def _send(self, claimed: Claimed, keeper: _LeaseKeeper) -> None:
        item = claimed.item
        verdicts = await self._attempt(claimed)
        now = self._environment.now()
        refused: list[Recipient] = []
        put_off: list[Recipient] = []
        for recipient in item.recipients:
            verdict = verdicts[recipient.address]
            told = Recipient(
                recipient.address, verdict.answer.status, _reply(verdict.answer), verdict.remote
            )
            if verdict.answer.is_delivered:
                self._attempts.labels("delivered").inc()
            elif verdict.answer.is_permanent:
                self._attempts.labels("refused").inc()
                refused.append(told)
            elif now - item.created > self.schedule.expire_s:
                self._attempts.labels("expired").inc()
                refused.append(msgspec.structs.replace(told, status="4.4.7"))
            else:
                self._attempts.labels("put_off").inc()
                put_off.append(told)
        is_late = (
            bool(put_off)
            and now - item.created > self.schedule.delay_notice_s
            and not item.told_delay
        )
        left = refused + put_off
        if (refused or is_late) and len(left) < len(item.recipients):
            # A report waits for the sender's mailbox: nobody who has the message may get it again meanwhile.
            await self._persist(
                keeper, lambda: keeper.change(lambda: self._queue.keep(claimed, left))
            )
        if refused:
            await self._persist(keeper, lambda: self._reports.failed(item, refused))
        if not put_off:
            await self._persist(
                keeper, lambda: keeper.last_word(lambda: self._queue.finish(claimed))
            )
            await self._bodies.release_done(item.message_id, item.holder)
            return
        if is_late:
            await self._persist(keeper, lambda: self._reports.delayed(item, put_off))
        attempts = item.attempts + 1
        pause_s = self.schedule.pause_s(attempts, self._environment.random.random())
        later = msgspec.structs.replace(
            item,
            recipients=put_off,
            attempts=attempts,
            told_delay=item.told_delay or is_late,
            due=now + pause_s,
        )
        await self._persist(
            keeper, lambda: keeper.last_word(lambda: self._queue.put_back(claimed, later))
        )

    async def _attempt(self, claimed: Claimed) -> dict[str, Verdict]:
        item = claimed.item
        try:
            size = (await self._bodies.find(item.message_id)).size
        except NoSuchMessage:
            self.log.error(
                "{id}: the body of {message} is gone", id=item.id, message=item.message_id
            )
            gone = Verdict(Answer(554, "5.3.0", "The message's text is gone from the store"))
            return {recipient.address: gone for recipient in item.recipients}

        def body() -> AsyncGenerator[bytes, None]:
            return self._bodies.read(item.message_id)

        job = Job(
            sender=item.sender,
            recipients=[recipient.address for recipient in item.recipients],
            size=size,
            body=body,
            may_finish=lambda: self._queue.holds(claimed),
        )
        sending = Deferred.fromCoroutine(self._relay.send(item.domain, job))
        return await sending.addErrback(self._our_mistake, item)

    def _our_mistake(self, failure: Failure, item: Item) -> dict[str, Verdict]:
        """Without a verdict the message would be tried every few seconds, for ever."""
        self.log.failure("{id}: the attempt failed", failure, id=item.id)
        ours = Verdict(Answer(451, "4.3.0", "The message could not be sent from here"))
        return {recipient.address: ours for recipient in item.recipients}

    async def _persist(self, keeper: _LeaseKeeper, step: Callable[[], Awaitable[None]]) -> None:
        """Do what has to be recorded, again and again while the store does not answer."""
        for attempt in range(_SETTLE_ATTEMPTS):
            try:
                await step()
                return
            except Unavailable as error:
                self.log.warn("not recorded yet: {error}", error=str(error))
                if attempt == _SETTLE_ATTEMPTS - 1:
                    raise
                await deferLater(self._environment.reactor, 1.0, lambda: None)

    def _reclaim(self) -> Deferred[None]:
        async def round_() -> None:
            settled = await self._reclaimer.round()
            if settled:
                self.log.info("{count} unfinished messages reclaimed", count=settled)

        def failed(failure: Failure) -> None:
            if not failure.check(CancelledError):
                self.log.failure("reclaiming", failure)

        self._round = Deferred.fromCoroutine(round_()).addErrback(failed)
        return self._round


class _LeaseKeeper:
    """Renews an item's lease while it is worked on, and never while its last change is written."""

    log = Logger()

    def __init__(self, environment: Environment, queue: Queue, claimed: Claimed) -> None:
        self._queue = queue
        self._claimed = claimed
        self._lock = DeferredLock()
        self._timer = LoopingCall(self._renew)
        self._timer.clock = environment.reactor
        self._is_over = False

    def start(self) -> None:
        self._timer.start(RENEW_S, now=False).addErrback(self._ended)

    def stop(self) -> None:
        self._is_over = True
        if self._timer.running:
            self._timer.stop()

    async def change(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Write a change after which we go on; no renewal comes in between."""
        await self._lock.run(lambda: Deferred.fromCoroutine(change()))

    async def last_word(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Write the change that ends our work; no renewal comes in between or behind it."""

        async def write() -> None:
            await change()
            self._is_over = True

        await self._lock.run(lambda: Deferred.fromCoroutine(write()))

    def _renew(self) -> Deferred[None] | None:
        if self._lock.locked:
            return None
        return self._lock.run(lambda: Deferred.fromCoroutine(self._renew_now()))

    async def _renew_now(self) -> None:
        if self._is_over:
            return
        try:
            await self._queue.renew(self._claimed)
        except Unavailable as error:
            # It may still be renewed in time; if not, `Queue.holds` says so before anything is final.
            self.log.info("lease not renewed: {error}", error=str(error))

    def _ended(self, failure: Failure) -> None:
        if not failure.check(LeaseLost):
            self.log.failure("renewing a lease", failure)


def _reply(answer: Answer) -> str:
    return f"{answer.code} {answer.text}" if answer.code else answer.text
