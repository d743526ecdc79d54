"""A group of replicas in a hostile world: one event queue, one random number generator, one oracle.

Hosts crash and lose what was not synced (a random part of what was under way stays), are wiped, stand
still, have clocks that run up to 5 % wrong and disks that hang or are full. Connections keep their order;
they are slow, stall in one direction, and are reset, which loses what was on them. Clients retry with the
same request id. After the faults the group must become whole again. What must hold is the oracle's to
say.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from zlib import crc32

from attrs import define, evolve, field
from msgspec.structs import replace

from penncloud.replication.messages import (
    Checkpoint,
    Configuration,
    Entry,
    Message,
    Piece,
    ReadPiece,
    Ready,
    Staged,
)
from penncloud.replication.primary import Primary, Refused
from penncloud.replication.replica import Replica
from penncloud.replication.state import Durable, Options, nothing_broken
from tests.replication.application import Application, Operation, Request, Result, noop
from tests.replication.council import Council
from tests.replication.oracle import Oracle, Violation

TICK_S = 0.05
PING_S = 0.1
KEYS = 3


@define(eq=False)
class Disk:
    """What a crash leaves."""

    incarnation: int = 0
    blank: bool = True
    sealed: int = 0
    checkpoint: Checkpoint = field(factory=Checkpoint)
    state: bytes = b""
    entries: list[Operation] = field(factory=list)
    quarantine: list[Operation] = field(factory=list)
    staged: Staged | None = None
    staged_data: bytearray = field(factory=bytearray)

    def persist(self, ready: Ready) -> None:
        """Step 2 of a Ready."""
        if ready.seal is not None:
            self.sealed = ready.seal
        if ready.cut is not None:
            self.quarantine.extend(e for e in ready.quarantine if isinstance(e, Operation))
            del self.entries[max(0, ready.cut - self.checkpoint.version - 1) :]
        for piece in ready.stage:
            del self.staged_data[piece.offset :]
            self.staged_data += piece.data
            self.staged = Staged(piece.source, piece.checkpoint, len(self.staged_data))
        if ready.install is not None:
            self.checkpoint, self.state = ready.install, bytes(self.staged_data)
            self.entries.clear()
            self.staged = None
        self.append(ready.entries)

    def append(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            assert isinstance(entry, Operation)
            if entry.version <= self.checkpoint.version:
                continue
            last = self.checkpoint.version + len(self.entries)
            if entry.version != last + 1:
                raise Violation(f"{entry} is appended behind {last}")
            self.blank = False
            self.entries.append(entry)
        if self.checkpoint.version:
            self.blank = False

    def has(self, entry: Operation) -> bool:
        """Whether a committed entry is here, in the log or below the checkpoint."""
        place = entry.version - self.checkpoint.version - 1
        if place < 0:
            return True
        return place < len(self.entries) and self.entries[place] == entry


@define(eq=False)
class Host:
    """One server: a disk, a clock, and the process on it (None: crashed)."""

    id: str
    rate: float
    offset: float
    disk: Disk = field(factory=Disk)
    replica: Replica | None = None
    app: Application = field(factory=lambda: Application(nothing_broken))
    # Changes with every crash: events of an earlier process come to nothing.
    life: int = 0
    under_way: deque[Ready] = field(factory=deque)
    syncing: bool = False
    stopped_until: float = 0.0
    hangs_until: float = 0.0
    full_until: float = 0.0
    applied: dict[int, Operation] = field(factory=dict)
    role: str = ""


@define(eq=False)
class Connection:
    """One direction between two hosts."""

    reset_no: int = 0
    last_at: float = 0.0
    stalled: list[Message] = field(factory=list)


@define(eq=False)
class Client:
    """Does one thing at a time, over and over; `number` separates its attempts.

    Some ask whom the coordinators name, some stay with whom they know until that one is silent; one of
    these only reads.
    """

    name: int
    loyal: bool
    only_reads: bool
    request: Request | None = None
    key: int = 0
    floor: int = 0
    begun: float = 0.0
    number: int = 0
    busy: bool = False
    last_seen: dict[int, int] = field(factory=dict)
    # Whom it believes to be the primary.
    target: str = "a"


class World:
    """`run` a while, then `converge`."""

    def __init__(
        self,
        seed: int,
        broken: Callable[[str], bool] = nothing_broken,
        options: Options | None = None,
        focus: str = "",
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.broken = broken
        self.options = options or self._some_options()
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._next_request = 0
        self.calm = False
        self.names = ["a", "b", "c", "d"]
        self.cut: set[tuple[str, str]] = set()
        self.council_down = False
        self.oracle = Oracle(self.options.mode == "2pc")
        chance = self.chance
        # Every history has its own mix of faults and pace (swarm testing).
        self.trouble_s = chance.choice((0.3, 0.8, 2.0))
        self.slow_rate = chance.choice((0.0, 0.01, 0.05))
        self.patience_s = chance.choice((0.2, 0.6, 2.5))
        self.think_s = chance.choice((0.02, 0.1, 0.3))
        self.checkpoint_every = chance.choice((5, 20, 200))
        kinds = (
            "crash", "start", "crash_all", "stop", "cut", "isolate", "council", "mend", "reset",
            "hang", "wipe", "full", "move", "hand_over", "stop_primary", "depose", "coup", "echo",
        )  # fmt: skip
        self.weights = {kind: chance.random() ** 2 for kind in kinds}
        self.weights["start"] += 0.5
        self.weights["mend"] += 0.5
        if focus:
            # A mutant's rule matters in few situations: then these are what happens.
            self.weights = {kind: float(kind in focus.split()) for kind in kinds}
            self.trouble_s, self.think_s = 1.5, 0.02
        self.hosts = {
            name: Host(name, chance.uniform(0.95, 1.05), chance.uniform(0, 1000))
            for name in self.names
        }
        self.connections = {(a, b): Connection() for a in self.names for b in self.names if a != b}
        first = ("a", "b", "c")
        self.council = Council(Configuration(1, 1, "a", first, 1), broken)
        for host in self.hosts.values():
            host.disk.blank = host.id not in first
            self.start(host)
        self.clients = [Client(i, i >= 2, i == 3) for i in range(4)]
        for client in self.clients:
            self.after(chance.uniform(0, 0.5), self.client_begins, client)
        self.after(PING_S, self.ping)
        self.after(1.0, self.trouble)

    def _some_options(self) -> Options:
        return Options(
            max_message_entries=self.chance.choice((2, 256)),
            window=self.chance.choice((2, 16)),
            stuck_s=2.0,
            late_s=0.1,
            slow_for_s=1.0,
            min_members=self.chance.choice((1, 1, 2)),
            read_mode=self.chance.choice(("lease", "lease", "lease", "confirm")),
        )

    # -- time ------------------------------------------------------------------------------------

    def after(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, what, args))

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        end = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, what, args = heapq.heappop(queue)
            what(*args)
        self.now = end

    def local(self, host: Host) -> float:
        return host.offset + host.rate * self.now

    # -- hosts -----------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        disk = host.disk
        disk.incarnation += 1
        durable = Durable(
            disk.incarnation,
            disk.blank and not self.broken("blank-is-no-member"),
            disk.sealed,
            disk.checkpoint,
            tuple(disk.entries),
            disk.staged,
        )
        host.app = Application(self.broken)
        if disk.state:
            host.app.restore(disk.state)
        host.replica = Replica(
            host.id,
            1,
            durable,
            noop,
            self.local(host),
            options=self.options,
            broken=self.broken,
        )
        host.under_way.clear()
        host.syncing = False
        self.after(self.chance.uniform(0, TICK_S), self.tick, host, host.life)
        for other in self.hosts.values():
            if other.replica is not None and other is not host:
                other.replica.reconnected(host.id, self.local(other))

    def crash(self, host: Host) -> None:
        """Part of what was under way reaches the disk, in its order."""
        if host.replica is None:
            return
        self.counts["crashes"] += 1
        for ready in host.under_way:
            if self.chance.random() < 0.5:
                torn = self.chance.randrange(len(ready.entries) + 1)
                host.disk.persist(replace(ready, entries=ready.entries[:torn]))
                if torn < len(ready.entries):
                    break
            else:
                break
        host.life += 1
        host.replica = None
        host.under_way.clear()
        host.stopped_until = host.hangs_until = host.full_until = 0.0
        for a, b in self.connections:
            if b == host.id or (a == host.id and self.chance.random() < 0.5):
                self.reset(a, b)
        self.check_members()

    def tick(self, host: Host, life: int) -> None:
        if host.life != life or host.replica is None:
            return
        self.after(TICK_S, self.tick, host, life)
        if self.now >= host.stopped_until:
            host.replica.tick(self.local(host))
            self.drive(host)

    def drive(self, host: Host) -> None:
        """Take all Readies; do at once what may be, queue the rest for the disk."""
        replica = host.replica
        assert replica is not None
        while True:
            while (ready := replica.ready()) is not None:
                host.under_way.append(ready)
                self.at_once(host, ready)
            if host.syncing or not host.under_way or host.under_way[0].persists:
                break
            self.done(host, host.under_way[0])
        if host.under_way and not host.syncing:
            self.sync(host)
        self.checkpoint(host, replica)
        self.look_at(host, replica)

    def at_once(self, host: Host, ready: Ready) -> None:
        app, oracle = host.app, self.oracle
        assert host.replica is not None
        if ready.stepped_down:
            app.forget_prepared()
        if ready.withdrawn:
            app.prepared.clear()
        if ready.aborted:
            oracle.refuses(e for e in ready.aborted if isinstance(e, Operation))
            app.aborted(ready.aborted)
        self.commit(host, ready)
        for context in ready.confirmed:
            self.read_confirmed(host, context)
        for message in ready.prompt:
            self.send(message)
        if ready.proposal is not None:
            self.to_council(host, ready.proposal)
        for wanted in ready.pieces:
            self.send_piece(host, wanted)

    def commit(self, host: Host, ready: Ready) -> None:
        app, replica = host.app, host.replica
        assert replica is not None
        if ready.committed > app.applied:
            entries = replica.state.log.slice(app.applied + 1, ready.committed + 1)
            for entry in entries:
                assert isinstance(entry, Operation)
                primary = isinstance(replica.part, Primary)
                if self.oracle.applies(host.id, entry, primary):
                    self.check_durable(entry)
                app.apply(entry)
                app.answer(entry)
        if ready.answered > app.applied:
            for entry in replica.state.log.slice(app.applied + 1, ready.answered + 1):
                assert isinstance(entry, Operation)
                if (entry.version, entry.entry_cfg) in app.waiting:
                    self.oracle.local[entry.request] = entry
                    app.answer(entry)

    def sync(self, host: Host) -> None:
        host.syncing = True
        delay = self.chance.uniform(0.0002, 0.003)
        if host.hangs_until > self.now:
            delay += host.hangs_until - self.now
        self.after(delay, self.synced, host, host.life, len(host.under_way))

    def synced(self, host: Host, life: int, count: int) -> None:
        if host.life != life or host.replica is None:
            return
        if self.now < host.stopped_until:
            self.after(host.stopped_until - self.now, self.synced, host, life, count)
            return
        host.syncing = False
        if host.full_until > self.now and any(r.persists for r in host.under_way):
            self.counts["disk full"] += 1
            host.under_way.clear()
            host.replica.refuse()
            host.app.forget_prepared()
            self.after(host.full_until - self.now, self.room_again, host, host.life)
        else:
            for _ in range(count):
                ready = host.under_way[0]
                host.disk.persist(ready)
                if ready.install is not None:
                    host.app.restore(host.disk.state)
                    self.counts["checkpoints installed"] += 1
                self.done(host, ready)
        self.drive(host)

    def room_again(self, host: Host, life: int) -> None:
        if host.life == life and host.replica is not None:
            host.replica.room_again()

    def done(self, host: Host, ready: Ready) -> None:
        assert host.replica is not None
        host.under_way.popleft()
        for message in ready.messages:
            self.send(message)
        host.replica.advance(ready)

    def checkpoint(self, host: Host, replica: Replica) -> None:
        app, disk = host.app, host.disk
        log = replica.state.log
        if (
            app.applied < disk.checkpoint.version + self.checkpoint_every
            or replica.state.installing
        ):
            return
        if host.under_way or app.applied > log.stable:
            return
        cfg = log.cfg_at(app.applied)
        assert cfg is not None
        drop = app.applied - disk.checkpoint.version
        disk.checkpoint = Checkpoint(disk.checkpoint.number + 1, app.applied, cfg)
        disk.state = app.encode()
        del disk.entries[:drop]
        replica.checkpointed(disk.checkpoint)

    def look_at(self, host: Host, replica: Replica) -> None:
        """I2, I3, and that nobody serves who lacks something."""
        if replica.alarm:
            raise Violation(f"{host.id} raises an alarm: {replica.alarm}")
        role = replica.role
        if role == host.role:
            return
        if host.role == "learner" and role == "secondary":
            self.counts["rejoins"] += 1
        host.role = role
        part = replica.part
        if isinstance(part, Primary):
            self.oracle.takes_over(host.id, part.config.cfg)
            if host.id not in part.config.members:
                raise Violation(f"I2: {host.id} is primary of {part.config}")
            if role == "primary":
                self.counts["takeovers"] += 1
                log = replica.state.log
                self.oracle.serves(
                    host.id,
                    part.takeover.since,
                    lambda e: log.matches(e.version, e.entry_cfg) or e.version == 0,
                )

    def check_durable(self, entry: Operation) -> None:
        members = self.council.config.members
        hosts = [self.hosts[member] for member in members]
        self.oracle.durable(entry, [(h.id, h.disk.blank or h.disk.has(entry)) for h in hosts])

    def check_members(self) -> None:
        """After a crash everything committed is still on the disk of every member."""
        for entry in self.oracle.chosen[-30:]:
            self.check_durable(entry)

    # -- network ---------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        connection = self.connections[message.sender, message.to]
        delay = self.chance.uniform(0.0001, 0.002)
        if not self.calm and self.chance.random() < self.slow_rate:
            delay = self.chance.choice((0.05, 0.3, 1.0))
        at = max(self.now + delay, connection.last_at)
        connection.last_at = at
        self.after(at - self.now, self.arrive, message, connection, connection.reset_no)

    def arrive(self, message: Message, connection: Connection, reset_no: int) -> None:
        if connection.reset_no != reset_no:
            return
        if (message.sender, message.to) in self.cut or connection.stalled:
            connection.stalled.append(message)
            return
        self.hand(message)

    def hand(self, message: Message) -> None:
        host = self.hosts[message.to]
        if host.replica is None:
            return
        if self.now < host.stopped_until:
            connection = self.connections[message.sender, message.to]
            wait = host.stopped_until - self.now
            connection.last_at = max(connection.last_at, host.stopped_until)
            self.after(wait, self.arrive, message, connection, connection.reset_no)
            return
        host.replica.step(message, self.local(host))
        self.drive(host)

    def reset(self, a: str, b: str) -> None:
        connection = self.connections[a, b]
        connection.reset_no += 1
        connection.last_at = self.now
        connection.stalled.clear()
        replica = self.hosts[a].replica
        if replica is not None:
            replica.reconnected(b, self.local(self.hosts[a]))

    def mend(self) -> None:
        """Links are whole again: what was stalled arrives late, or its connection is given up."""
        self.cut.clear()
        self.council_down = False
        for pair, connection in self.connections.items():
            if connection.stalled and self.chance.random() < 0.6:
                self.unstall(*pair)
            elif connection.stalled:
                self.reset(*pair)

    def unstall(self, a: str, b: str) -> None:
        """One direction is whole again: what was stalled arrives late."""
        self.cut.discard((a, b))
        connection = self.connections[a, b]
        stalled, connection.stalled = connection.stalled, []
        connection.last_at = self.now
        for message in stalled:
            self.send(message)

    def send_piece(self, host: Host, wanted: ReadPiece) -> None:
        disk = host.disk
        if disk.checkpoint.number != wanted.number:
            assert host.replica is not None
            host.replica.piece_gone(wanted.to, wanted.number, self.local(host))
            return
        size = max(256, len(disk.state) // 3)
        data = disk.state[wanted.offset : wanted.offset + size]
        done = wanted.offset + len(data) == len(disk.state)
        about = 1, wanted.cfg, wanted.number, wanted.offset, data
        self.send(Piece(host.id, wanted.to, *about, crc32(data), done))

    # -- coordinators ----------------------------------------------------------------------------

    def reaches_council(self, host: Host) -> bool:
        return not self.council_down and not {(host.id, "council"), ("council", host.id)} & self.cut

    def ping(self) -> None:
        self.after(PING_S, self.ping)
        if self.council_down:
            return
        council = self.council
        for host in self.hosts.values():
            up = host.replica is not None and self.now >= host.stopped_until
            if up and self.reaches_council(host):
                assert host.replica is not None
                council.pong(host.id, host.replica.tip, self.now)
                known = host.replica.config
                if known is None or known.cfg < council.config.cfg:
                    self.tell(host)
        council.judge(self.now)

    def tell(self, host: Host) -> None:
        delay = self.chance.uniform(0.001, 0.02)
        if not self.calm and self.chance.random() < 0.1:
            delay = self.chance.uniform(0.1, 1.5)
        dead = tuple(self.council.dead)
        self.after(delay, self.told, host, host.life, self.council.config, dead)

    def told(self, host: Host, life: int, config: Configuration, dead: tuple[str, ...]) -> None:
        up = host.replica is not None and host.life == life
        if not up or not self.reaches_council(host):
            return
        if self.now < host.stopped_until:
            self.after(host.stopped_until - self.now, self.told, host, life, config, dead)
            return
        assert host.replica is not None
        join = len(config.members) < 3 or host.id == self.joining
        host.replica.configure(config, self.local(host), join)
        for member in dead:
            host.replica.suspect(member, self.local(host))
        self.drive(host)

    joining = ""

    def to_council(self, host: Host, proposal: Configuration) -> None:
        delay = self.chance.uniform(0.001, 0.02)
        if not self.calm and self.chance.random() < 0.15:
            delay = self.chance.uniform(0.1, 2.0)
        self.after(delay, self.proposed, host, proposal)

    def proposed(self, host: Host, proposal: Configuration) -> None:
        if not self.reaches_council(host):
            return
        self.council.propose(proposal)
        if self.calm or self.chance.random() < 0.8:
            self.tell(host)

    # -- clients ---------------------------------------------------------------------------------

    def client_begins(self, client: Client) -> None:
        client.key = self.chance.randrange(KEYS)
        client.floor = self.oracle.floor
        client.begun = self.now
        client.busy = True
        roll = 1.0 if client.only_reads else self.chance.random()
        client.request = None
        if roll < 0.6:
            self._next_request += 1
            expect = client.last_seen.get(client.key, 0) if roll < 0.25 else None
            client.request = Request(self._next_request, client.key, self._next_request, expect)
        self.client_tries(client)

    def client_tries(self, client: Client) -> None:
        client.number += 1
        number = client.number
        if not client.loyal:
            client.target = self.council.config.primary
        target = self.hosts[client.target]
        delay = self.chance.uniform(0.0005, 0.01)
        if not self.calm and self.chance.random() < self.slow_rate:
            delay = self.chance.uniform(0.1, 3.0)
        self.after(delay, self.asked, target, client, number, client.request)
        self.after(self.patience_s, self.client_waited, client, number)

    def client_waited(self, client: Client, number: int) -> None:
        if client.number != number or not client.busy:
            return
        if self.now - client.begun > 8.0 and not self.calm:
            self.counts["unknown"] += 1
            self.client_rests(client)
        else:
            client.target = self.council.config.primary
            if self.chance.random() < 0.1:
                client.target = self.chance.choice(self.names)
            self.client_tries(client)

    def client_rests(self, client: Client) -> None:
        client.busy = False
        client.number += 1
        self.after(self.chance.expovariate(1 / self.think_s), self.client_begins, client)

    def asked(self, host: Host, client: Client, number: int, request: Request | None) -> None:
        """A request arrives, perhaps long after its client has gone on to something else."""
        if host.replica is None:
            return
        if self.now < host.stopped_until:
            self.after(host.stopped_until - self.now, self.asked, host, client, number, request)
            return
        if request is None:
            self.read(host, client, number)
            return

        def answer(result: Result) -> None:
            self.after(self.chance.uniform(0.0005, 0.01), self.answered, client, request, result)

        try:
            host.app.mutate(host.replica, request, self.local(host), answer)
        except Refused:
            self.counts["refused"] += 1
        self.drive(host)

    def answered(self, client: Client, request: Request, result: Result) -> None:
        if not client.busy or client.request is not request:
            return
        if self.chance.random() < 0.05 and not self.calm:
            return  # the answer is lost: the client asks again
        self.oracle.answers_write(request, result, client.floor)
        self.counts["writes"] += 1
        client.last_seen[request.key] = request.value if result[0] else result[1]
        self.client_rests(client)

    def read(self, host: Host, client: Client, number: int) -> None:
        replica = host.replica
        assert replica is not None
        ticket = replica.read_ticket()
        if self.options.read_mode == "confirm" and not replica.may_read(ticket, self.local(host)):
            try:
                replica.confirm(client.name * 1_000_000 + number, self.local(host))
            except Refused:
                self.counts["refused"] += 1
            self.drive(host)
            return
        look = (host.app.cells.get(client.key, (0, 0)), host.app.applied)
        # The process may stand still between looking and checking, as any program may.
        if not self.calm and self.chance.random() < 0.02:
            late = self.chance.uniform(0.1, 2.0)
            host.stopped_until = max(host.stopped_until, self.now + late)
            self.after(late, self.read_ends, host, host.life, client, number, (ticket, look))
        else:
            self.read_ends(host, host.life, client, number, (ticket, look))

    def read_ends(
        self,
        host: Host,
        life: int,
        client: Client,
        number: int,
        looked: tuple[int, tuple[tuple[int, int], int]],
    ) -> None:
        replica = host.replica
        ticket, look = looked
        if host.life != life or replica is None:
            return
        if not replica.may_read(ticket, self.local(host)):
            return
        self.read_answered(host, client, number, look)

    def read_confirmed(self, host: Host, context: int) -> None:
        client = self.clients[context // 1_000_000]
        look = (host.app.cells.get(client.key, (0, 0)), host.app.applied)
        self.read_answered(host, client, context % 1_000_000, look)

    def read_answered(
        self, host: Host, client: Client, number: int, look: tuple[tuple[int, int], int]
    ) -> None:
        if client.number != number or not client.busy:
            return
        seen, at = look
        self.oracle.answers_read(host.id, client.key, seen, at, client.floor)
        self.counts["reads"] += 1
        client.last_seen[client.key] = seen[1]
        self.client_rests(client)

    # -- trouble ---------------------------------------------------------------------------------

    def trouble(self) -> None:
        """One fault, or the end of some; then the next after a while."""
        if self.calm:
            return
        self.after(self.chance.expovariate(1 / self.trouble_s), self.trouble)
        kind = self.chance.choices(list(self.weights), list(self.weights.values()))[0]
        # The primary is the most rewarding victim.
        name = self.chance.choice([self.council.config.primary, *self.names])
        getattr(self, f"_trouble_{kind}")(self.hosts[name])

    def _trouble_crash(self, host: Host) -> None:
        self.crash(host)
        if self.chance.random() < 0.5:
            self.after(self.chance.uniform(0.01, 1.0), self._revive, host)

    def _revive(self, host: Host) -> None:
        if host.replica is None:
            self.start(host)

    def _trouble_start(self, host: Host) -> None:
        for each in self.hosts.values():
            if self.chance.random() < 0.7:
                self._revive(each)

    def _trouble_crash_all(self, host: Host) -> None:
        for each in self.hosts.values():
            self.crash(each)
            self.after(self.chance.uniform(0.01, 1.0), self._revive, each)

    def _trouble_stop(self, host: Host) -> None:
        host.stopped_until = self.now + self.chance.uniform(0.1, 2.0)

    def _trouble_stop_primary(self, host: Host) -> None:
        self._trouble_stop(self.hosts[self.council.config.primary])

    def _trouble_depose(self, host: Host) -> None:
        """The coordinators lose sight of the primary, and only they."""
        self.cut.add((self.council.config.primary, "council"))

    def _trouble_coup(self, host: Host) -> None:
        """The coordinators lose sight of the primary; just before the next one takes over the old
        one is cut off, and perhaps the others start anew. The moment for a stale read."""
        primary = self.hosts[self.council.config.primary]
        self.cut.add((primary.id, "council"))
        if self.chance.random() < 0.5:
            self.after(self.chance.uniform(0.4, 0.6), self._trouble_isolate, primary)
        else:
            self.after(0.5, self._trouble_isolate, primary)
            for other in self.hosts.values():
                if other is not primary:
                    at = self.chance.uniform(0.5, 0.55)
                    self.after(at, self._crash_planned, other)
                    self.after(at + self.chance.uniform(0.01, 0.05), self._revive, other)

    def _trouble_echo(self, host: Host) -> None:
        """An ACK comes so late that its receiver has ceased to be primary and become it again, and what
        was ACKed has been cut off meanwhile."""
        config = self.council.config
        others = [member for member in config.members if member != config.primary]
        if len(others) < 2:
            return
        between, late = self.chance.sample(others, 2)
        self.cut |= {(config.primary, between), (late, config.primary)}
        self.after(0.2, self._appoint, between, (config.primary, between))
        back = self.chance.uniform(0.72, 0.85)
        self.after(back, self._appoint, config.primary, None)
        self.after(back, self._cut_planned, (config.primary, late))
        self.after(self.chance.uniform(0.9, 1.5), self.unstall, late, config.primary)

    def _appoint(self, name: str, mend: tuple[str, str] | None) -> None:
        """The operator wants another primary."""
        if self.calm:
            return
        if mend is not None:
            self.cut.discard(mend)
            self.reset(*mend)
        config = self.council.config
        if name in config.members:
            self.council.propose(evolve(config, cfg=config.cfg + 1, primary=name))

    def _cut_planned(self, pair: tuple[str, str]) -> None:
        if not self.calm:
            self.cut.add(pair)

    def _crash_planned(self, host: Host) -> None:
        if not self.calm:
            self.crash(host)

    def _trouble_cut(self, host: Host) -> None:
        self.cut.add((host.id, self.chance.choice([*self.names, "council"])))

    def _trouble_isolate(self, host: Host) -> None:
        if self.calm:
            return
        others = list(self.names)
        if self.chance.random() < 0.5:
            others.append("council")
        for other in others:
            self.cut |= {(host.id, other), (other, host.id)}

    def _trouble_council(self, host: Host) -> None:
        self.council_down = True

    def _trouble_mend(self, host: Host) -> None:
        self.mend()

    def _trouble_reset(self, host: Host) -> None:
        other = self.chance.choice([name for name in self.names if name != host.id])
        self.reset(host.id, other)
        self.reset(other, host.id)

    def _trouble_hang(self, host: Host) -> None:
        host.hangs_until = self.now + self.chance.uniform(0.1, 3.0)

    def _trouble_full(self, host: Host) -> None:
        host.full_until = self.now + self.chance.uniform(0.1, 2.0)

    def _trouble_wipe(self, host: Host) -> None:
        """A disk is lost. Not the last member's, whose loss nothing could repair."""
        config = self.council.config
        others = [self.hosts[m] for m in config.members if m != host.id]
        if config.primary == host.id or all(other.disk.blank for other in others):
            return
        self.crash(host)
        self.counts["wipes"] += 1
        host.disk = Disk(incarnation=host.disk.incarnation)
        if host.id in config.members:
            # Until another takes its place nobody else is lost.
            self.weights["wipe"] = 0.0
            self.after(3.0, self._wipe_again)
        self.after(self.chance.uniform(0.01, 1.0), self._revive, host)

    def _wipe_again(self) -> None:
        if not any(self.hosts[m].disk.blank for m in self.council.config.members):
            self.weights["wipe"] = 0.5
        else:
            self.after(3.0, self._wipe_again)

    def _trouble_move(self, host: Host) -> None:
        """A server without a replica gets one, whether or not it is needed."""
        outside = [name for name in self.names if name not in self.council.config.members]
        if outside:
            self.joining = self.chance.choice(outside)

    def _trouble_hand_over(self, host: Host) -> None:
        primary = self.hosts[self.council.config.primary]
        if primary.replica is not None and primary.replica.role == "primary":
            to = self.chance.choice(self.council.config.members)
            try:
                primary.replica.hand_over(to, self.local(primary))
            except Refused:
                return
            self.counts["hand-overs"] += 1

    # -- the end ---------------------------------------------------------------------------------

    def converge(self, seconds: float = 30.0) -> None:
        """Liveness: after the faults three members serve, agree, and answer every client."""
        self.calm = True
        self.mend()
        for host in self.hosts.values():
            host.stopped_until = host.hangs_until = host.full_until = 0.0
            if host.replica is not None:
                host.replica.room_again()
            self._revive(host)
        writes = self.counts["writes"]
        end = self.now + seconds
        while self.now < end:
            self.run(0.5)
            if self.counts["writes"] > writes + 5 and self.is_whole():
                self.check_members()
                return
        raise Violation(f"no convergence: {self.council.config}, {self.describe()}")

    def is_whole(self) -> bool:
        config = self.council.config
        if len(config.members) < 3:
            return False
        for member in config.members:
            host = self.hosts[member]
            if host.replica is None or host.replica.committed < len(self.oracle.chosen) - 20:
                return False
        return True

    def describe(self) -> str:
        """For the report of a violation."""
        return "; ".join(
            f"{h.id} {h.replica.role} cfg {h.replica.config and h.replica.config.cfg}"
            f" sealed {h.replica.state.sealed} {h.replica.committed}/{h.replica.prepared}"
            if h.replica
            else f"{h.id} down"
            for h in self.hosts.values()
        )
