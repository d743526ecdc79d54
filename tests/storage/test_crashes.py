"""Tablets on the real engine and a simulated disk, with the power cut again and again.

A client sends mutations with request ids and repeats what was not answered, as the design asks of it. In
the end the answers tell the whole history: in the order of their versions the mutations that succeeded
have to give exactly the cells that are there, and what a failed one was shown has to have been there.
"""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.engine import Engine
from penncloud.lsm.entry import PutEffect
from penncloud.lsm.options import EngineOptions
from penncloud.placement.tablets import even_ranges, row_hash
from penncloud.platform.environment import Environment
from penncloud.platform.memory_disk import Fault, MemoryDisk
from penncloud.rpc.registration import Assign, TabletAssignment
from penncloud.storage.decide import NOTHING, Seen, decide
from penncloud.storage.standing import Standings
from penncloud.wire.messages import (
    AppendCell,
    Busy,
    Cells,
    CompareAndPut,
    CompareVersionAndPut,
    Delete,
    Mismatch,
    Missing,
    Mutate,
    Mutation,
    Ok,
    Put,
    Reply,
    RequestId,
    ScanTablet,
    Unknown,
)
from tests.lsm.machine import Machine, no_threads
from tests.storage.alone import Alone
from tests.storage.test_decide import Row

# Small sizes, so that logs and checkpoints are many.
OPTIONS = EngineOptions(memtable_bytes=20_000, segment_bytes=8_000, checkpoint_writes=10)
ROWS = [b"row-%d" % index for index in range(4)]
COLS = [b"a", b"b", b"c"]


class Server:
    """storage-1 without its sockets, alone; its coordinators make it primary whenever it can be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = Machine(seed, OPTIONS)
        self.clock = self.machine.clock
        self.epoch = 0
        self.taken = False
        self.start(self.machine.disk)

    def start(self, disk: MemoryDisk) -> None:
        self.disk = disk
        environment = Environment(
            self.clock, lambda: 0.0, self.random, self.random.randbytes, no_threads
        )
        engine = Engine(disk, environment, OPTIONS, CollectorRegistry())
        found = self.machine.run(engine.open())
        standings = Standings(disk)
        incarnation = self.machine.run(standings.begin(1))
        self.alone = Alone(
            self.clock, engine, incarnation=incarnation, standings=standings, disk=disk
        )
        self.alone.open(found)
        self.tablets = self.alone.tablets
        if not self.epoch:
            self.machine.run(self.alone.replicas.make(self.assigned()))
        self.lead()

    def assigned(self) -> tuple[TabletAssignment, ...]:
        """Both tablets, in the newest configuration."""
        incarnation = self.alone.incarnation
        return tuple(
            TabletAssignment(
                number,
                lo,
                hi,
                self.epoch,
                "storage-1",
                ["storage-1"],
                taken=self.epoch > 0,
                incarnation=incarnation,
            )
            for number, (lo, hi) in enumerate(even_ranges(2), 1)
        )

    def lead(self) -> None:
        """One more configuration, in which this process is the primary."""
        self.epoch += 1
        self.alone.replicas.act_on(Assign(self.epoch, list(self.assigned())))
        self.tablets.assigned()
        self.machine.settle(1.0)

    def look(self) -> None:
        """As the coordinators do: whoever has given up and can lead again is named again."""
        self.alone.replicas._look_for_room()
        self.machine.settle(1.0)
        if any(tip.declined == self.epoch for tip in self.alone.replicas.tips()):
            self.lead()

    def crash(self) -> None:
        """Cut the power and start again."""
        self.start(self.disk.crash())

    def cells(self) -> dict[tuple[bytes, bytes], Seen]:
        found: dict[tuple[bytes, bytes], Seen] = {}
        for tablet in self.tablets.tablets:
            page = tablet.scan_all(ScanTablet(tablet.id, b"", b"", 1000, 1000))
            assert isinstance(page, Cells)
            assert not page.more
            for cell in page.cells:
                found[cell.row, cell.col] = (cell.version, cell.value)
        return found


class Client:
    """Sends, repeats what is not answered, and remembers what it was told."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.random = server.random
        self.sent: dict[RequestId, Mutation] = {}
        self.told: dict[RequestId, Reply] = {}
        # What the client believes to stand in a cell; often wrong.
        self.believed: dict[tuple[bytes, bytes], Seen] = {}

    def send(self, name: RequestId) -> None:
        """Ask, for the first time or again."""
        answer = self.server.tablets.mutate(self.sent[name], name)
        if isinstance(answer, Deferred):
            answer.addCallback(self.hear, name)
        else:
            self.hear(answer, name)

    def hear(self, reply: Reply, name: RequestId) -> None:
        if isinstance(reply, Busy | Unknown):
            return
        assert isinstance(reply, Ok | Mismatch | Missing), reply
        earlier = self.told.setdefault(name, reply)
        assert earlier == reply, f"{name} was answered {earlier}, then {reply}"
        mutation = self.sent[name]
        if isinstance(reply, Mismatch) and not isinstance(mutation, Mutate):
            self.believed[mutation.row, mutation.col] = (reply.version, reply.value)
        elif isinstance(reply, Ok) and isinstance(mutation, Put):
            self.believed[mutation.row, mutation.col] = (reply.version, mutation.value)

    def new(self) -> None:
        """One more mutation."""
        chance = self.random
        row, col = chance.choice(ROWS), chance.choice(COLS)
        number = len(self.sent) + 1
        version, value = self.believed.get((row, col), NOTHING)
        kinds: list[Mutation] = [
            Put(row, col, b"%d" % number),
            Delete(row, col),
            CompareVersionAndPut(row, col, version, b"%d" % number),
            CompareAndPut(row, col, value or b"", b"%d" % number),
            Mutate(row, (AppendCell(b"log/", b"%d" % number),)),
        ]
        mutation = chance.choice(kinds)
        name = RequestId(b"lane-%d" % (number % 20), number)
        self.sent[name] = mutation
        self.send(name)

    def unanswered(self) -> list[RequestId]:
        return [name for name in self.sent if name not in self.told]


class CrashTests(SynchronousTestCase):
    """Histories."""

    def run_history(self, seed: int, faults: bool = False) -> Client:
        server = Server(seed)
        client = Client(server)
        chance = server.random
        for _ in range(6):
            for _ in range(chance.randint(5, 40)):
                client.new()
                if chance.random() < 0.4:
                    server.clock.advance(chance.choice([0, 0.0005, 0.001, 0.1]))
                if faults and chance.random() < 0.05:
                    at = server.disk.operations + chance.randint(0, 5)
                    server.disk.faults[at] = Fault.FULL
            if chance.random() < 0.8:
                server.crash()
            if faults:
                server.look()
            for name in chance.sample(list(client.told), min(5, len(client.told))):
                client.send(name)
            for name in client.unanswered():
                client.send(name)
        server.disk.faults.clear()
        for _ in range(10):
            server.machine.settle(5.0)
            server.look()
            for name in client.unanswered():
                client.send(name)
        self.assertEqual(client.unanswered(), [])
        return client

    def check(self, client: Client) -> None:
        """The answers are one history, and the cells are its end."""
        history: dict[tuple[int, int], Mutation] = {}
        for name, reply in client.told.items():
            mutation = client.sent[name]
            if isinstance(reply, Ok):
                place = (row_hash(mutation.row) >> 31, reply.version)
                self.assertNotIn(place, history, "one version for two mutations")
                history[place] = mutation
        cells: dict[tuple[bytes, bytes], Seen] = {}
        ever: set[tuple[bytes, bytes, Seen]] = set()
        for place in sorted(history):
            mutation, version = history[place], place[1]
            before = {at[1]: seen for at, seen in cells.items() if at[0] == mutation.row}
            decision = decide(mutation, Row(before).view, version)
            self.assertEqual(decision.reply, Ok(version), mutation)
            for effect in decision.effects:
                if isinstance(effect, PutEffect):
                    cells[effect.row, effect.col] = (version, effect.value)
                    ever.add((effect.row, effect.col, (version, effect.value)))
                else:
                    del cells[effect.row, effect.col]
        self.assertEqual(client.server.cells(), cells)
        for name, reply in client.told.items():
            mutation = client.sent[name]
            if isinstance(reply, Mismatch) and reply.value is not None:
                assert isinstance(mutation, CompareAndPut | CompareVersionAndPut)
                shown = (mutation.row, mutation.col, (reply.version, reply.value))
                self.assertIn(shown, ever, "shown what was never there")

    def test_power_cuts(self) -> None:
        """Nothing answered is lost or done twice, and every repeat gets the first answer."""
        kinds: set[type[Reply]] = set()
        for seed in range(15):
            client = self.run_history(seed)
            self.check(client)
            kinds |= {type(reply) for reply in client.told.values()}
        self.assertEqual(kinds, {Ok, Mismatch, Missing})

    def test_power_cuts_and_a_disk_that_is_full_now_and_then(self) -> None:
        """What is refused for lack of room was not done, and is done when there is room."""
        for seed in range(15):
            self.check(self.run_history(seed, faults=True))
