"""docs/wire-protocol.md shows what a storage server really answers: its examples are one session."""

from __future__ import annotations

from itertools import groupby

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from penncloud.placement.tablets import HASH_SPACE
from penncloud.rpc.registration import TabletAssignment
from penncloud.storage.factory import TextFactory
from penncloud.wire.messages import Put
from tests.storage.alone import Alone
from tests.storage.memory_engine import MemoryEngine
from tests.wire.test_documentation import BLOCKS

# The version at which the session of the page begins.
VERSION = 16


class SessionTests(SynchronousTestCase):
    """A server with an empty tablet 1, and tablet 2 with all rows of the page."""

    def setUp(self) -> None:
        self.clock = Clock()
        server = Alone(self.clock, MemoryEngine(instant=True))
        server.open()
        self.tablets = server.tablets
        assigned = [
            TabletAssignment(1, 0, 1, 1, "storage-1", ["storage-1"]),
            TabletAssignment(2, 1, HASH_SPACE, 1, "storage-1", ["storage-1"]),
        ]
        server.lead(assigned)
        # A primary begins with an entry of its own.
        for _ in range(VERSION - 1):
            self.write(b"before")
        self.transport = StringTransport()
        self.client = TextFactory(self.clock, self.tablets, 256).buildProtocol(None)
        self.client.makeConnection(self.transport)

    def write(self, row: bytes) -> None:
        self.tablets.mutate(Put(row, b"c", b""), None)
        self.clock.advance(0)

    def test_the_session(self) -> None:
        """Every request of the page gets the reply that stands below it."""
        for block in BLOCKS:
            if "« MAP" not in block:  # a coordinator's
                self.check(block)

    def check(self, block: str) -> None:
        for mark, group in groupby(block.splitlines(), key=lambda line: line[0]):
            lines = [line[2:].encode("ascii") + b"\r\n" for line in group]
            if mark == "«":
                self.client.dataReceived(b"".join(lines))
                self.clock.advance(0)
                continue
            for line in lines:
                if line.startswith(b"!CHANGED"):
                    self.write(line.split(b";")[1])
            self.assertEqual(self.transport.value(), b"".join(lines), block)
            self.transport.clear()
