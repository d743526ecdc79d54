"""The queue runner: what becomes of a message, when it is tried again, who sends it when a node dies."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client.table import Unavailable, prefix_stop
from penncloud.services.mail.mailbox import Listed
from penncloud.services.mail.mime import content, parse
from penncloud.services.mail.outbox import Outbox
from penncloud.services.mail.queue import RENEW_S, Queue
from penncloud.services.mail.reclaim import Reclaimer
from penncloud.smtp.client import Answer, Job
from penncloud.smtp.dsn import Reports
from penncloud.smtp.relay import Verdict
from penncloud.smtp.runner import QueueRunner
from tests.services.mail_world import MailWorld

TAKEN = Answer(250, "2.0.0", "taken")
UNKNOWN = Answer(550, "5.1.1", "no such user")
LATER = Answer(451, "4.7.1", "come back later")


class FakeRelay:
    """Answers at once, or when the test says so."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.jobs: list[tuple[str, Job]] = []
        self.held: list[Deferred[None]] | None = None
        self.at_once = self.most_at_once = 0

    async def send(self, domain: str, job: Job) -> dict[str, Verdict]:
        self.jobs.append((domain, job))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.held is not None:
                waiting: Deferred[None] = Deferred()
                self.held.append(waiting)
                await waiting
        finally:
            self.at_once -= 1
        return {r: Verdict(self.answers.get(r, TAKEN), "mx.x.org") for r in job.recipients}


class RunnerCase(TestCase):
    def setUp(self) -> None:
        self.world = MailWorld()
        self.relay = FakeRelay()
        self.runners: list[QueueRunner] = []

    def runner(
        self, node: str = "smtp-1", relay: FakeRelay | None = None, table: Any = None
    ) -> QueueRunner:
        world = self.world
        queue = Queue(table or world.table, world.environment, node, 1)
        used: Any = relay or self.relay
        runner = QueueRunner(
            world.environment,
            queue,
            world.bodies,
            Outbox(world.environment, world.bodies, world.post, queue),
            used,
            Reports(world.environment, world.post, "mx.penncloud"),
            Reclaimer(world.table, world.environment, world.bodies, world.post, queue),
            CollectorRegistry(),
        )
        runner.start()
        self.runners.append(runner)
        self.addCleanup(self.end, runner)
        return runner

    def end(self, runner: QueueRunner) -> None:
        stopping = Deferred.fromCoroutine(runner.stop())
        self.pass_time(11)
        self.successResultOf(stopping)

    def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        while seconds > 0:
            self.world.clock.advance(min(step_s, seconds))
            seconds -= step_s

    async def send(self, *recipients: str, token: str = "t") -> None:
        await self.world.outbox.send(token, self.world.outgoing(*recipients))

    def inbox(self, name: str = "alice") -> list[Listed]:
        found = Deferred.fromCoroutine(self.world.post.mailbox(name).page("inbox"))
        return self.successResultOf(found)[0]

    async def left_in_queue(self) -> list[bytes]:
        """The columns of items, and of when they are due."""
        return [
            cell.col
            for row in self.world.rows(b"queue/")
            for prefix in (b"due/", b"item/")
            for cell in (await self.world.table.scan(row, prefix, prefix_stop(prefix))).cells
        ]

    def raw(self, listed: Listed) -> bytes:
        reading = Deferred.fromCoroutine(self.world.bodies.read_all(listed.entry.id, 10_000_000))
        return bytes(self.successResultOf(reading))


class OutcomeTests(RunnerCase):
    async def test_delivered(self) -> None:
        """A message that was taken leaves the queue, and its body stays for the sent copy alone."""
        self.runner()
        await self.send("b@x.org", "c@x.org", "d@y.org")
        self.pass_time(1)
        self.assertEqual(
            sorted((domain, tuple(job.recipients)) for domain, job in self.relay.jobs),
            [("x.org", ("b@x.org", "c@x.org")), ("y.org", ("d@y.org",))],
        )
        (row,) = self.world.rows(b"message/")
        self.assertEqual(await self.world.bodies.holders(row[8:].decode()), ["sent/alice"])
        self.pass_time(3600)
        self.assertEqual(len(self.relay.jobs), 2)
        self.assertEqual(self.inbox(), [])

    async def test_bounce(self) -> None:
        """A refusal becomes one RFC 3464 report from the null sender, in the conversation it is of."""
        self.relay.answers["b@x.org"] = UNKNOWN
        self.runner()
        await self.send("b@x.org", "c@x.org")
        self.pass_time(60)
        (bounce,) = self.inbox()
        self.assertEqual(bounce.entry.return_path, "")
        raw = self.raw(bounce)
        found = parse(raw)
        self.assertEqual(found.headers.text("auto-submitted"), "auto-replied")
        kind = found.headers.raw("content-type") or b""
        self.assertIn(b"report-type=delivery-status", kind)
        text, status, original = found.parts
        self.assertIn(b"<b@x.org>\r\n    5.1.1 mx.x.org said: 550 no such user", content(raw, text))
        self.assertNotIn(b"c@x.org", content(raw, text))
        self.assertEqual(status.content_type, "message/delivery-status")
        self.assertIn(
            b"Final-Recipient: rfc822; b@x.org\r\nAction: failed\r\nStatus: 5.1.1\r\n", raw
        )
        self.assertIn(b"Diagnostic-Code: smtp; 550 no such user", raw)
        self.assertEqual(original.content_type, "text/rfc822-headers")
        self.assertIn(b"Subject: hi", content(raw, original))
        (sent,) = (await self.world.post.mailbox("alice").page("sent"))[0]
        self.assertEqual(bounce.entry.parent, sent.entry.id)

    async def test_retries_grow(self) -> None:
        """What is put off is tried again at growing intervals, with one notice, and then given up."""
        self.relay.answers["b@x.org"] = LATER
        self.runner()
        await self.send("b@x.org")
        times: list[float] = []
        count = 0
        for _ in range(5 * 24 * 60):
            self.pass_time(60, 20)
            if len(self.relay.jobs) > count:
                count = len(self.relay.jobs)
                times.append(self.world.clock.seconds())
        pauses = [b - a for a, b in itertools.pairwise(times)]
        for pause, planned in zip(
            pauses, (60, 300, 900, 1800, 3600, 7200, 14400, 14400), strict=False
        ):
            self.assertLess(abs(pause - planned), planned * 0.1 + 61)
        self.assertGreater(times[-1], 4 * 86400)
        notice, bounce = reversed(self.inbox())
        self.assertIn(b"Action: delayed\r\n", self.raw(notice))
        self.assertIn(b"Action: failed\r\nStatus: 4.4.7\r\n", self.raw(bounce))
        self.assertEqual(len(self.world.rows(b"message/")), 3)  # sent copy and two reports

    async def test_only_the_put_off_are_tried_again(self) -> None:
        """Recipients that are done are not sent to again."""
        self.relay.answers["b@x.org"] = LATER
        self.runner()
        await self.send("b@x.org", "c@x.org")
        self.pass_time(90)
        self.assertEqual(
            [job.recipients for _, job in self.relay.jobs], [["b@x.org", "c@x.org"], ["b@x.org"]]
        )

    async def test_report_that_cannot_be_filed(self) -> None:
        """While the sender's mailbox is away, those who have the message do not get it again."""
        self.relay.answers["b@x.org"] = UNKNOWN

        async def away(*args: Any) -> None:
            raise Unavailable("the mailbox is away")

        patched = self.patch(Reports, "failed", away)
        self.runner()
        await self.send("b@x.org", "c@x.org")
        self.pass_time(60)
        patched.restore()
        self.pass_time(60)
        self.assertEqual(len(self.inbox()), 1)
        sent = [address for _, job in self.relay.jobs for address in job.recipients]
        self.assertEqual(sent.count("c@x.org"), 1)

    async def test_refused_after_the_report_on_another(self) -> None:
        """An attempt that is made again after its report was filed reports on those refused only now."""
        self.relay.answers.update({"b@x.org": UNKNOWN, "c@x.org": LATER})

        async def dies(*args: Any) -> None:
            raise ZeroDivisionError

        patched = self.patch(Queue, "put_back", dies)
        self.runner()
        await self.send("b@x.org", "c@x.org")
        self.pass_time(2)
        patched.restore()
        self.flushLoggedErrors(ZeroDivisionError)
        self.relay.answers["c@x.org"] = UNKNOWN
        self.pass_time(30)
        reports = b"".join(map(self.raw, self.inbox()))
        self.assertIn(b"Final-Recipient: rfc822; c@x.org\r\nAction: failed\r\n", reports)

    async def test_our_own_mistakes(self) -> None:
        """An error of ours in an attempt puts the message off as any other, and does not end the waiting."""

        async def fails(domain: str, job: Job) -> None:
            self.relay.jobs.append((domain, job))
            raise ZeroDivisionError

        self.patch(self.relay, "send", fails)
        self.runner()
        await self.send("b@x.org")
        self.pass_time(3600)
        self.assertEqual(len(self.relay.jobs), len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertLess(len(self.relay.jobs), 7)
        self.pass_time(5 * 86400, 120)
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertIn(b"Action: failed\r\nStatus: 4.4.7\r\n", self.raw(self.inbox()[0]))
        self.assertEqual(await self.left_in_queue(), [])

    async def test_no_report_on_reports(self) -> None:
        """What has the null sender is dropped when it cannot be delivered."""
        self.relay.answers["b@x.org"] = UNKNOWN
        self.runner()
        queue = self.world.queue
        out = self.world.outgoing("b@x.org")
        await self.world.outbox.send("t", type(out)(out.user, "", out.recipients, out.write))
        self.pass_time(60)
        self.assertEqual(len(self.relay.jobs), 1)
        self.assertEqual(self.inbox(), [])
        self.assertEqual((await queue.due(0, 9))[0], [])

    async def test_body_is_gone(self) -> None:
        """A message whose text is lost is bounced, not tried for days."""
        await self.send("b@x.org")
        (row,) = self.world.rows(b"message/")
        for col in (b"body", b"raw"):
            await self.world.table.delete(row, col)
        self.runner()
        self.pass_time(1)
        self.assertEqual(self.relay.jobs, [])
        (bounce,) = self.inbox()
        self.assertIn(b"Status: 5.3.0", self.raw(bounce))


class BoundsTests(RunnerCase):
    async def test_per_domain(self) -> None:
        """One domain gets a few conversations at once; what waits is begun when one ends."""
        self.relay.held = []
        self.runner()
        for n in range(7):
            await self.send("b@x.org", token=f"x{n}")
        await self.send("b@y.org", token="y")
        self.pass_time(1)
        self.assertEqual(sorted(domain for domain, _ in self.relay.jobs), ["x.org"] * 4 + ["y.org"])
        for _ in range(8):
            if self.relay.held:
                self.relay.held.pop(0).callback(None)
            self.pass_time(1)
        self.assertEqual(len(self.relay.jobs), 8)
        self.assertEqual(self.relay.most_at_once, 5)

    async def test_in_all(self) -> None:
        """Over all domains there is a bound too."""
        self.relay.held = []
        self.runner()
        for n in range(30):
            await self.send(f"b@x{n}.org", token=f"{n}")
        self.pass_time(2)
        self.assertEqual(self.relay.at_once, 20)
        while self.relay.held:
            self.relay.held.pop(0).callback(None)
            self.pass_time(1)
        self.assertEqual(len(self.relay.jobs), 30)


class TakeoverTests(RunnerCase):
    async def test_one_sends(self) -> None:
        """Of two nodes one sends a message, also when that takes long."""
        other = FakeRelay()
        self.relay.held = []
        self.runner("smtp-1")
        self.runner("smtp-2", other)
        other.held = []
        await self.send("b@x.org")
        self.pass_time(120)
        self.assertEqual(len(self.relay.jobs) + len(other.jobs), 1)

    async def test_a_dead_node(self) -> None:
        """When the node that sends dies, another takes the message over within seconds."""
        self.relay.held = []
        mortal = _MortalTable(self.world.table)
        self.runner("smtp-1", table=mortal)
        await self.send("b@x.org")
        self.pass_time(5)
        self.assertEqual(len(self.relay.jobs), 1)
        mortal.is_dead = True
        other = FakeRelay()
        self.runner("smtp-2", other)
        self.pass_time(20)
        self.assertEqual(len(other.jobs), 1)
        # The dead one's conversation may not be made final any more.
        self.assertFalse(self.relay.jobs[0][1].may_finish())

    async def test_gone_with_the_message_taken(self) -> None:
        """A node that could not note that the message was taken leaves it to be sent once more by another,
        and not for ever."""
        self.relay.held = []
        mortal = _MortalTable(self.world.table)
        self.runner("smtp-1", table=mortal)
        await self.send("b@x.org")
        self.pass_time(5)
        mortal.is_away = True
        self.relay.held.pop(0).callback(None)
        other = FakeRelay()
        self.runner("smtp-2", other)
        self.pass_time(200)
        self.assertEqual([len(self.relay.jobs), len(other.jobs)], [1, 1])
        self.assertEqual(self.inbox(), [])

    async def test_renewal_without_an_answer(self) -> None:
        """A renewal that was done although no answer came is the node's own: what was taken meanwhile is
        noted as taken, and not sent a second time."""
        self.relay.held = []
        forgetful = _MortalTable(self.world.table)
        self.runner("smtp-1", table=forgetful)
        await self.send("b@x.org")
        self.pass_time(1)
        forgetful.is_mute = True
        self.pass_time(RENEW_S + 1)
        forgetful.is_mute = False
        self.relay.held.pop(0).callback(None)
        self.pass_time(200)
        self.assertEqual(len(self.relay.jobs), 1)
        self.assertEqual(await self.left_in_queue(), [])

    async def test_submission_of_a_dead_frontend(self) -> None:
        """A message committed by a frontend that died is filed, delivered and sent by an smtp node."""

        async def dies(*args: Any) -> None:
            raise ZeroDivisionError

        patched = self.patch(Outbox, "carry_out", dies)
        with self.assertRaises(ZeroDivisionError):
            await self.send("bob@penncloud", "b@x.org")
        patched.restore()
        self.assertEqual(self.inbox("bob"), [])
        self.runner()
        self.pass_time(30)
        self.assertEqual(len(self.inbox("bob")), 1)
        self.assertEqual(len((await self.world.post.mailbox("alice").page("sent"))[0]), 1)
        self.assertEqual(len(self.relay.jobs), 1)

    async def test_store_away_after_delivery(self) -> None:
        """A store that does not answer just after the message was taken: recorded later, sent once."""
        self.relay.held = []
        self.runner()
        await self.send("b@x.org")
        self.pass_time(1)
        self.world.table.unavailable = True
        self.relay.held.pop(0).callback(None)
        self.pass_time(5)
        self.world.table.unavailable = False
        self.pass_time(300)
        self.assertEqual(len(self.relay.jobs), 1)
        self.assertEqual(self.world.rows(b"mail-intents/"), [])

    async def test_reclaiming_ends_with_the_runner(self) -> None:
        """A round that waits for the store is given up when the runner stops, and asks for nothing more."""
        runner = self.runner()
        self.world.table.hold = lambda row: row.startswith(b"message/")
        await self.world.table.put(b"queue/00", b"done/000001/x", b'{"message_id":"00"}')
        self.pass_time(2 * 3600, step_s=600)
        self.assertEqual(len(self.world.table.held), 1)
        self.end(runner)
        self.world.table.away = lambda row: self.fail("it goes on")
        self.world.table.release()


class _MortalTable:
    """A node's connection to the store; when the node is dead nothing it asks is ever done; when the store
    is away for it, it is told so; when it is mute what it asks is done, and it does not learn of it."""

    def __init__(self, table: Any) -> None:
        self.is_dead = False
        self.is_away = False
        self.is_mute = False
        self._table = table

    def watch(self, row: bytes, callback: Callable[[int], None]) -> Any:
        return self._table.watch(row, lambda version: None if self.is_dead else callback(version))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._table, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                raise Unavailable("away")
            if self.is_dead:
                await Deferred()
            result = await method(*args, **kwargs)
            if self.is_mute:
                raise Unavailable("no answer")
            return result

        return call
