"""Users of the cluster, several in one process, each of whom does one thing after the other.

They use it as the web frontends do, by the real client, and write down what they asked and were told with
the machine's monotonic time, which is the same for all processes.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, evolve, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.router import RoutedTable
from penncloud.client.table import Refused, Unavailable
from penncloud.judge import workloads
from penncloud.judge.history import History
from penncloud.judge.workloads import Access, NotLive, User, Workload
from penncloud.platform import config
from penncloud.platform.environment import Environment
from penncloud.platform.tls import Credentials
from penncloud.rpc.registration import Registration, identity
from penncloud.torture.evidence import put_together, read_reports
from penncloud.torture.messages import (
    MAX_LINE_BYTES,
    Answer,
    Begin,
    Judge,
    Order,
    Plan,
    Report,
    Seen,
    Settle,
    Stop,
    TabletSeen,
    View,
    WorkloadSeen,
    frontend_of,
    told,
)

WORKLOADS: Final[dict[str, type[Workload]]] = {
    kind.name: kind
    for kind in (
        workloads.Registers,
        workloads.Counters,
        workloads.Bank,
        workloads.Appends,
        workloads.Watched,
        workloads.Flags,
    )
}
# The frontend that the workload `flags` enables and disables; nobody connects to it.
NODE_PORT: Final = 8081


@define
class TimedHistory(History):
    """A history whose order is the time, in nanoseconds, so that several can be put together."""

    clock: Callable[[], float] = field(kw_only=True)

    def tick(self) -> int:
        return int(self.clock() * 1e9)


def make_workloads(names: list[str], seed: str, prefix: str) -> list[Workload]:
    """The same for everybody who gives the same seed. Raises KeyError for an unknown name."""
    return [WORKLOADS[name](random.Random(f"{seed}/{name}"), prefix) for name in names]


class Member(LineOnlyReceiver):
    """One process of users: takes orders on stdin, answers on stdout, ends with its stdin."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE_BYTES
    log = Logger()

    def __init__(self, environment: Environment, plan: Plan) -> None:
        self.ended: Deferred[None] = Deferred()
        self._environment = environment
        self._plan = plan
        self._cluster = config.Cluster(coordinators=plan.coordinators, tls_dir=plan.tls_dir)
        self._access = Access(
            environment,
            RoutedTable(environment, self._cluster),
            CoordinatorDirectory(environment, self._cluster),
        )
        self._registration: Registration | None = None
        self._begun: Begin | None = None
        self._settling: User | None = None
        self._workloads: list[Workload] = []
        self._stopping = False
        self._working: list[Deferred[None]] = []
        self._decoder = msgspec.json.Decoder(Order)

    # -- orders ----------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._access.table.start()
        self._access.directory.start()

    def connectionLost(self, reason: Any = None) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    def lineReceived(self, line: bytes) -> None:
        order = self._decoder.decode(line)
        doing = Deferred.fromCoroutine(self._do(order))
        doing.addErrback(lambda failure: self._fault(order.number, failure))

    def _fault(self, number: int, failure: Any) -> None:
        self.log.failure("order {number}", failure, number=number)
        text = f"internal error: {self._plan.name}: {failure.getErrorMessage()}"
        self._answer(Answer(number, [text]))

    def _answer(self, answer: Answer) -> None:
        self.sendLine(msgspec.json.encode(answer))

    async def _do(self, order: Any) -> None:
        answer = Answer(order.number)
        match order:
            case Begin():
                self._begin(order)
            case Stop():
                await self._stop()
            case Settle():
                answer = Answer(order.number, await self._settle())
            case Report():
                self._report(order.file)
            case Judge():
                answer = self._judge(order)
            case View():
                answer = Answer(order.number, tablets=await self._view())
        self._answer(answer)

    # -- using the cluster -----------------------------------------------------------------------

    def _begin(self, order: Begin) -> None:
        self._begun, self._stopping = order, False
        self._workloads = make_workloads(order.workloads, order.seed, order.prefix)
        clock = self._environment.reactor.seconds
        for workload in self._workloads:
            workload.history = TimedHistory(clock=clock)
        if self._plan.node:
            self._register(frontend_of(order.prefix))
        # The same each time that all has to settle: what it writes is told apart.
        self._settling = self._user("settling")
        users = [self._user(f"{order.prefix}{n}") for n in range(order.workers + order.readers)]
        if users:
            for workload in self._workloads:
                workload.join(users[0])
        self._working = []
        for number, user in enumerate(users):
            working = Deferred.fromCoroutine(self._work(user, number >= order.workers))
            working.addErrback(self._worker_failed)
            self._working.append(working)

    def _register(self, node_id: str) -> None:
        role = config.Http(id=node_id, host="127.0.0.1", port=NODE_PORT)
        identity_ = identity("http", role, NODE_PORT, self._environment.pid)
        credentials = Credentials.at(self._plan.tls_dir, node_id)
        environment = evolve(self._environment, credentials=credentials)
        leaving, self._registration = (
            self._registration,
            Registration(environment, self._cluster, identity_),
        )
        self._registration.start()
        if leaving is not None:
            Deferred.fromCoroutine(leaving.stop()).addErrback(self._worker_failed)

    def _user(self, name: str) -> User:
        begun = self._begun
        assert begun is not None
        name = f"{self._plan.name}/{name}"
        clock, begun_s = self._environment.reactor.seconds, self._plan.begun_s
        chance = random.Random(f"{begun.seed}/{name}")
        return User(name, self._access, chance, lambda: clock() - begun_s, begun.deadline_s)

    def _worker_failed(self, failure: Any) -> None:
        self.log.failure("a user's program", failure)
        text = f"internal error: {self._plan.name}: {failure.getErrorMessage()}"
        self._workloads[0].violations.append(text)

    async def _work(self, user: User, only_reads: bool) -> None:
        assert self._begun is not None
        clock: Any = self._environment.reactor
        gap_s = self._begun.gap_s
        while not self._stopping:
            await deferLater(clock, user.chance.uniform(0, gap_s))
            workload = user.chance.choice(self._workloads)
            if not self._stopping:
                await (workload.look(user) if only_reads else workload.step(user))

    async def _stop(self) -> None:
        self._stopping = True
        await gatherResults(self._working)

    async def _settle(self) -> list[str]:
        user = self._settling
        assert user is not None
        trouble = []
        for workload in self._workloads:
            try:
                await workload.settle(user)
            except NotLive as error:
                trouble.append(f"liveness: {self._plan.name}: {workload.name}: {error}")
            except (Unavailable, Refused) as error:
                trouble.append(f"liveness: {self._plan.name}: {workload.name}: {error}")
        return trouble

    def _report(self, file: str) -> None:
        seen = Seen(
            [
                WorkloadSeen(
                    workload.name,
                    [told(operation) for operation in workload.history.operations],
                    workload.violations,
                )
                for workload in self._workloads
            ]
        )
        Path(file).write_bytes(msgspec.msgpack.encode(seen))
        self._workloads = []

    def _judge(self, order: Judge) -> Answer:
        seen = read_reports(order.files)
        trouble, undecided = [], []
        for workload in self._workloads:
            told_of = [one for one in seen if one.name == workload.name]
            workload.history = put_together(told_of)
            workload.violations = [text for one in told_of for text in one.violations]
            trouble += workload.check()
            undecided += workload.undecided
        return Answer(order.number, trouble, undecided)

    async def _view(self) -> list[TabletSeen] | None:
        with contextlib.suppress(Unavailable):
            view = await self._access.directory.view()
            return [
                TabletSeen(t.id, t.epoch, t.primary, len(t.members), t.state) for t in view.tablets
            ]
        return None

    async def leave(self) -> None:
        """Close all connections."""
        if self._registration is not None:
            await self._registration.stop()
        self._access.table.stop()
        await self._access.directory.stop()
