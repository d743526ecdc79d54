"""Connections between storage servers: order, the newest one only, and what every message becomes."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.lsm.entry import DeleteEffect, Entry, PutEffect
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Commit,
    Fetch,
    Message,
    Offer,
    Piece,
    Prep,
    Reason,
    Reject,
    Sync,
)
from penncloud.storage.peer_messages import Batch, PeerHello, decode, encode
from penncloud.storage.peers import Peers
from tests.storage.servers import Servers

ENTRY = Entry(7, 3, 2, b"me", 9, (PutEffect(b"r", b"c", b"v"), DeleteEffect(b"r", b"d")), b"\x03")
MESSAGES: list[Message] = [
    Prep("a", "b", 7, 2, 2, 1, (ENTRY, ENTRY), 2, 1.5, 11, 0),
    Ack("a", "b", 7, 2, 3, float("-inf"), 11),
    *(Reject("a", "b", 7, 2, reason, 3, 1) for reason in Reason),
    Commit("a", "b", 7, 2, 3),
    Sync("a", "b", 7, 5, 3, 2, True),
    Offer("a", "b", 7, 2, Checkpoint(4, 3, 2)),
    Fetch("a", "b", 7, 4, 1000),
    Piece("a", "b", 7, 2, 4, 1000, b"data", crc32(b"data"), True),
]


class _Connection:
    """The receiving end of a peer's connection."""

    certified = None
    peer = "here"

    def __init__(self) -> None:
        self.dropped = ""

    def drop(self, reason: str) -> None:
        self.dropped = reason


class CodecTests(SynchronousTestCase):
    """Bytes."""

    def test_round_trip(self) -> None:
        """Every sort of message arrives as it was sent."""
        encoded = [msgspec.Raw(encode(message)) for message in MESSAGES]
        self.assertEqual(decode(encoded, "a", "b"), MESSAGES)

    def test_junk(self) -> None:
        """What is no message is told as such."""
        for junk in (b"", b"\x91\x09", b"\xc0", encode(MESSAGES[0])[:-1]):
            with self.assertRaises(msgspec.MsgspecError):
                decode([msgspec.Raw(junk)], "a", "b")


class ReceivingTests(SynchronousTestCase):
    """Which connection of a sender counts."""

    def setUp(self) -> None:
        self.heard: list[tuple[str, list[Message]]] = []
        self.peers = Peers(
            None,  # type: ignore[arg-type]
            "b",
            1,
            b"",
            received=lambda sender, messages: self.heard.append((sender, messages)),
            reconnected=lambda _peer: None,
        )

    def greet(self, incarnation: int, number: int) -> Any:
        connection: Any = _Connection()
        self.peers._greeted(connection, PeerHello("a", incarnation, number))
        return connection

    def say(self, connection: Any, message: Message = MESSAGES[1]) -> None:
        self.peers._take(connection, Batch([msgspec.Raw(encode(message))]))

    def test_the_newest_connection_counts(self) -> None:
        """What comes late of an older one is not looked at, whichever greeting came first."""
        first, second = self.greet(1, 1), self.greet(1, 2)
        self.say(first)
        self.assertEqual(self.heard, [])
        self.assertTrue(first.dropped)
        self.say(second)
        self.assertEqual(self.heard, [("a", [MESSAGES[1]])])
        late = self.greet(1, 1)
        self.assertTrue(late.dropped)
        self.say(late)
        self.assertEqual(len(self.heard), 1)
        restarted = self.greet(2, 1)
        self.assertTrue(second.dropped)
        self.say(restarted)
        self.assertEqual(len(self.heard), 2)

    def test_an_older_one_after_the_newest_has_ended(self) -> None:
        """It is as late then as before."""
        newest = self.greet(1, 2)
        self.peers.lost(newest)
        self.assertTrue(self.greet(1, 1).dropped)

    def test_a_clock_that_was_set_back(self) -> None:
        """An empty disk knows no earlier incarnation: what the coordinators say of them counts."""
        before = self.greet(9, 3)
        after = self.greet(5, 1)
        self.assertTrue(after.dropped, "nobody has said so yet")
        self.peers.believe({"a": (5, 9)})
        self.assertTrue(before.dropped)
        self.say(before)
        after = self.greet(5, 2)
        self.assertFalse(after.dropped)
        self.say(after)
        self.assertEqual(len(self.heard), 1)
        for late in (9, 7, 4):
            self.assertTrue(self.greet(late, 10).dropped, late)
        self.assertFalse(after.dropped)
        restarted = self.greet(10, 1)
        self.assertFalse(restarted.dropped)
        self.assertTrue(after.dropped)
        # The news may be older than the process that was heard.
        self.peers.believe({"a": (5, 9)})
        self.assertFalse(restarted.dropped)

    def test_without_greeting(self) -> None:
        """Nobody knows who says it."""
        self.say(_Connection())
        self.assertEqual(self.heard, [])

    def test_junk_ends_the_connection(self) -> None:
        """One side is broken: its replica does not have to guess."""
        connection = self.greet(1, 1)
        self.peers._take(connection, Batch([msgspec.Raw(b"\xc0")]))
        self.assertIn("no message", connection.dropped)
        self.assertEqual(self.heard, [])


class LinkTests(SynchronousTestCase):
    """Servers that lose each other."""

    def test_a_link_that_is_cut(self) -> None:
        """Both find each other again and the group is whole, without anybody being restarted."""
        servers = Servers()
        primary = servers.ready()
        other = next(name for name in servers.hosts if name != primary)
        servers.isolate(other, *(name for name in servers.hosts if name != other))
        servers.until(lambda: len(servers.coordinator.tablet().members) == 2)
        servers.mend()
        servers.ready()
        self.assertEqual(servers.world.errors, [])
