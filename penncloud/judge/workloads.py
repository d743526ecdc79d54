"""What users do with a cluster, and what they may expect of it.

A workload is one way of using the cluster, by many users at the same time. `step` is one thing that a user
does, `look` one that a reader does. `settle` is done once, when the troubles are over and all users have
stopped; there everything has to work. `check` says what was wrong with what the users saw.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from penncloud.client.coordinator_link import CoordinatorDirectory
from penncloud.client.directory import NoSuchNode
from penncloud.client.router import RoutedTable
from penncloud.client.table import (
    AppendCell,
    Conflict,
    IfVersion,
    PutCell,
    Refused,
    Unavailable,
    appended,
    scan_all,
)
from penncloud.judge import linearizability, plain
from penncloud.judge.history import History, Operation, Outcome
from penncloud.judge.linearizability import Undecided
from penncloud.platform.environment import Environment
from penncloud.wire.messages import CompareAndPut

# How long an operation may take once everything is well again.
SETTLE_S: Final = 30.0

_T = TypeVar("_T")


@frozen
class Access:
    """What a program that uses the cluster has. It works as long as its process."""

    environment: Environment
    table: RoutedTable
    directory: CoordinatorDirectory


@define(eq=False)
class User:
    """One of those who use the cluster; `now_s` is the world's time."""

    name: str
    access: Access
    chance: random.Random
    now_s: Callable[[], float]
    deadline_s: float
    # What this user has last seen in a register.
    seen: dict[str, bytes | None] = field(factory=dict)
    written: int = 0

    def unique(self) -> bytes:
        """A value that nobody else writes."""
        self.written += 1
        return b"%s.%d" % (self.name.encode(), self.written)


class Workload:
    """See the module. `chance` is for what is the same for all users of a run.

    All names that it uses begin with `prefix`, so that several may use one cluster one after the other.
    """

    name: ClassVar[str]

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        self.history = History()
        self.violations: list[str] = []
        # What no verdict was found on.
        self.undecided: list[str] = []
        # Values of confirmed writes that are not there, where that may be: somebody has to have kept them.
        self.lost: list[bytes] = []

    def join(self, user: User) -> None:
        """A user's program has started."""

    async def step(self, user: User) -> None:
        raise NotImplementedError

    async def look(self, user: User) -> None:
        """What a user does who only reads, and so never waits for a slow disk."""

    async def settle(self, user: User) -> None:
        raise NotImplementedError

    def check(self) -> list[str]:
        """What is wrong, in words."""
        raise NotImplementedError

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.name}: {what}")

    async def ask(
        self, user: User, key: str, kind: str, arguments: tuple[Any, ...], asking: Awaitable[Any]
    ) -> Operation:
        """Do an operation and write down what became of it.

        The result of a conflict is a tuple of the value that was there.
        """
        operation = self.history.begin(user.name, user.now_s(), key, kind, *arguments)
        try:
            result = await asking
        except Conflict as conflict:
            self.history.done(operation, (conflict.value,))
        except Unavailable:
            pass
        except Refused as refused:
            # The server's disk may be the reason; that the request is wrong may not.
            if refused.code not in ("DISK", "DAMAGED", "FAILED"):
                self.violated(f"{operation} was refused: {refused}")
        else:
            self.history.done(operation, result)
        return operation

    def counts(self) -> tuple[int, int]:
        """Operations that were answered, and all."""
        operations = self.history.operations
        return sum(o.outcome is Outcome.DONE for o in operations), len(operations)


async def settled(what: str, asking: Awaitable[_T]) -> _T:
    """The result of something that has to work; raises NotLive."""
    try:
        return await asking
    except (Unavailable, Refused) as error:
        raise NotLive(f"{what}: {error}") from error


class NotLive(Exception):
    """Something does not work although all troubles are over."""


class Registers(Workload):
    """A few cells, read, written and compared by everybody: each has to be linearizable."""

    name = "registers"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._keys = [f"{prefix}register/{n}" for n in range(chance.choice((1, 3, 8)))]
        self._reads = chance.choice((0.2, 0.5, 0.7))
        self._puts = chance.choice((0.1, 0.3))

    async def step(self, user: User) -> None:
        key = user.chance.choice(self._keys)
        roll = user.chance.random()
        table, deadline_s = user.access.table, user.deadline_s
        if roll < self._reads or key not in user.seen:
            await self._get(user, key, deadline_s)
            return
        value = user.unique()
        if user.chance.random() < 0.1:
            value = value.ljust(200, b".")
        row, expected = key.encode(), user.seen[key]
        if roll < self._reads + self._puts or expected is None:
            asking = table.put(row, b"v", value, deadline_s=deadline_s)
            await self.ask(user, key, "put", (value,), _nothing(asking))
            return
        swapping = table.compare_and_put(row, b"v", expected, value, deadline_s=deadline_s)
        done = await self.ask(user, key, "cput", (expected, value), _nothing(swapping))
        user.seen[key] = done.result[0] if isinstance(done.result, tuple) else value

    async def look(self, user: User) -> None:
        await self._get(user, user.chance.choice(self._keys), user.deadline_s)

    async def _get(self, user: User, key: str, deadline_s: float) -> Operation:
        asking = user.access.table.get(key.encode(), b"v", deadline_s=deadline_s)
        read = await self.ask(user, key, "get", (), _value(asking))
        if read.outcome is Outcome.DONE:
            user.seen[key] = read.result
        return read

    async def settle(self, user: User) -> None:
        for key in self._keys:
            value = user.unique()
            operation = self.history.begin(user.name, user.now_s(), key, "put", value)
            writing = user.access.table.put(key.encode(), b"v", value, deadline_s=SETTLE_S)
            await settled(f"put {key}", writing)
            self.history.done(operation)
            if (await self._get(user, key, SETTLE_S)).outcome is not Outcome.DONE:
                raise NotLive(f"get {key}")

    def check(self) -> list[str]:
        for key, operations in self.history.by_key().items():
            useful = linearizability.without_traceless(operations)
            try:
                found = linearizability.check(useful, linearizability.register, None)
            except Undecided as undecided:
                self.undecided.append(f"{self.name}: {key}: {undecided}")
            else:
                if found is not None:
                    self.violated(f"{key} is not linearizable: {found}")
        return self.violations


class HotRegister(Registers):
    """One cell for all; some ask by hand, without request ids."""

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._keys = self._keys[:1]

    async def step(self, user: User) -> None:
        key = self._keys[0]
        expected = user.seen.get(key)
        if expected is not None and user.chance.random() < 0.2:
            await self._by_hand(user, key, expected)
        else:
            await super().step(user)

    async def look(self, user: User) -> None:
        """A comparison that cannot succeed is a read, too: it tells what is there."""
        if user.chance.random() < 0.5:
            await self._by_hand(user, self._keys[0], b"never written")
        else:
            await super().look(user)

    async def _by_hand(self, user: User, key: str, expected: bytes) -> None:
        value = user.unique()
        request = CompareAndPut(key.encode(), b"v", expected, value)
        access = user.access
        asking = plain.compare_and_put(access.environment, access.table, request, user.deadline_s)
        await self.ask(user, key, "cput", (expected, value), _nothing(asking))


class ApartRegister(HotRegister):
    """One cell for all, which every other client only reads: nothing that waits for the others' disks makes
    it ask for another primary than the one it knows."""

    async def step(self, user: User) -> None:
        if self._only_reads(user):
            await self._get(user, self._keys[0], user.deadline_s)
        else:
            await super().step(user)

    async def look(self, user: User) -> None:
        await self._get(user, self._keys[0], user.deadline_s)

    @staticmethod
    def _only_reads(user: User) -> bool:
        number = user.name.partition("/")[0].rpartition("-")[2]
        return number.isdecimal() and int(number) % 2 == 0


class Counters(Workload):
    """Cells that hold a number, which everybody raises by compare-and-put."""

    name = "counters"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._keys = [f"{prefix}counter/{n}" for n in range(chance.choice((1, 4)))]
        self._final: dict[str, int] = {}

    async def step(self, user: User) -> None:
        key = user.chance.choice(self._keys)
        row, deadline_s, table = key.encode(), user.deadline_s, user.access.table
        try:
            cell = await table.get(row, b"n", deadline_s=deadline_s)
        except (Unavailable, Refused):
            return
        if cell is None:
            adding = table.put_if_version(row, b"n", 0, b"1", deadline_s=deadline_s)
        else:
            more = b"%d" % (int(cell.value) + 1)
            adding = table.compare_and_put(row, b"n", cell.value, more, deadline_s=deadline_s)
        await self.ask(user, key, "add", (), _nothing(adding))

    async def settle(self, user: User) -> None:
        for key in self._keys:
            reading = user.access.table.get(key.encode(), b"n", deadline_s=SETTLE_S)
            cell = await settled(f"get {key}", reading)
            self._final[key] = int(cell.value) if cell is not None else 0

    def check(self) -> list[str]:
        by_key = self.history.by_key()
        for key, final in self._final.items():
            adds = by_key.get(key, [])
            done = sum(add.outcome is Outcome.DONE and add.result is None for add in adds)
            open_ = sum(add.outcome is Outcome.UNKNOWN for add in adds)
            if not done <= final <= done + open_:
                self.violated(f"{key} is {final} after {done} additions and {open_} perhaps")
        return self.violations


class Bank(Workload):
    """Accounts in one row, between which money is moved: there is always the same amount of it."""

    name = "bank"

    _ACCOUNTS = tuple(b"account/%d" % n for n in range(5))
    _EACH = 100

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._row = b"%bbank" % prefix.encode()

    async def step(self, user: User) -> None:
        table, deadline_s = user.access.table, user.deadline_s
        try:
            cells = (await table.scan(self._row, deadline_s=deadline_s)).cells
        except (Unavailable, Refused):
            return
        if not cells:
            opening = [IfVersion(account, 0) for account in self._ACCOUNTS]
            filling = [PutCell(account, b"%d" % self._EACH) for account in self._ACCOUNTS]
            asking = table.mutate(self._row, (*opening, *filling), deadline_s=deadline_s)
            await self.ask(user, "bank", "open", (), asking)
            return
        self._audit(user, [int(cell.value) for cell in cells])
        source, target = user.chance.sample(cells, 2)
        amount = user.chance.randint(0, max(0, int(source.value)))
        moving = (
            IfVersion(source.col, source.version),
            IfVersion(target.col, target.version),
            PutCell(source.col, b"%d" % (int(source.value) - amount)),
            PutCell(target.col, b"%d" % (int(target.value) + amount)),
        )
        asking = table.mutate(self._row, moving, deadline_s=deadline_s)
        await self.ask(user, "bank", "move", (amount,), asking)

    async def look(self, user: User) -> None:
        try:
            page = await user.access.table.scan(self._row, deadline_s=user.deadline_s)
        except (Unavailable, Refused):
            return
        if page.cells:
            self._audit(user, [int(cell.value) for cell in page.cells])

    def _audit(self, user: User, amounts: list[int]) -> None:
        if len(amounts) != len(self._ACCOUNTS) or sum(amounts) != self._EACH * len(amounts):
            self.violated(f"{user.name} saw {amounts} at {user.now_s():.3f} s")

    async def settle(self, user: User) -> None:
        page = await settled("scan bank", user.access.table.scan(self._row, deadline_s=SETTLE_S))
        if page.cells:
            self._audit(user, [int(cell.value) for cell in page.cells])
        elif any(
            o.outcome is Outcome.DONE and isinstance(o.result, int) for o in self.history.operations
        ):
            self.violated("the accounts are gone")

    def check(self) -> list[str]:
        return self.violations


class Appends(Workload):
    """A log to which everybody appends: each entry stands in it exactly once, in order."""

    name = "appends"

    _PREFIX = b"entry/"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._keys = [f"{prefix}log"]
        self._pad = chance.choice((0, 0, 1000, 5000))
        self._final: dict[str, list[tuple[bytes, bytes]]] = {}

    async def step(self, user: User) -> None:
        key = user.chance.choice(self._keys)
        value = user.unique()
        padded = value + b" " + b"." * user.chance.randint(0, self._pad)
        asking = user.access.table.mutate(
            key.encode(), [AppendCell(self._PREFIX, padded)], deadline_s=user.deadline_s
        )
        await self.ask(user, key, "append", (value,), asking)

    async def settle(self, user: User) -> None:
        for key in self._keys:
            # Not scan_all with its pages' usual deadline, which is shorter.
            reading = scan_all(user.access.table, key.encode(), self._PREFIX)
            cells = await settled(f"scan {key}", reading)
            self._final[key] = [(cell.col, cell.value.partition(b" ")[0]) for cell in cells]

    def check(self) -> list[str]:
        by_key = self.history.by_key()
        for key in self._keys:
            self._check_log(by_key.get(key, []), self._final.get(key, []))
        return self.violations

    def _check_log(self, operations: list[Operation], final: list[tuple[bytes, bytes]]) -> None:
        columns: dict[bytes, list[bytes]] = {}
        for col, value in final:
            columns.setdefault(value, []).append(col)
        newest = -1
        for operation in operations:
            value = operation.arguments[0]
            found = columns.pop(value, [])
            if len(found) > 1:
                self.violated(f"{operation} stands there {len(found)} times")
            elif operation.outcome is Outcome.DONE:
                expected = appended(self._PREFIX, operation.result)
                if found != [expected]:
                    self.violated(f"{operation}: there is {found} instead of {expected!r}")
        for value, found in columns.items():
            self.violated(f"nobody appended {value!r}, which is at {found}")
        done = [o for o in operations if o.outcome is Outcome.DONE]
        events = [(o.invoked, 0, o) for o in done] + [(o.returned or 0, 1, o) for o in done]
        after: dict[int, int] = {}
        for _, ends, operation in sorted(events, key=lambda event: event[:2]):
            if ends:
                newest = max(newest, operation.result)
                if operation.result <= after[id(operation)]:
                    self.violated(f"{operation} stands before one that was answered before")
            else:
                after[id(operation)] = newest


class Logs(Appends):
    """Many logs with much in them: tablets grow, and are split between them."""

    name = "logs"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._keys = [f"{prefix}logs/{n}" for n in range(chance.choice((12, 40)))]
        self._pad = chance.choice((4000, 12000))


class EarlyLogs(Logs):
    """Logs in async mode, where a confirmed entry may be lost with its primary: but no entry stands twice,
    none stands elsewhere than was answered, and those that stand are in order."""

    name = "early logs"

    def _check_log(self, operations: list[Operation], final: list[tuple[bytes, bytes]]) -> None:
        there = {value for _, value in final}
        kept = []
        for operation in operations:
            value = operation.arguments[0]
            if operation.outcome is Outcome.DONE and value not in there:
                self.lost.append(value)
            else:
                kept.append(operation)
        super()._check_log(kept, final)


class Watched(Workload):
    """Rows that everybody watches: whoever watches has seen the last value a while after it."""

    name = "watched"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        count = chance.choice((1, 1, 5))
        self._rows = [b"%bwatched/%d" % (prefix.encode(), n) for n in range(count)]
        # By client and row; and which read it is from, as an old one may end late.
        self._seen: dict[tuple[str, bytes], bytes | None] = {}
        self._read_in: dict[tuple[str, bytes], int] = {}
        self._reads = 0

    def join(self, user: User) -> None:
        # A killed program watches no more; the next one on that host takes its place.
        client = user.name.partition("/")[0]
        for row in self._rows:
            user.access.table.watch(row, partial(self._changed, client, user, row))

    def _changed(self, client: str, user: User, row: bytes, _version: int) -> None:
        reading = Deferred.fromCoroutine(self._read(client, user, row))
        reading.addErrback(lambda failure: failure.trap(Unavailable, Refused) and None)

    async def _read(self, client: str, user: User, row: bytes) -> None:
        self._reads += 1
        number = self._reads
        cell = await user.access.table.get(row, b"v", deadline_s=SETTLE_S)
        if number > self._read_in.get((client, row), 0):
            self._read_in[client, row] = number
            self._seen[client, row] = None if cell is None else cell.value

    async def step(self, user: User) -> None:
        row = user.chance.choice(self._rows)
        asking = user.access.table.put(row, b"v", user.unique(), deadline_s=user.deadline_s)
        await self.ask(user, "watched", "put", (), asking)

    async def settle(self, user: User) -> None:
        last: dict[bytes, bytes] = {}
        for row in self._rows:
            last[row] = user.unique()
            writing = user.access.table.put(row, b"v", last[row], deadline_s=SETTLE_S)
            await settled("put watched", writing)
        clock = user.access.environment.reactor
        for _ in range(60):
            if all(seen == last[row] for (_, row), seen in self._seen.items()):
                return
            await deferLater(clock, 0.5)
        blind = {client for (client, row), seen in self._seen.items() if seen != last[row]}
        raise NotLive(
            f"{', '.join(sorted(blind))} did not hear of the last change of a watched row"
        )

    def check(self) -> list[str]:
        return self.violations


class Flags(Workload):
    """A frontend that administrators enable and disable: what the coordinator confirmed stays."""

    name = "flags"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._node = f"{prefix}http-1"

    async def step(self, user: User) -> None:
        directory = user.access.directory
        if user.chance.random() < 0.5:
            await self._get(user)
            return
        enabled = user.chance.random() < 0.5
        try:
            await self.ask(
                user, "enabled", "put", (enabled,), directory.set_enabled(self._node, enabled)
            )
        except NoSuchNode:
            self.history.failed(self.history.operations[-1])

    async def look(self, user: User) -> None:
        await self._get(user)

    async def _get(self, user: User) -> Operation:
        return await self.ask(user, "enabled", "get", (), self._look(user))

    async def _look(self, user: User) -> bool:
        """As long as nobody has disabled it, a frontend is enabled, even before it is known."""
        view = await user.access.directory.view()
        return all(node.enabled for node in view.nodes if node.id == self._node)

    async def settle(self, user: User) -> None:
        clock = user.access.environment.reactor
        until_s = clock.seconds() + SETTLE_S
        while (await self._get(user)).outcome is not Outcome.DONE:
            if clock.seconds() > until_s:
                raise NotLive("the directory does not answer")
            await deferLater(clock, 0.2)

    def check(self) -> list[str]:
        try:
            found = linearizability.check(self.history.operations, linearizability.register, True)
        except Undecided as undecided:
            self.undecided.append(f"{self.name}: {undecided}")
        else:
            if found is not None:
                self.violated(f"enabled is not linearizable: {found}")
        return self.violations


class Drains(Workload):
    """Administrators who empty storage servers and fill them again, one at a time."""

    name = "drains"

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        super().__init__(chance, prefix)
        self._every_s = chance.choice((2.0, 5.0))
        self._next_s = 3.0
        # Servers that may be draining.
        self._drained: list[str] = []

    async def step(self, user: User) -> None:
        if user.now_s() < self._next_s:
            return
        self._next_s = user.now_s() + self._every_s
        directory = user.access.directory
        if self._drained:
            await self._set(user, self._drained[0], False)
            return
        try:
            nodes = (await directory.view()).nodes
        except Unavailable:
            return
        servers = sorted(node.id for node in nodes if node.role == "storage")
        if servers and not self._drained:
            self._drained.append(user.chance.choice(servers))
            await self._set(user, self._drained[0], True)

    async def _set(self, user: User, server: str, draining: bool) -> None:
        asking = user.access.directory.drain_server(server, draining)
        operation = await self.ask(user, server, "drain", (draining,), asking)
        if not draining and operation.outcome is Outcome.DONE and self._drained == [server]:
            self._drained.clear()

    async def settle(self, user: User) -> None:
        clock = user.access.environment.reactor
        until_s = clock.seconds() + SETTLE_S
        while self._drained:
            await self._set(user, self._drained[0], False)
            if clock.seconds() > until_s:
                raise NotLive(f"{self._drained[0]} cannot be filled again")
            await deferLater(clock, 0.2)

    def check(self) -> list[str]:
        return self.violations


async def _nothing(asking: Awaitable[object]) -> None:
    await asking


async def _value(asking: Awaitable[Any]) -> bytes | None:
    cell = await asking
    return None if cell is None else cell.value
