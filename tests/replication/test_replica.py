"""Single replicas, message by message: what random histories rarely reach, and the edges of the interface."""

from __future__ import annotations

from zlib import crc32

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from penncloud.placement.successor import choose_successor
from penncloud.replication.lease import LeaseTimes
from penncloud.replication.messages import (
    Ack,
    Checkpoint,
    Commit,
    Configuration,
    Offer,
    Piece,
    Prep,
    Ready,
    Reason,
    Reject,
    Sync,
    Tip,
)
from penncloud.replication.primary import Refused
from penncloud.replication.replica import Replica
from penncloud.replication.state import Durable, Options, nothing_broken
from tests.replication.application import Operation, noop

MEMBERS = ("a", "b", "c")


def work(replica: Replica) -> list[Ready]:
    """Do everything; returns what was done."""
    done = []
    while (ready := replica.ready()) is not None:
        replica.advance(ready)
        done.append(ready)
    return done


def write(version: int, cfg: int) -> Operation:
    return Operation(version, cfg, version, 0, version, (version, 0))


class PrimaryTests(SynchronousTestCase):
    """A primary, and acknowledgements by hand."""

    def primary(self, cfg: int, rule: str = "", options: Options | None = None) -> Replica:
        broken = (lambda asked: asked == rule) if rule else nothing_broken
        durable = Durable(1, False, cfg - 1)
        replica = Replica("a", 1, durable, noop, 0.0, options=options, broken=broken)
        replica.configure(Configuration(1, cfg, "a", MEMBERS, 1), 0.0)
        work(replica)
        replica.tick(0.6)
        work(replica)
        return replica

    def ack(self, replica: Replica, sender: str, cfg: int, version: int) -> None:
        replica.step(Ack(sender, "a", 1, cfg, version, 0.6, 1), 0.6)
        work(replica)

    def test_commits_with_every_ack(self) -> None:
        """The no-op of the takeover needs both others; then the replica serves."""
        replica = self.primary(3)
        self.ack(replica, "b", 3, 1)
        self.assertEqual((replica.committed, replica.role), (0, "taking over"))
        self.ack(replica, "c", 3, 1)
        self.assertEqual((replica.committed, replica.role), (1, "primary"))

    def test_acks_of_an_earlier_life_do_not_count(self) -> None:
        """An ACK of a cfg before the takeover may be for a log that was cut since."""
        replica = self.primary(3)
        self.ack(replica, "b", 3, 1)
        self.ack(replica, "c", 1, 40)
        self.assertEqual(replica.committed, 0)

    def test_mutant_acks_since_takeover(self) -> None:
        """Without that rule the same messages commit what c does not have."""
        replica = self.primary(3, "acks-since-takeover")
        self.ack(replica, "b", 3, 1)
        self.ack(replica, "c", 1, 40)
        self.assertEqual(replica.committed, 1)

    def look_before_takeover(self, rule: str) -> bool:
        """A ticket from before the takeover, and every lease at the check."""
        broken = (lambda asked: asked == rule) if rule else nothing_broken
        replica = Replica("a", 1, Durable(1, False, 2), noop, 0.0, broken=broken)
        ticket = replica.read_ticket()
        replica.configure(Configuration(1, 3, "a", MEMBERS, 1), 0.0)
        work(replica)
        replica.tick(0.6)
        work(replica)
        self.ack(replica, "b", 3, 1)
        self.ack(replica, "c", 3, 1)
        self.assertTrue(replica.may_read(replica.read_ticket(), 0.7))
        answered = replica.may_read(ticket, 0.7)
        self.assertFalse(replica.may_read(replica.read_ticket(), 1.1), "the leases are over")
        return answered

    def test_read_ticket(self) -> None:
        """What was seen before the takeover is not answered, though every lease holds afterwards."""
        self.assertFalse(self.look_before_takeover(""))

    def test_mutant_read_ticket(self) -> None:
        """Without that rule it would be."""
        self.assertTrue(self.look_before_takeover("read-ticket"))

    def lets_join(self, rule: str, acked: int) -> bool:
        """Whether a learner that has ACKed so much is let in where three entries are committed."""
        replica = self.primary(3, rule)
        replica.step(Sync("d", "a", 1, 77, 0, 0, True), 0.6)
        for version in (1, 2, 3):
            for sender in ("b", "c"):
                self.ack(replica, sender, 3, version)
            if version < 3:
                replica.propose(write(version + 1, 3), 0.6)
                work(replica)
        self.assertEqual(replica.committed, 3)
        self.ack(replica, "d", 3, acked)
        replica.tick(0.71)
        proposals = [ready.proposal for ready in work(replica) if ready.proposal is not None]
        return any("d" in proposal.members for proposal in proposals)

    def test_a_learner_joins_with_everything_that_is_committed(self) -> None:
        """One that lacks an entry does not: nobody but it might be left to become primary."""
        self.assertFalse(self.lets_join("", 2))
        self.assertTrue(self.lets_join("", 3))

    def test_mutant_joint_at_committed(self) -> None:
        """Without that rule it would."""
        self.assertTrue(self.lets_join("joint-at-committed", 2))

    def test_one_batch_for_disk_and_members(self) -> None:
        """What is proposed while the disk takes nothing goes to it, and to each member, in one piece."""
        replica = self.primary_serving()
        for version in (2, 3, 4):
            replica.propose(write(version, 3), 0.6)
            self.assertIsNone(replica.ready(hold=True))
            self.assertTrue(replica.holds_back)
        [ready] = work(replica)
        self.assertFalse(replica.holds_back)
        self.assertEqual([entry.version for entry in ready.entries], [2, 3, 4])
        self.assertEqual(ready.entries_bytes, sum(entry.size_bytes for entry in ready.entries))
        sent = [(said.to, said.entries) for said in ready.prompt if isinstance(said, Prep)]
        self.assertEqual(sent, [("b", ready.entries), ("c", ready.entries)])

    def test_what_is_on_its_way_is_committed_though_more_is_held_back(self) -> None:
        """Holding back concerns what is new, and nothing else."""
        replica = self.primary_serving()
        replica.propose(write(2, 3), 0.6)
        work(replica)
        replica.propose(write(3, 3), 0.6)
        for sender, due in (("b", False), ("c", True)):
            self.assertIs(replica.step(Ack(sender, "a", 1, 3, 2, 0.6, 1), 0.6), due)
        ready = replica.ready(hold=True)
        assert ready is not None
        self.assertEqual((ready.committed, ready.entries), (2, ()))
        self.assertTrue(replica.holds_back)

    def test_commit_without_a_prep(self) -> None:
        """A COMMIT waits a moment for a PREP to carry it, then leaves by itself, once."""
        replica = self.primary_serving()

        def told(now: float) -> list[int]:
            replica.tick(now)
            sent = [said for ready in work(replica) for said in ready.prompt]
            return [said.committed for said in sent if isinstance(said, Commit)]

        self.assertEqual([told(0.61), told(0.63), told(0.65)], [[], [1, 1], []])
        replica.propose(write(2, 3), 0.65)
        work(replica)
        for sender in ("b", "c"):
            replica.step(Ack(sender, "a", 1, 3, 2, 0.65, 1), 0.66)
        work(replica)
        replica.propose(write(3, 3), 0.67)
        [ready] = work(replica)
        carried = [said.committed for said in ready.prompt if isinstance(said, Prep)]
        self.assertEqual(carried, [2, 2])
        self.assertEqual(told(0.69), [])

    def test_window(self) -> None:
        """What is prepared and not committed is bounded: beyond, a write is refused."""
        replica = self.primary(3, options=Options(max_in_flight=2))
        self.ack(replica, "b", 3, 1)
        self.ack(replica, "c", 3, 1)
        replica.propose(write(2, 3), 0.6)
        replica.propose(write(3, 3), 0.6)
        self.assertRaises(Refused, replica.propose, write(4, 3), 0.6)
        self.assertRaises(ValueError, self.primary_serving().propose, write(9, 3), 0.6)

    def primary_serving(self) -> Replica:
        replica = self.primary(3)
        self.ack(replica, "b", 3, 1)
        self.ack(replica, "c", 3, 1)
        return replica

    def offers(self, replica: Replica, now: float) -> list[int]:
        replica.tick(now)
        sent = [said for ready in work(replica) for said in (*ready.prompt, *ready.messages)]
        return [said.checkpoint.number for said in sent if isinstance(said, Offer)]

    def test_offers_the_same_until_it_is_gone(self) -> None:
        """A new checkpoint does not make a transfer begin anew; one that is gone is not offered again."""
        replica = self.primary(3)
        for version in (1, 2, 3):
            for sender in ("b", "c"):
                self.ack(replica, sender, 3, version)
            if version < 3:
                replica.propose(write(version + 1, 3), 0.6)
                work(replica)
        replica.checkpointed(Checkpoint(1, 2, 3))
        replica.step(Sync("d", "a", 1, 77, 0, 0, True), 0.6)
        replica.step(Reject("d", "a", 1, 3, Reason.GAP, 2, 0), 0.6)
        self.assertEqual(self.offers(replica, 0.8), [1])
        replica.checkpointed(Checkpoint(2, 3, 3))
        self.assertEqual(self.offers(replica, 1.4), [1])
        replica.piece_gone("d", 9, 1.4)
        self.assertEqual(self.offers(replica, 2.0), [1])
        replica.piece_gone("d", 1, 2.0)
        self.assertEqual(self.offers(replica, 2.6), [2])
        # The log still reaches back to what was offered first.
        self.assertEqual(replica.state.log.base_version, 2)

    def test_stale(self) -> None:
        """REJECT(STALE) of a higher cfg ends it, and whoever waits is told UNKNOWN."""
        replica = self.primary_serving()
        replica.step(Reject("b", "a", 1, 4, Reason.STALE, 1, 0), 0.7)
        done = work(replica)
        self.assertTrue(done[0].stepped_down and done[0].ask)
        self.assertEqual(replica.read_ticket(), 0)

    def test_disk_full(self) -> None:
        """A primary whose disk has no room gives up, and tells the coordinators with its tip."""
        replica = self.primary_serving()
        replica.propose(write(2, 3), 0.6)
        replica.ready()
        replica.refuse()
        self.assertTrue(work(replica)[0].stepped_down)
        self.assertEqual((replica.tip.eligible, replica.tip.declined), (False, 3))
        self.assertEqual(replica.prepared, 1)
        replica.room_again()
        self.assertTrue(replica.tip.eligible)

    def test_a_member_that_gets_no_further(self) -> None:
        """One that answers all the time, and keeps nothing, is proposed for removal; silence is quicker."""
        for answers, after_s in ((True, 5.0), (False, 0.5)):
            replica = self.primary_serving()
            replica.propose(write(2, 3), 0.6)
            work(replica)
            left: list[tuple[float, tuple[str, ...]]] = []
            for tenth in range(7, 60):
                now = tenth / 10
                replica.step(Ack("c", "a", 1, 3, 2, now, 1), now)
                if answers:
                    replica.step(Ack("b", "a", 1, 3, 1, now, 1), now)
                replica.tick(now)
                proposed = [ready.proposal for ready in work(replica) if ready.proposal is not None]
                left += [(now, proposal.members) for proposal in proposed]
            at, members = left[0]
            self.assertEqual(members, ("a", "c"))
            self.assertGreater(at, 0.6 + after_s - 0.1)
            self.assertLess(at, 0.6 + after_s + 0.3)
            self.assertEqual(replica.committed, 1)

    def late(self, who: tuple[str, ...], seconds: int) -> list[tuple[str, ...]]:
        """One write after the other; `who` ACKs each a second after it was sent. The proposed members."""
        replica = self.primary_serving()
        proposed: list[tuple[str, ...]] = []
        for second in range(1, seconds + 1):
            version = second + 1
            replica.propose(write(version, 3), float(second))
            work(replica)
            for tenth in range(10):
                now = second + tenth / 10 + 0.05
                for peer in ("b", "c"):
                    have = version - 1 if peer in who and tenth < 9 else version
                    replica.step(Ack(peer, "a", 1, 3, have, now, 1), now)
                replica.tick(now)
                for ready in work(replica):
                    if ready.proposal is not None:
                        proposed.append(ready.proposal.members)
        return proposed

    def test_a_member_that_slows_all(self) -> None:
        """It gets further with every write, but each waits for it: after long it is proposed for removal."""
        self.assertEqual(self.late(("b",), 10), [])
        self.assertEqual(self.late(("b",), 13)[0], ("a", "c"))

    def test_a_late_learner(self) -> None:
        """It does not join, though it has everything, before it is in time or has had nothing to do."""
        for until, joins in ((4.0, False), (9.0, True)):
            replica = self.primary_serving()
            replica.step(Sync("d", "a", 1, 77, 0, 0, True), 0.6)
            replica.tick(0.6)
            work(replica)
            replica.step(Ack("d", "a", 1, 3, 0, 0.7, 0), 0.7)
            replica.propose(write(2, 3), 1.0)
            work(replica)
            for tenth in range(11, 19):
                for peer in ("b", "c"):
                    replica.step(Ack(peer, "a", 1, 3, 2, tenth / 10, 0), tenth / 10)
            proposed = []
            for tenth in range(19, int(until * 10)):
                now = tenth / 10
                for peer in ("b", "c", "d"):
                    replica.step(Ack(peer, "a", 1, 3, 2, now, 0), now)
                replica.tick(now)
                proposed += [
                    ready.proposal for ready in work(replica) if ready.proposal is not None
                ]
            self.assertEqual(bool(proposed), joins)

    def test_all_are_slow(self) -> None:
        """Nobody is left who is in time: then it is not a member's fault."""
        self.assertEqual(self.late(("b", "c"), 20), [])

    def test_same_configuration_after_a_restart(self) -> None:
        """A configuration made for an earlier process is not acted on."""
        replica = Replica("a", 1, Durable(2, False, 3), noop, 0.0)
        replica.configure(Configuration(1, 4, "a", MEMBERS, 1), 0.0)
        self.assertEqual(replica.role, "secondary")


class SecondaryTests(SynchronousTestCase):
    """A member, and PREPs by hand."""

    def prep(
        self, cfg: int, prev: tuple[int, int], *entries: Operation, committed: int = 0
    ) -> Prep:
        return Prep("a", "b", 1, cfg, *prev, entries, committed, 1.0, 1, 0)

    def test_committed_conflict(self) -> None:
        """A PREP that contradicts what is committed stops the replica with an alarm."""
        replica = Replica("b", 1, Durable(1, False), noop, 0.0)
        replica.step(self.prep(1, (0, 0), write(1, 1)), 0.0)
        work(replica)
        replica.step(self.prep(1, (1, 1), committed=1), 0.1)
        work(replica)
        self.assertEqual(replica.committed, 1)
        replica.step(Prep("c", "b", 1, 2, 0, 0, (write(1, 2),), 0, 1.0, 1, 0), 0.2)
        work(replica)
        self.assertIn("committed", replica.alarm)
        self.assertFalse(replica.tip.eligible)

    def test_ack_waits_for_the_disk(self) -> None:
        """The ACK of entries is among what is sent after the sync, behind the seal."""
        replica = Replica("b", 1, Durable(1, False), noop, 0.0)
        replica.step(self.prep(1, (0, 0), write(1, 1)), 0.0)
        ready = replica.ready()
        assert ready is not None
        self.assertEqual((ready.seal, len(ready.entries), ready.prompt), (1, 1, ()))
        self.assertIsInstance(ready.messages[0], Ack)

    def test_a_checkpoint_before_what_was_refused_is_cut(self) -> None:
        """There was no room to cut the log, and a checkpoint has replaced it since: it stays whole."""
        entries = (write(1, 1), write(2, 1))
        replica = Replica("b", 1, Durable(1, False, 1, entries=entries), noop, 0.0)
        replica.configure(Configuration(1, 3, "a", ("a", "c"), 1), 0.1)
        work(replica)
        offered = Checkpoint(1, 5, 3)

        def fetched() -> Ready:
            replica.step(Offer("a", "b", 1, 3, offered), 0.2)
            work(replica)
            replica.step(Piece("a", "b", 1, 3, 1, 0, b"all", crc32(b"all"), True), 0.2)
            ready = replica.ready()
            assert ready is not None
            self.assertEqual(ready.install, offered)
            return ready

        refused = fetched()
        self.assertEqual((refused.cut, refused.quarantine), (1, entries))
        replica.refuse()
        replica.advance(fetched())
        self.assertEqual(replica.committed, 5)
        replica.room_again()
        later = replica.ready()
        assert later is not None
        self.assertEqual((later.cut, later.quarantine), (6, entries))

    def test_promise_of_the_parent(self) -> None:
        """A half of a split group's replica keeps what the whole has promised, and forgets nothing."""
        whole = Replica("b", 1, Durable(5, False), noop, 0.0)
        whole.step(self.prep(1, (0, 0)), 1.0)
        work(whole)
        for sender, promised in (("a", True), ("c", False)):
            half = Replica("b", 2, Durable(5, False, 1), noop, 1.0, promise=whole.promise)
            half.step(replace(self.prep(2, (0, 0)), group=2, sender=sender), 1.1)
            sent = [said for ready in work(half) for said in (*ready.prompt, *ready.messages)]
            self.assertEqual(any(isinstance(said, Ack) for said in sent), promised)

    def test_lease_times(self) -> None:
        """A lease that could outlive its promise on slow and fast clocks is refused."""
        self.assertRaises(ValueError, LeaseTimes, 0.48, 0.5, 0.05)


class SuccessorTests(SynchronousTestCase):
    """Who follows a primary."""

    def test_highest_tip_of_the_able_members(self) -> None:
        """By (entry_cfg, version), among members that are live and have their state."""
        tips = {
            "b": Tip(1, 2, 10, True, 0),
            "c": Tip(4, 3, 7, True, 0),
            "d": Tip(1, 9, 99, True, 0),
            "a": Tip(1, 5, 99, False, 0),
        }
        found = choose_successor(("a", "b", "c"), tips)
        assert found is not None
        self.assertEqual((found.primary, found.incarnation), ("c", 4))
        self.assertIsNone(choose_successor(("a",), tips))
