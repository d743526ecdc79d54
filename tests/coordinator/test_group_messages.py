"""Raft's messages on their way between coordinators."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.group_messages import RaftNote, decode_message, encode_message
from penncloud.raft.messages import (
    Appended,
    AppendEntries,
    Entry,
    InstallSnapshot,
    Membership,
    Message,
    ReadAnswer,
    ReadRequest,
    RequestVote,
    SnapshotReceived,
    TimeoutNow,
    Vote,
)

MEMBERS = Membership(frozenset({"c1", "c2", "c3"}), frozenset({"c4"}))
ENTRIES = (
    Entry(4, 2, "noop"),
    Entry(5, 2, "command", b"\0\xff"),
    Entry(6, 2, "membership", b"", MEMBERS),
)
MESSAGES: tuple[Message, ...] = (
    RequestVote("c1", "c2", 3, 6, 2, pre=True),
    Vote("c2", "c1", 3, True),
    AppendEntries("c1", "c2", 3, 3, 1, ENTRIES, 2, 9),
    Appended("c2", "c1", 3, False, 4, 9, 2, 1),
    InstallSnapshot("c1", "c2", 3, 6, 2, MEMBERS, 100, b"\0piece", True, 7),
    SnapshotReceived("c2", "c1", 3, 6, 107),
    TimeoutNow("c1", "c2", 3),
    ReadRequest("c2", "c1", 3, 55),
    ReadAnswer("c1", "c2", 3, 55, 6),
)


class CodecTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """Every message arrives as it was sent."""
        for message in MESSAGES:
            self.assertEqual(decode_message(encode_message(message)), message)

    def test_rubbish(self) -> None:
        """What is no message is an error, not a crash."""
        for note in (
            RaftNote("Exec", msgspec.Raw(b"\x80")),
            RaftNote("Vote", msgspec.Raw(b"\x80")),
            RaftNote("Vote", msgspec.Raw(b"\xc1")),
        ):
            with self.assertRaises(ValueError):
                decode_message(note)
