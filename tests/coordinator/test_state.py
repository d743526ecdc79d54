"""The deterministic machine."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.commands import (
    Applied,
    BeginTerm,
    ChangeMembers,
    Command,
    Configure,
    CreateTablets,
    DrainNode,
    ForcePrimary,
    ForgetNode,
    RegisterNode,
    Rejected,
    Reserved,
    ReserveIds,
    Result,
    SetEnabled,
    TabletRecord,
    TakeTablets,
)
from penncloud.coordinator.records import FORMAT, MAX_AUDIT_ENTRIES, NewerState
from penncloud.coordinator.state import MAX_REQUESTS, StateMachine
from penncloud.rpc.registration import Identity
from tests.coordinator.commands import FOUNDING, HTTP_1, STORAGE_1, STORAGE_2, TWO_TABLETS, commands

HTTP_2 = msgspec.structs.replace(HTTP_1, id="http-2", port=8082)
STORAGE_3 = msgspec.structs.replace(STORAGE_2, id="storage-3", port=8703)


def machine(*more: Command) -> StateMachine:
    """A founded cluster to which `more` was applied."""
    result = StateMachine()
    for command in (*FOUNDING, *more):
        result.apply(command)
    return result


def _without_taken(tablets: dict[int, TabletRecord]) -> list[TabletRecord]:
    return [msgspec.structs.replace(tablet, taken=[]) for tablet in tablets.values()]


def _configuration(tablet: TabletRecord) -> tuple[object, ...]:
    return tablet.epoch, tablet.primary, tablet.incarnation, tablet.members


# The founded cluster of `commands` with tablet 1 taken and http-1 disabled, as format 1 wrote it.
FORMAT_1 = (
    b"\x86\xa4term\x01\xabmap_version\x01\xa5nodes\x93"
    b"\x83\xa4node\x87\xa4role\xa4http\xa2id\xa6http-1\xa4host\xa9127.0.0.1\xa4port\xcd\x1f\x91"
    b"\xa3pid\x15\xa5agent\xa0\xacmetrics_port\x00\xabincarnation\x03\xa7enabled\xc2"
    b"\x83\xa4node\x87\xa4role\xa7storage\xa2id\xa9storage-1\xa4host\xa9127.0.0.1\xa4port\xcd!\xfd"
    b"\xa3pid\x0b\xa5agent\xa0\xacmetrics_port\x00\xabincarnation\x01\xa7enabled\xc3"
    b"\x83\xa4node\x87\xa4role\xa7storage\xa2id\xa9storage-2\xa4host\xa9127.0.0.1\xa4port\xcd!\xfe"
    b"\xa3pid\x0c\xa5agent\xa0\xacmetrics_port\x00\xabincarnation\x02\xa7enabled\xc3\xa7tablets\x92"
    b"\x87\xa2id\x01\xa2lo\x00\xa2hi\xce\x80\x00\x00\x00\xa5epoch\x01\xa7primary\xa9storage-1"
    b"\xa7members\x91\xa9storage-1\xa5taken\x91\xa9storage-1"
    b"\x87\xa2id\x02\xa2lo\xce\x80\x00\x00\x00\xa2hi\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa5epoch\x01"
    b"\xa7primary\xa9storage-2\xa7members\x91\xa9storage-2\xa5taken\x90\xa5audit\x91"
    b"\x82\xa2at\xcb?\xf0\x00\x00\x00\x00\x00\x00\xa4text\xbbcoordinator-1 begins term 1"
    b"\xa8requests\x91\xa2r1"
)


class ReplayTests(SynchronousTestCase):
    @given(st.lists(commands, max_size=30), st.booleans())
    def test_same_commands_same_bytes(self, given: list[Command], founded: bool) -> None:
        """The same commands give the same results and the same state, byte for byte."""
        whole = [*FOUNDING, *given] if founded else given
        one, other = StateMachine(), StateMachine()
        self.assertEqual([one.apply(c) for c in whole], [other.apply(c) for c in whole])
        self.assertEqual(one.snapshot(), other.snapshot())

    @given(st.lists(commands, max_size=30), st.integers(0, 35))
    def test_snapshot_stands_for_the_commands(self, given: list[Command], cut: int) -> None:
        """A state restored from a snapshot goes on like the one it was taken from."""
        whole = [*FOUNDING, *given]
        one, other = StateMachine(), StateMachine()
        for command in whole[:cut]:
            one.apply(command)
        other.restore(one.snapshot())
        for command in whole[cut:]:
            self.assertEqual(one.apply(command), other.apply(command))
        self.assertEqual(one.snapshot(), other.snapshot())
        self.assertEqual(one.tablet_map.tablets, other.tablet_map.tablets)

    @given(st.lists(commands, max_size=30))
    def test_invariants(self, given: list[Command]) -> None:
        """Whatever is commanded: epochs and the map's version only grow, and by every change of a
        tablet; the map covers the hash space or is empty; what is rejected changes nothing."""
        subject = machine()
        for command in given:
            before = subject.snapshot()
            tablets, version = dict(subject.state.tablets), subject.state.map_version
            result = subject.apply(command)
            if isinstance(result, Rejected):
                rejected, after = StateMachine(), StateMachine()
                rejected.restore(before)
                after.restore(subject.snapshot())
                # But that it was, where that is to be remembered.
                rejected.state.requests = after.state.requests
                self.assertEqual(after.snapshot(), rejected.snapshot())
            for number, tablet in subject.state.tablets.items():
                old = tablets.get(number, tablet)
                grows = _configuration(tablet) != _configuration(old)
                self.assertEqual(tablet.epoch, old.epoch + grows)
                self._whole(tablet, subject)
            changed = _without_taken(subject.state.tablets) != _without_taken(tablets)
            self.assertEqual(subject.state.map_version > version, changed)
            # Raises for tablets that leave a gap or overlap.
            self.assertGreaterEqual(len(subject.tablet_map.tablets), 2)

    def _whole(self, tablet: TabletRecord, subject: StateMachine) -> None:
        members = set(tablet.members)
        self.assertTrue(members)
        self.assertLessEqual(set(tablet.taken), members)
        self.assertLess(set(tablet.leaving), members)
        self.assertFalse(set(tablet.learners) & members)
        self.assertLessEqual(members | set(tablet.learners), set(subject.state.nodes))
        self.assertNotIn(tablet.primary, tablet.leaving)
        if tablet.primary:
            self.assertIn(tablet.primary, tablet.members)
        self.assertLess(tablet.id, subject.state.next_tablet)


class FormatTests(SynchronousTestCase):
    def test_the_first_format(self) -> None:
        """A snapshot of the first format is read, and goes on as if it had been of this one."""
        subject = StateMachine()
        subject.restore(FORMAT_1)
        state = subject.state
        self.assertEqual((state.term, state.map_version, list(state.requests)), (1, 1, ["r1"]))
        expected = msgspec.structs.replace(TWO_TABLETS[0], taken=["storage-1"])
        self.assertEqual(list(state.tablets.values()), [expected, TWO_TABLETS[1]])
        self.assertFalse(state.nodes["http-1"].enabled)
        self.assertFalse(state.nodes["storage-1"].draining)
        self.assertEqual(subject.apply(ReserveIds(1.0, 2)), Reserved(3))
        again = StateMachine()
        again.restore(subject.snapshot())
        self.assertEqual(again.snapshot(), subject.snapshot())

    def test_a_later_format(self) -> None:
        """What a later version wrote is refused, not half understood."""
        later = msgspec.msgpack.encode({"format": FORMAT + 1, "tablets": "otherwise"})
        with self.assertRaisesRegex(NewerState, f"of format {FORMAT + 1}"):
            StateMachine().restore(later)

    def test_this_format(self) -> None:
        """The names and the order of the snapshot's fields stay."""
        document = msgspec.msgpack.decode(machine().snapshot())
        fields = "term map_version nodes tablets audit requests format next_tablet splits refused"
        self.assertEqual(" ".join(document), fields)
        record = "id lo hi epoch primary members taken incarnation learners leaving"
        self.assertEqual(" ".join(document["tablets"][0]), record)
        self.assertEqual(document["format"], 3)


class CommandTests(SynchronousTestCase):
    def _rejected(self, result: Result, code: str) -> None:
        assert isinstance(result, Rejected)
        self.assertEqual(result.code, code)

    def test_terms_count_starts(self) -> None:
        """Each start of the coordinator is a new term."""
        self.assertEqual(machine(BeginTerm(9.0, "coordinator-1", 2)).state.term, 2)

    def test_compare_and_set(self) -> None:
        """Of two configurations decided for the same epoch one applies."""
        subject = machine()
        members = ["storage-1", "storage-2"]
        self.assertEqual(subject.apply(Configure(9, 1, 1, "storage-2", members)), Applied(2))
        self._rejected(subject.apply(Configure(9, 1, 1, "storage-1", members)), "STALE")
        tablet = subject.tablet_map.tablets[0]
        self.assertEqual((tablet.epoch, tablet.primary), (2, "storage-2"))
        self.assertEqual(subject.apply(Configure(9, 1, 2, "", members)), Applied(3))
        self.assertEqual(subject.tablet_map.tablets[0].primary, "")

    def test_unfit_configurations(self) -> None:
        """Members are known storage servers, each once, and the primary is one of them."""
        subject = machine()
        self._rejected(subject.apply(Configure(9, 7, 1, "", ["storage-1"])), "NO_SUCH_TABLET")
        self._rejected(subject.apply(Configure(9, 1, 1, "", ["http-1"])), "NO_SUCH_NODE")
        self._rejected(subject.apply(Configure(9, 1, 1, "", [])), "BAD_MEMBERS")
        twice = Configure(9, 1, 1, "", ["storage-1", "storage-1"])
        self._rejected(subject.apply(twice), "BAD_MEMBERS")
        outside = Configure(9, 1, 1, "storage-2", ["storage-1"])
        self._rejected(subject.apply(outside), "BAD_MEMBERS")

    def test_tablets_once(self) -> None:
        """The hash space is cut once, and wholly."""
        self._rejected(machine().apply(CreateTablets(9.0, TWO_TABLETS)), "EXISTS")
        fresh = StateMachine()
        for command in FOUNDING[:-1]:
            fresh.apply(command)
        self._rejected(fresh.apply(CreateTablets(9.0, [])), "BAD_TABLETS")
        self._rejected(fresh.apply(CreateTablets(9.0, TWO_TABLETS[:1])), "BAD_TABLETS")
        self._rejected(fresh.apply(CreateTablets(9.0, [*TWO_TABLETS[:1] * 2])), "BAD_TABLETS")
        self.assertEqual(fresh.tablet_map.tablets, ())

    def test_taken(self) -> None:
        """Who has answered that it holds a tablet is remembered while it is a member of it."""
        one = machine(TakeTablets(6.0, "storage-1", [1, 2, 9]), TakeTablets(6.5, "storage-9", [1]))
        taken = lambda: [one.state.tablets[number].taken for number in (1, 2)]  # noqa: E731
        self.assertEqual(taken(), [["storage-1"], []])
        # Who joins does so by its primary's word, which knows that it has everything.
        one.apply(Configure(7.0, 1, 1, "storage-2", ["storage-2", "storage-1"]))
        self.assertEqual(taken(), [["storage-1", "storage-2"], []])
        one.apply(TakeTablets(8.0, "storage-2", [1, 2]))
        one.apply(Configure(9.0, 1, 2, "storage-2", ["storage-2"]))
        self.assertEqual(taken(), [["storage-2"], ["storage-2"]])

    def test_enabled_is_kept(self) -> None:
        """A disabled frontend stays disabled when it registers again."""
        subject = machine(SetEnabled(9.0, "http-1", False))
        moved = msgspec.structs.replace(HTTP_1, port=8099)
        subject.apply(RegisterNode(10.0, moved, 8))
        record = subject.state.nodes["http-1"]
        self.assertEqual((record.enabled, record.node.port), (False, 8099))

    def test_enabling_again_is_not_done_again(self) -> None:
        """A repetition that comes late does not undo what was changed in between."""
        subject = machine(SetEnabled(9.0, "http-1", False, "request-1"))
        subject.apply(SetEnabled(10.0, "http-1", True, "request-2"))
        restored = StateMachine()
        restored.restore(subject.snapshot())
        for each in (subject, restored):
            late = each.apply(SetEnabled(11.0, "http-1", False, "request-1"))
            self.assertIsInstance(late, Applied)
            self.assertTrue(each.state.nodes["http-1"].enabled)

    def test_refused_once_is_refused(self) -> None:
        """Who was told no can rely on it: an earlier attempt that comes late has the same answer."""
        subject = machine()
        refused = subject.apply(SetEnabled(9.0, "http-2", False, "request-1"))
        self._rejected(refused, "NO_SUCH_NODE")
        self._rejected(subject.apply(DrainNode(9.0, "storage-2", True, 2, "request-2")), "TOO_FEW")
        self._rejected(
            subject.apply(ForgetNode(9.0, "storage-2", request="request-3")), "HOLDS_TABLETS"
        )
        for server in (HTTP_2, STORAGE_3):
            subject.apply(RegisterNode(10.0, server, 9))
        subject.apply(ForgetNode(10.0, "storage-2", True, {2: "storage-1"}))
        restored = StateMachine()
        restored.restore(subject.snapshot())
        for each in (subject, restored):
            late = each.apply(SetEnabled(11.0, "http-2", False, "request-1"))
            self.assertEqual(late, refused)
            self.assertTrue(each.state.nodes["http-2"].enabled)
            self._rejected(
                each.apply(DrainNode(11.0, "storage-3", True, 1, "request-2")), "TOO_FEW"
            )
            self._rejected(
                each.apply(ForgetNode(11.0, "storage-3", request="request-3")), "HOLDS_TABLETS"
            )
            self.assertEqual(each.snapshot(), subject.snapshot())

    def test_what_is_asked_again(self) -> None:
        """A repetition of what was carried out is told so, though now it would be refused."""
        subject = machine()
        gone = ForgetNode(9.0, "storage-2", True, {2: "storage-1"}, "request-1")
        for _ in range(2):
            self.assertIsInstance(subject.apply(gone), Applied)
        # One that was taken back since is not done again.
        subject.apply(RegisterNode(10.0, STORAGE_3, 9))
        drain = DrainNode(10.0, "storage-3", True, 1, "request-2")
        subject.apply(drain)
        subject.apply(DrainNode(11.0, "storage-3", False, 1, "request-3"))
        self.assertIsInstance(subject.apply(drain), Applied)
        self.assertFalse(subject.state.nodes["storage-3"].draining)

    def test_forced_once(self) -> None:
        """A repetition that comes late does not throw away what was written since with other members."""
        subject = machine()
        force = ForcePrimary(9.0, 1, 1, "storage-2", 2, "request-1")
        self.assertEqual(subject.apply(force), Applied(2))
        subject.apply(
            ChangeMembers(10.0, "storage-2", 2, 1, 2, "storage-2", 2, ["storage-2", "storage-1"])
        )
        subject.apply(ChangeMembers(11.0, "storage-2", 2, 1, 3, "storage-1", 1, ["storage-1"]))
        restored = StateMachine()
        restored.restore(subject.snapshot())
        for each in (subject, restored):
            # A coordinator that was held up looks at what it knows when it gets to the request.
            late = each.apply(ForcePrimary(12.0, 1, 4, "storage-2", 2, "request-1"))
            self.assertIsInstance(late, Applied)
            self.assertEqual(each.state.tablets[1].members, ["storage-1"])

    def test_remembered_requests_are_bounded(self) -> None:
        """The oldest requests are forgotten."""
        subject = machine()
        for number in range(MAX_REQUESTS + 10):
            subject.apply(SetEnabled(9.0, "http-1", False, f"request-{number}"))
        self.assertEqual(len(subject.state.requests), MAX_REQUESTS)

    def test_enable_refused(self) -> None:
        """Only http servers that are known can be enabled."""
        subject = machine()
        self._rejected(subject.apply(SetEnabled(9.0, "http-9", True)), "NO_SUCH_NODE")
        self._rejected(subject.apply(SetEnabled(9.0, "storage-1", True)), "WRONG_ROLE")

    def test_a_clock_that_was_set_back(self) -> None:
        """A lower incarnation is another process of the same id, or one that follows: the leader, who
        sees that the known one has ended, says which."""
        subject = machine()
        earlier = RegisterNode(9.0, STORAGE_2, 1)
        self._rejected(subject.apply(earlier), "SUPERSEDED")
        self._rejected(subject.apply(msgspec.structs.replace(earlier, replaces=1)), "SUPERSEDED")
        follows = msgspec.structs.replace(earlier, replaces=2)
        self.assertEqual(subject.apply(follows), Applied())
        record = subject.state.nodes["storage-2"]
        self.assertEqual((record.incarnation, record.outranked), (1, 2))
        # Which one it has come after stays known until the clock is right again.
        subject.apply(RegisterNode(10.0, STORAGE_2, 0, 1))
        self.assertEqual(subject.state.nodes["storage-2"].outranked, 2)
        subject.apply(RegisterNode(10.0, STORAGE_2, 3))
        self.assertEqual(subject.state.nodes["storage-2"].outranked, 0)

    def test_roles_stay(self) -> None:
        """An id belongs to one role."""
        other = Identity("smtp", STORAGE_1.id, "127.0.0.1", 1, 1)
        self._rejected(machine().apply(RegisterNode(9.0, other, 9)), "WRONG_ROLE")

    def test_audit_is_bounded(self) -> None:
        """What was decided is remembered in words, the latest entries of it."""
        subject = machine()
        self.assertEqual(subject.state.audit[-1].text, "2 tablets created")
        for number in range(MAX_AUDIT_ENTRIES + 5):
            subject.apply(BeginTerm(float(number), "coordinator-1", number + 1))
        self.assertEqual(len(subject.state.audit), MAX_AUDIT_ENTRIES)
        self.assertEqual(subject.state.audit[-1].at, MAX_AUDIT_ENTRIES + 4)
