"""Replicas as they are decided: proposals, wishes, splits, losses."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from penncloud.coordinator.commands import (
    Applied,
    ChangeMembers,
    Command,
    Configure,
    CreateTablets,
    DrainNode,
    ForcePrimary,
    ForgetNode,
    PlanReplicas,
    RegisterNode,
    Rejected,
    Reserved,
    ReserveIds,
    SplitTablet,
    TabletRecord,
    TakeTablets,
)
from penncloud.coordinator.state import StateMachine
from penncloud.placement.tablets import HASH_SPACE
from penncloud.rpc.registration import Identity

HALF = HASH_SPACE // 2
ONE, TWO, THREE, FOUR = SERVERS = [f"storage-{n}" for n in range(1, 5)]
# Each server's incarnation.
NOW = {name: 10 + n for n, name in enumerate(SERVERS)}


class ReplicaCommandTests(SynchronousTestCase):
    """One tablet of three members, of which storage-1 is the primary in epoch 1; storage-4 is idle."""

    def setUp(self) -> None:
        self.machine = StateMachine()
        for name in SERVERS:
            self._do(RegisterNode(1.0, Identity("storage", name, "127.0.0.1", 1, 1), NOW[name]))
        members = [ONE, TWO, THREE]
        self._do(CreateTablets(2.0, [TabletRecord(1, 0, HASH_SPACE, 0, "", members)]))
        for member in members:
            self._do(TakeTablets(3.0, member, [1]))
        self._do(Configure(4.0, 1, 0, ONE, members, NOW[ONE]))

    def _do(self, command: Command) -> Any:
        """A Rejected becomes its code."""
        result = self.machine.apply(command)
        return result.code if isinstance(result, Rejected) else result

    @property
    def _tablet(self) -> TabletRecord:
        [tablet] = self.machine.state.tablets.values()
        return tablet

    def _propose(self, expect: int, *members: str, **change: Any) -> Any:
        usual = ChangeMembers(5.0, ONE, NOW[ONE], 1, expect, ONE, NOW[ONE], list(members))
        return self._do(msgspec.structs.replace(usual, **change))

    def test_birth_waits_for_its_members(self) -> None:
        """A tablet gets a primary only when all its members have made it: what they take later is lost."""
        machine = StateMachine()
        for name in SERVERS:
            machine.apply(RegisterNode(1.0, Identity("storage", name, "h", 1, 1), 1))
        machine.apply(CreateTablets(2.0, [TabletRecord(1, 0, HASH_SPACE, 0, "", [ONE, TWO])]))
        self.assertTrue(machine.state.tablets[1].is_new)
        machine.apply(TakeTablets(3.0, ONE, [1]))
        both = machine.apply(Configure(4.0, 1, 0, ONE, [ONE, TWO], 1))
        self.assertEqual(getattr(both, "code", ""), "NOT_TAKEN")
        self.assertEqual(machine.apply(Configure(4.0, 1, 0, ONE, [ONE], 1)), Applied(1))
        self.assertFalse(machine.state.tablets[1].is_new)

    def test_removal(self) -> None:
        """The primary removes members; the last one stays."""
        self.assertEqual(self._propose(1, ONE, THREE), Applied(2))
        self.assertEqual(self._propose(2, ONE), Applied(3))
        self.assertEqual(self._propose(3), "BAD_MEMBERS")
        self.assertEqual((self._tablet.members, self._tablet.taken), ([ONE], [ONE]))

    def test_joining(self) -> None:
        """A learner joins by its primary's word, is one no more, and has taken the tablet."""
        self._do(PlanReplicas(4.0, 1, 1, [FOUR], []))
        self.assertEqual(self._propose(1, ONE, TWO, THREE, FOUR), Applied(2))
        self.assertEqual(self._tablet.learners, [])
        self.assertIn(FOUR, self._tablet.taken)

    def test_two_join_at_once(self) -> None:
        """Members join one at a time: the joint rule covers one."""
        self._propose(1, ONE)
        self.assertEqual(self._propose(2, ONE, TWO, FOUR), "BAD_MEMBERS")

    def test_two_proposals(self) -> None:
        """Of two changes for the same epoch one applies, whoever decided them."""
        self.assertEqual(self._propose(1, ONE, THREE), Applied(2))
        self.assertEqual(self._propose(1, ONE, TWO), "STALE")
        self.assertEqual(self._do(Configure(6.0, 1, 1, TWO, [ONE, TWO, THREE], 11)), "STALE")
        self.assertEqual(self._do(Configure(6.0, 1, 2, THREE, [ONE, THREE], 12)), Applied(3))

    def test_only_the_primary_proposes(self) -> None:
        """Another server, or another process of the same one, does not know who has everything."""
        self.assertEqual(self._propose(1, ONE, TWO, proposer=TWO), "NOT_PRIMARY")
        self.assertEqual(self._propose(1, ONE, TWO, proposer_incarnation=9), "NOT_PRIMARY")
        self._do(Configure(6.0, 1, 1, TWO, [ONE, TWO, THREE], NOW[TWO]))
        self.assertEqual(self._propose(2, ONE), "NOT_PRIMARY")

    def test_hand_over(self) -> None:
        """A primary that hands over does not know the other's incarnation; the coordinators do."""
        members = [ONE, TWO, THREE]
        self.assertEqual(self._propose(1, *members, primary=TWO, incarnation=0), Applied(2))
        self.assertEqual((self._tablet.primary, self._tablet.incarnation), (TWO, NOW[TWO]))

    def test_a_proposal_always_gets_an_outcome(self) -> None:
        """A learner that was withdrawn, and even forgotten, does not leave its primary waiting for it."""
        self._do(PlanReplicas(4.0, 1, 1, [FOUR], []))
        self._do(PlanReplicas(4.0, 1, 1, [], []))
        self.assertEqual(self._propose(1, ONE, TWO, THREE, FOUR), Applied(2))
        self._propose(2, ONE, TWO, THREE)
        self.assertEqual(self._do(ForgetNode(6.0, FOUR)), Applied())
        self.assertEqual(self._propose(3, ONE, TWO, THREE, FOUR), Applied(4))
        self.assertEqual(self._tablet.members, [ONE, TWO, THREE])

    def test_wishes(self) -> None:
        """Who shall join and leave is known without touching the epoch, and the map says it has changed."""
        before = self.machine.state.map_version
        self.assertEqual(self._do(PlanReplicas(5.0, 1, 1, [FOUR], [THREE])), Applied(1))
        self.assertEqual((self._tablet.learners, self._tablet.leaving), ([FOUR], [THREE]))
        self.assertEqual(self.machine.state.map_version, before + 1)
        for learners, leaving in (([TWO], []), ([], [ONE]), ([], [FOUR]), ([FOUR, FOUR], [])):
            wish = PlanReplicas(5.0, 1, 1, learners, leaving)
            self.assertEqual(self._do(wish), "BAD_MEMBERS")
        self.assertEqual(self._do(PlanReplicas(5.0, 1, 2, [], [])), "STALE")
        self.assertEqual(self._do(PlanReplicas(5.0, 1, 1, ["storage-9"], [])), "NO_SUCH_NODE")
        self._propose(1, ONE, TWO)
        self.assertEqual((self._tablet.learners, self._tablet.leaving), ([FOUR], []))

    def test_a_leaver_that_becomes_primary_stays(self) -> None:
        """A primary cannot remove itself."""
        self._do(PlanReplicas(5.0, 1, 1, [], [TWO]))
        self._do(Configure(6.0, 1, 1, TWO, [ONE, TWO, THREE], NOW[TWO]))
        self.assertEqual(self._tablet.leaving, [])

    # -- split -----------------------------------------------------------------------------------

    def _split(self, expect: int = 1, at: int = HALF, **change: Any) -> Any:
        usual = SplitTablet(6.0, ONE, NOW[ONE], 1, expect, at, 2, 3)
        return self._do(msgspec.structs.replace(usual, **change))

    def test_split(self) -> None:
        """Two tablets take the place of one at once, with its members, an epoch above it."""
        self.assertEqual(self._do(ReserveIds(5.0, 2)), Reserved(2))
        self._propose(1, ONE, TWO)
        self.assertEqual(self._split(2), Applied(3))
        low, high = self.machine.tablet_map.tablets
        self.assertEqual([(low.id, low.lo, low.hi), (high.id, high.hi)], [(2, 0, HALF), (3, 2**32)])
        for child in self.machine.state.tablets.values():
            self.assertEqual((child.epoch, child.primary, child.incarnation), (3, ONE, NOW[ONE]))
            self.assertEqual((child.members, child.taken), ([ONE, TWO], [ONE, TWO]))
        self.assertEqual(self.machine.state.children(1), [2, 3])

    def test_split_again(self) -> None:
        """The same split, asked for again by anybody, was done; another one was not."""
        self._do(ReserveIds(5.0, 4))
        self._split()
        self.assertEqual(self._split(7, proposer=TWO), Applied(2))
        self.assertEqual(self._split(low=4, high=5), "SPLIT")
        self.assertEqual(self._propose(1, ONE), "NO_SUCH_TABLET")

    def test_grandchildren(self) -> None:
        """What became of a tablet is known over many splits."""
        self._do(ReserveIds(5.0, 4))
        self._split()
        second = SplitTablet(7.0, ONE, NOW[ONE], 2, 2, HALF // 2, 4, 5)
        self.assertEqual(self._do(second), Applied(3))
        self.assertEqual(self.machine.state.children(1), [4, 5, 3])
        self.assertEqual(self.machine.state.children(9), [])

    def test_splits_that_are_none(self) -> None:
        """Ids are reserved ones that nobody has, both parts hold something, the primary asks."""
        self.assertEqual(self._split(), "BAD_TABLETS")
        self._do(ReserveIds(5.0, 2))
        self.assertEqual(self._split(low=1), "BAD_TABLETS")
        self.assertEqual(self._split(low=3), "BAD_TABLETS")
        self.assertEqual(self._split(at=0), "BAD_TABLETS")
        self.assertEqual(self._split(at=HASH_SPACE), "BAD_TABLETS")
        self.assertEqual(self._split(proposer=TWO), "NOT_PRIMARY")
        self.assertEqual(self._split(2), "STALE")
        self.assertEqual(self._do(ReserveIds(5.0, 0)), "BAD_COUNT")
        self.assertEqual(self._split(), Applied(2))

    # -- servers that go -------------------------------------------------------------------------

    def test_drain(self) -> None:
        """A server is drained only while enough others are left to hold its tablets."""
        self.assertEqual(self._do(DrainNode(5.0, THREE, True, 3)), Applied())
        self.assertEqual(self._do(DrainNode(5.0, TWO, True, 3)), "TOO_FEW")
        self.assertEqual(self._do(DrainNode(5.0, THREE, False, 3)), Applied())
        self.assertEqual(self._do(DrainNode(5.0, "storage-9", True, 3)), "NO_SUCH_NODE")
        self._do(DrainNode(5.0, THREE, True, 3))
        self._do(RegisterNode(6.0, Identity("storage", THREE, "127.0.0.1", 1, 2), 99))
        self.assertTrue(self.machine.state.nodes[THREE].draining)

    def test_forgotten_with_tablets(self) -> None:
        """A server that holds tablets is forgotten only if the loss is accepted; others go on."""
        self.assertEqual(self._do(ForgetNode(5.0, TWO)), "HOLDS_TABLETS")
        self.assertEqual(self._do(ForgetNode(5.0, TWO, True)), Applied())
        self.assertEqual((self._tablet.members, self._tablet.primary), ([ONE, THREE], ONE))
        self.assertEqual(self._do(ForgetNode(5.0, ONE, True)), Applied())
        self.assertEqual((self._tablet.members, self._tablet.primary), ([THREE], ""))
        self.assertFalse(self._tablet.is_new)

    def test_the_last_copy(self) -> None:
        """The only member is forgotten only if another one is named that begins anew."""
        self._propose(1, ONE)
        self.assertEqual(self._do(ForgetNode(5.0, ONE, True)), "LAST_COPY")
        self.assertEqual(self._do(ForgetNode(5.0, ONE, True, {1: ONE})), "LAST_COPY")
        self.assertEqual(self._do(ForgetNode(5.0, ONE, True, {1: FOUR})), Applied())
        self.assertEqual((self._tablet.members, self._tablet.epoch), ([FOUR], 3))
        self.assertTrue(self._tablet.is_new)

    def test_forced(self) -> None:
        """An operator makes any server the only member; the audit trail says what that means."""
        self.assertEqual(self._do(ForcePrimary(5.0, 1, 1, FOUR, 13)), Applied(2))
        tablet = self._tablet
        self.assertEqual((tablet.primary, tablet.incarnation), (FOUR, 13))
        self.assertEqual((tablet.members, tablet.taken), ([FOUR], [FOUR]))
        self.assertIn("data may be lost", self.machine.state.audit[-2].text)
        self.assertEqual(self._do(ForcePrimary(5.0, 1, 1, TWO, 11)), "STALE")
