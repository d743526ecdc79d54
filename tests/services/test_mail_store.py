"""Bodies, mailboxes and the outbox over the table: once, whole, and nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.client.table import Unavailable
from penncloud.services.mail.bodies import INLINE_BYTES, BodyWriter, NoSuchMessage
from penncloud.services.mail.compose import Attachment, BadHeader, compose, headers
from penncloud.services.mail.given_up import KEEP_S, GivenUp
from penncloud.services.mail.mailbox import Filing, NoSuchEntry
from penncloud.services.mail.mime import content, parse, text
from penncloud.services.mail.outbox import Outgoing, TooLarge, UnknownRecipients
from penncloud.services.mail.queue import row_of, submission_id
from penncloud.services.mail.reclaim import STALE_S, Reclaimer
from penncloud.services.mail.summary import summarise
from tests.services.mail_world import MailWorld


class BodiesTests(TestCase):
    def setUp(self) -> None:
        self.world = MailWorld()
        self.bodies = self.world.bodies

    async def write(self, data: bytes, *holders: str) -> str:
        message_id = self.bodies.new_id()
        writer = await self.bodies.open(message_id, holders)
        for at in range(0, len(data), 10_000):
            await writer.write(data[at : at + 10_000])
        await writer.finish(holders)
        await writer.settle()
        return message_id

    async def test_small_and_large(self) -> None:
        """A body reads back byte for byte, inline or as a blob, also a slice of it."""
        for size in (0, 1, INLINE_BYTES, INLINE_BYTES + 1, 1_300_000):
            data = bytes(range(256)) * (size // 256 + 1)
            data = data[:size]
            message_id = await self.write(data, "inbox/a")
            self.assertEqual(await self.bodies.read_all(message_id, 10_000_000), data)
            part = b"".join([piece async for piece in self.bodies.read(message_id, 5, 70_000)])
            self.assertEqual(part, data[5:70_005])

    async def test_last_release_removes_all(self) -> None:
        """A body stays while anybody holds it and leaves nothing behind afterwards."""
        for size in (100, 1_300_000):
            message_id = await self.write(b"x" * size, "inbox/a", "inbox/b")
            await self.bodies.release(message_id, "inbox/a")
            await self.bodies.release(message_id, "inbox/a")
            self.assertEqual((await self.bodies.find(message_id)).size, size)
            await self.bodies.release(message_id, "inbox/b")
            await self.bodies.release(message_id, "inbox/b")
            with self.assertRaises(NoSuchMessage):
                await self.bodies.find(message_id)
            self.assertEqual(self.world.rows(b"message/") + self.world.rows(b"blob/"), [])

    async def test_many_holders(self) -> None:
        """A message to a thousand mailboxes fits the store's bound on sub-operations."""
        holders = [f"inbox/u{n}" for n in range(1000)]
        message_id = await self.write(b"x", *holders)
        self.assertEqual(sorted(await self.bodies.holders(message_id)), sorted(holders))

    async def test_abort_leaves_nothing(self) -> None:
        """Giving up while writing removes the chunks and the intent."""
        writer = await self.bodies.open(self.bodies.new_id(), ["inbox/a"])
        await writer.write(b"x" * 1_300_000)
        await writer.abort()
        self.assertEqual(self.world.rows(b"message/") + self.world.rows(b"blob/"), [])
        self.assertEqual(self.world.rows(b"mail-intents/"), [])

    async def test_abort_while_the_body_is_out_of_reach(self) -> None:
        """What cannot be removed at once is reclaimed later: the intent stays until it is."""
        world = self.world
        writer = await self.bodies.open(self.bodies.new_id(), ["inbox/a"])
        await writer.write(b"x" * 1_300_000)
        mutate = type(world.table).mutate

        async def out_of_reach(table: Any, row: bytes, *args: Any, **kwargs: Any) -> int:
            if row.startswith(b"message/"):
                raise Unavailable("its server is stopped")
            return await mutate(table, row, *args, **kwargs)

        patch = self.patch(type(world.table), "mutate", out_of_reach)
        await writer.abort()
        patch.restore()
        self.assertEqual(len(world.rows(b"mail-intents/")), 1)
        self.assertNotEqual(world.rows(b"blob/"), [])
        reclaimer = Reclaimer(world.table, world.environment, world.bodies, world.post, world.queue)
        world.clock.advance(STALE_S + 3 * 86400)
        await reclaimer.round()
        left = world.rows(b"message/") + world.rows(b"blob/") + world.rows(b"mail-intents/")
        self.assertEqual(left, [])


class MailboxTests(TestCase):
    def setUp(self) -> None:
        self.world = MailWorld()
        self.box = self.world.post.mailbox("bob")

    async def deliver(
        self, token: str, raw: bytes = b"Subject: s\r\n\r\nx", box: Any = "inbox"
    ) -> str:
        bodies = self.world.bodies
        message_id = bodies.new_id()
        writer = await bodies.open(message_id, [f"{box}/bob"])
        await writer.write(raw)
        await writer.finish([f"{box}/bob"])
        await self.box.file(box, Filing(token, message_id, summarise(raw, len(raw)), "x@y"))
        return message_id

    async def test_newest_first_in_pages(self) -> None:
        """The list is newest first and pages continue where the last one ended."""
        for n in range(5):
            await self.deliver(str(n), b"Subject: %d\r\n\r\n" % n)
        first, more = await self.box.page("inbox", limit=3)
        self.assertEqual([each.entry.subject for each in first], ["4", "3", "2"])
        self.assertTrue(more)
        rest, more = await self.box.page("inbox", before=first[-1].stamp, limit=3)
        self.assertEqual([each.entry.subject for each in rest], ["1", "0"])
        self.assertFalse(more)

    async def test_delivered_once(self) -> None:
        """A delivery tried again, even the next day, is not made again; another one is."""
        await self.deliver("t")
        self.world.clock.advance(86400)
        await self.deliver("t")
        await self.deliver("u")
        self.assertEqual(len((await self.box.page("inbox"))[0]), 2)

    async def test_delivered_once_by_any_clock(self) -> None:
        """A delivery is tried again by a server whose clock is a day behind."""
        await self.deliver("t")
        self.world.offset_s -= 86400
        await self.deliver("t")
        self.assertTrue(await self.box.was_filed("t"))
        self.assertEqual(len((await self.box.page("inbox"))[0]), 1)

    async def test_marks_are_forgotten(self) -> None:
        """Marks of deliveries long ago go with later ones: the row does not grow by them for ever."""
        for n in range(5):
            await self.deliver(f"old{n}")
        self.world.clock.advance(5 * 86400)
        await self.deliver("new")
        page = await self.world.table.scan(b"mail/bob", b"delivered/", b"delivered0")
        self.assertEqual(len(page.cells), 1)

    async def test_threads(self) -> None:
        """Replies find their parent by In-Reply-To or References, sent mail included."""
        root = await self.deliver("1", b"Message-ID: <1@x>\r\nSubject: a\r\n\r\n")
        mine = await self.deliver("2", b"Message-ID: <2@x>\r\nIn-Reply-To: <1@x>\r\n\r\n", "sent")
        await self.deliver("3", b"Message-ID: <3@x>\r\nReferences: <1@x> <2@x> <gone@x>\r\n\r\n")
        await self.deliver("4", b"Message-ID: <4@x>\r\n\r\n")
        found = await self.box.thread(root)
        self.assertEqual([each.box for each in found], ["inbox", "sent", "inbox"])
        self.assertEqual([each.entry.parent for each in found], ["0", root, mine])

    async def test_unread(self) -> None:
        """A delivered message is unread until it is opened, and can be marked again."""
        await self.deliver("1")
        ((listed,), _) = await self.box.page("inbox")
        self.assertTrue(listed.unread)
        self.assertEqual(await self.box.unread_count(), 1)
        await self.box.mark(listed.stamp, unread=False)
        self.assertFalse((await self.box.get("inbox", listed.stamp)).unread)
        await self.box.mark(listed.stamp, unread=True)
        self.assertEqual(await self.box.unread_count(), 1)

    async def test_delete(self) -> None:
        """Deleting takes the entry, its indexes and its body; a second click is told so."""
        message_id = await self.deliver("1", b"Message-ID: <1@x>\r\n\r\n")
        ((listed,), _) = await self.box.page("inbox")
        await self.box.delete("inbox", listed.stamp)
        with self.assertRaises(NoSuchEntry):
            await self.box.delete("inbox", listed.stamp)
        with self.assertRaises(NoSuchMessage):
            await self.world.bodies.find(message_id)
        page = await self.world.table.scan(b"mail/bob")
        self.assertEqual([cell.col[:10] for cell in page.cells], [b"delivered/"])
        with self.assertRaises(NoSuchEntry):
            await self.box.mark(listed.stamp, unread=True)

    async def test_delete_while_the_body_is_out_of_reach(self) -> None:
        """A message is deleted also when its body cannot be released now; that is done later."""
        message_id = await self.deliver("1")
        ((listed,), _) = await self.box.page("inbox")

        async def out_of_reach(*args: Any) -> None:
            raise Unavailable("the body's tablet is away")

        patched = self.patch(type(self.world.bodies), "release", out_of_reach)
        await self.box.delete("inbox", listed.stamp)
        patched.restore()
        self.assertEqual((await self.box.page("inbox"))[0], [])
        await self.box.release_deleted()
        with self.assertRaises(NoSuchMessage):
            await self.world.bodies.find(message_id)
        page = await self.world.table.scan(b"mail/bob")
        self.assertEqual([cell.col[:10] for cell in page.cells], [b"delivered/"])

    async def test_bodies_out_of_reach_keep_no_others(self) -> None:
        """Of many deleted messages those go whose bodies can be reached, whichever were deleted first."""
        world = self.world
        ids = [await self.deliver(str(n)) for n in range(60)]
        listed, _ = await self.box.page("inbox", limit=60)
        world.table.away = lambda row: row.startswith(b"message/")
        for each in listed:
            await self.box.delete("inbox", each.stamp)
        out_of_reach = {b"message/" + each.encode() for each in ids[:30]}
        world.table.away = lambda row: row in out_of_reach
        with self.assertRaises(Unavailable):
            await self.box.release_deleted()
        self.assertEqual(set(world.rows(b"message/")), out_of_reach)
        world.table.away = lambda row: False
        await self.box.release_deleted()
        self.assertEqual(world.rows(b"message/"), [])


class OutboxTests(TestCase):
    def setUp(self) -> None:
        self.world = MailWorld()

    async def inbox(self, name: str, box: Any = "inbox") -> list[Any]:
        return (await self.world.post.mailbox(name).page(box))[0]

    async def test_local(self) -> None:
        """A message to users here is in their inboxes and in the sender's sent box when send returns."""
        out = self.world.outgoing("bob@penncloud", "Carol@PennCloud", "bob@penncloud")
        self.assertTrue(await self.world.outbox.send("t1", out))
        for name in ("bob", "carol"):
            (mine,) = await self.inbox(name)
            self.assertEqual(
                (mine.entry.subject, mine.entry.return_path), ("hi", "alice@penncloud")
            )
        (sent,) = await self.inbox("alice", "sent")
        self.assertEqual(sent.entry.id, mine.entry.id)
        self.assertEqual(self.world.rows(b"mail-intents/"), [])
        self.assertEqual(
            sorted(await self.world.bodies.holders(sent.entry.id)),
            ["inbox/bob", "inbox/carol", "sent/alice"],
        )

    async def test_outside_is_queued_per_domain(self) -> None:
        """Outside recipients become one item per domain, due at once; the submission is gone."""
        out = self.world.outgoing("x@a.org", "y@b.org", "z@a.org", "bob@penncloud")
        await self.world.outbox.send("t1", out)
        other = self.world.queue_of("smtp-1")
        due = [item for n in range(8) for item, _ in (await other.due(n, 50))[0]]
        self.assertEqual(
            sorted((item.domain, [r.address for r in item.recipients]) for item in due),
            [("a.org", ["x@a.org", "z@a.org"]), ("b.org", ["y@b.org"])],
        )

    async def test_sent_once(self) -> None:
        """A form that is sent twice, also days of minutes later, sends one message."""
        out = self.world.outgoing("bob@penncloud", "x@a.org")
        self.assertTrue(await self.world.outbox.send("t1", out))
        self.assertFalse(await self.world.outbox.send("t1", out))
        self.world.clock.advance(3600 * 30)
        self.assertFalse(await self.world.outbox.send("t1", out))
        self.world.offset_s -= 3600 * 54
        self.assertFalse(await self.world.outbox.send("t1", out))
        self.assertEqual(len(await self.inbox("bob")), 1)
        self.assertEqual(len(await self.inbox("alice", "sent")), 1)
        self.assertEqual(len(self.world.rows(b"message/")), 1)

    async def test_unknown_local_recipient(self) -> None:
        """A local address that nobody has stops the whole message before anything is sent."""
        with self.assertRaises(UnknownRecipients) as caught:
            await self.world.outbox.send("t", self.world.outgoing("bob@penncloud", "zoe@penncloud"))
        self.assertEqual(caught.exception.addresses, ["zoe@penncloud"])
        self.assertEqual(await self.inbox("bob"), [])

    async def test_too_large(self) -> None:
        """A message above the limit is refused and leaves nothing."""
        self.world.outbox.max_bytes = 100_000

        async def endless(message_id: str) -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 60_000

        base = self.world.outgoing("bob@penncloud")
        out = Outgoing(base.user, base.sender, base.recipients, endless)
        with self.assertRaises(TooLarge):
            await self.world.outbox.send("t", out)
        self.assertEqual(self.world.rows(b""), [])

    async def test_nobody_waits_for_the_clearing(self) -> None:
        """That a message was refused is said at once, also where removing its beginning takes long."""

        async def endless(writer: BodyWriter) -> None:
            await Deferred()

        self.patch(BodyWriter, "abort", endless)
        self.world.outbox.max_bytes = 0
        sending = Deferred.fromCoroutine(
            self.world.outbox.send("t", self.world.outgoing("bob@penncloud"))
        )
        self.failureResultOf(sending, TooLarge)

    async def test_crash_after_the_commit(self) -> None:
        """Whatever write fails, a retry or another node completes the message, and only once.

        The store fails at the n-th write for every n; then the form is sent again and an smtp node
        carries out what lies in the queue.
        """
        for fail_at in range(1, 14):
            world = MailWorld()
            world.bodies._table = world.queue._table = _Failing(world.table, fail_at)
            world.post._table = world.bodies._table
            out = world.outgoing("bob@penncloud", "x@a.org")
            try:
                await world.outbox.send("t", out)
            except Unavailable:
                await world.outbox.send("t", out)
            world.clock.advance(60)
            other = world.queue_of("smtp-1")
            world.outbox._queue = other
            await self.work(world, other)
            world.clock.advance(60)
            await self.work(world, other)
            with self.subTest(fail_at=fail_at):
                self.assertEqual(len((await world.post.mailbox("bob").page("inbox"))[0]), 1)
                self.assertEqual(len((await world.post.mailbox("alice").page("sent"))[0]), 1)
                items = [i for n in range(8) for i, _ in (await other.due(n, 9))[0]]
                self.assertEqual([item.domain for item in items], ["a.org"])

    async def work(self, world: MailWorld, queue: Any) -> None:
        for shard in range(8):
            for item, version in (await queue.due(shard, 9))[0]:
                if not item.domain:
                    claimed = await queue.claim(item, version)
                    await world.outbox.carry_out(claimed)

    async def test_reclaim(self) -> None:
        """A body that was written for a message never committed is removed a day later, others stay."""
        world = self.world
        await world.outbox.send("kept", world.outgoing("bob@penncloud"))
        (kept,) = await self.inbox("bob")
        lost = world.bodies.new_id()
        writer = await world.bodies.open(lost, ["sent/alice", "queue/none"])
        await writer.write(b"x" * 700_000)
        await writer.finish(["sent/alice", "queue/none"])
        half = await world.bodies.open(world.bodies.new_id(), ["sent/alice"])
        await half.write(b"x" * 700_000)
        reclaimer = Reclaimer(world.table, world.environment, world.bodies, world.post, world.queue)
        self.assertEqual(await reclaimer.round(), 0)
        world.clock.advance(STALE_S + 3 * 86400)
        self.assertEqual(await reclaimer.round(), 2)
        self.assertEqual(world.rows(b"message/"), [b"message/" + kept.entry.id.encode()])
        self.assertEqual(world.rows(b"blob/") + world.rows(b"mail-intents/"), [])
        world.clock.advance(KEEP_S)
        await reclaimer.round()
        self.assertEqual(world.rows(b"queue/"), [])

    async def test_reclaim_leaves_what_is_still_to_be_sent(self) -> None:
        """A message that could not be carried out for days still has its text for everybody when it is."""
        world = self.world

        async def away(*args: Any) -> None:
            raise Unavailable("a mailbox is away")

        patched = self.patch(type(world.outbox), "carry_out", away)
        with self.assertRaises(Unavailable):
            await world.outbox.send("t", world.outgoing("bob@penncloud", "x@a.org"))
        world.clock.advance(STALE_S + 3600)
        await self.reclaimer().round()
        patched.restore()
        other = world.queue_of("smtp-1")
        world.outbox._queue = other
        await self.work(world, other)
        world.clock.advance(60)
        await self.work(world, other)
        (listed,) = await self.inbox("bob")
        self.assertIn(b"hello", await world.bodies.read_all(listed.entry.id, 10_000))
        holders = sorted(await world.bodies.holders(listed.entry.id))
        self.assertEqual(
            holders, ["inbox/bob", f"queue/{submission_id('alice', 't')}.0", "sent/alice"]
        )

    async def test_reclaim_keeps_up(self) -> None:
        """However many messages were sent, what they left is gone after a round."""
        world = self.world
        for n in range(250):
            await world.table.put(b"queue/00", b"done/000001/%03d" % n, b'{"message_id":"00"}')
            await world.table.put(b"mail-intents/0", b"0000000001/%04x" % n, b"[]")
        await self.reclaimer().round()
        self.assertEqual(world.rows(b"queue/") + world.rows(b"mail-intents/"), [])

    async def test_reclaim_goes_on_past_what_is_away(self) -> None:
        """Whichever row cannot be reached, all that does not need it is reclaimed; the rest comes later."""
        world = self.world
        for away in ("message/", "queue/", "mail-intents/"):
            for n in range(40):
                lost = world.bodies.new_id()
                writer = await world.bodies.open(lost, ["inbox/bob", "inbox/carol"])
                await writer.write(b"x")
                await writer.finish(["inbox/bob", "inbox/carol"])
                done = b'{"message_id":"%s"}' % lost.encode()
                await world.table.put(b"queue/%02d" % (n % 8), b"done/000001/%03d" % n, done)
            world.clock.advance(STALE_S + 3600)
            rows = [row for row in world.rows(b"") if row.startswith(away.encode())]
            unlucky = rows[len(rows) // 2]
            world.table.away = {unlucky}.__contains__
            await self.reclaimer().round()
            world.table.away = lambda row: False
            with self.subTest(away=unlucky):
                left = [cell.col for row in rows for cell in await self.cells(row, unlucky)]
                self.assertEqual(left, [])
                await self.reclaimer().round()
                for prefix in (b"message/", b"queue/", b"mail-intents/"):
                    self.assertEqual(world.rows(prefix), [])

    async def cells(self, row: bytes, but: bytes) -> Any:
        """All cells of a row; none of the row `but`."""
        return () if row == but else (await self.world.table.scan(row)).cells

    def reclaimer(self) -> Reclaimer:
        world = self.world
        return Reclaimer(world.table, world.environment, world.bodies, world.post, world.queue)


class SlowWriterTests(TestCase):
    """Writers that are slower than the reclaimer is patient, at whatever step either of them is."""

    def setUp(self) -> None:
        self.world = MailWorld()

    async def test_a_text_that_arrives_for_a_day(self) -> None:
        """A message that was given up while it came in is not taken; sent again, it is, once."""
        for size in (10, INLINE_BYTES * 3):
            self.setUp()

            async def slow(message_id: str, size: int = size) -> AsyncIterator[bytes]:
                yield b"Subject: hi\r\n\r\n" + b"x" * size
                self.world.clock.advance(STALE_S + 3600)
                await self.reclaim()
                yield b"the end"

            base = self.world.outgoing("bob@penncloud")
            sending = Outgoing(base.user, base.sender, base.recipients, slow)
            with self.assertRaises(GivenUp) as caught:
                await self.world.outbox.send("t", sending)
            self.assertTrue(caught.exception.retryable)
            self.assertTrue(await self.world.outbox.send("t", base))
            await self.check(has=["sent/alice", "inbox/bob"])

    async def test_sending_and_reclaiming_at_the_same_time(self) -> None:
        """However their steps interleave, what was sent has its text, and what was not is sent once more."""
        outcomes = set()
        for sent in range(24):
            for reclaimed in range(0, 24, 4):
                self.setUp()

                async def send() -> bool:
                    out = self.world.outgoing("bob@penncloud", "x@a.org")
                    return await self.world.outbox.send("t", out)

                outcome = await self.interleave(send, sent, reclaimed)
                outcomes.add(outcome)
                self.assertEqual(await send(), outcome == "given up")
                item = f"queue/{submission_id('alice', 't')}.0"
                await self.check(has=["sent/alice", "inbox/bob", item])
        self.assertEqual(outcomes, {"done", "given up"})

    async def test_receiving_and_reclaiming_at_the_same_time(self) -> None:
        """The same for a message from outside: who was told that it was taken has it."""
        outcomes = set()
        for received in range(16):
            for reclaimed in range(0, 24, 2):
                self.setUp()
                outcome = await self.interleave(self.receive, received, reclaimed)
                outcomes.add(outcome)
                if outcome == "given up":
                    await self.receive()
                await self.check(has=["inbox/bob", "inbox/carol"])
        self.assertEqual(outcomes, {"done", "given up"})

    async def test_marks_are_forgotten(self) -> None:
        """What the reclaimer leaves in a mailbox goes when no writer can be left."""
        world = self.world
        await world.bodies.open(world.bodies.new_id(), ["inbox/bob"])
        world.clock.advance(STALE_S + 1)
        await self.reclaim()
        box = world.post.mailbox("bob")
        await box.forget_given_up()
        self.assertEqual(world.rows(b"mail/"), [b"mail/bob"])
        world.clock.advance(KEEP_S)
        await box.forget_given_up()
        self.assertEqual(world.rows(b"mail/"), [])

    async def receive(self) -> None:
        """What the smtp server does with a message of one sender, however often it comes."""
        world, raw = self.world, b"Subject: hi\r\n\r\nhello\r\n"
        message_id = world.bodies.new_id()
        writer = await world.bodies.open(message_id, ["inbox/bob", "inbox/carol"])
        await writer.write(raw)
        await writer.finish(["inbox/bob", "inbox/carol"])
        filing = Filing("smtp-1", message_id, summarise(raw, len(raw)), "x@y")
        await world.post.deliver(["bob", "carol"], filing)
        await writer.settle()

    async def reclaim(self) -> None:
        world = self.world
        reclaimer = Reclaimer(world.table, world.environment, world.bodies, world.post, world.queue)
        await reclaimer.round()

    async def interleave(
        self, write: Callable[[], Coroutine[Any, Any, Any]], written: int, reclaimed: int
    ) -> str:
        """Let so many calls of the writer be done, then a day pass, then so many of the reclaimer's, then
        the rest of the writer's and then of the reclaimer's. What the writer was told."""
        table = self.world.table
        table.hold = lambda row: True
        writing = Deferred.fromCoroutine(write())
        for _ in range(written):
            if table.held:
                table.release()
        mine = len(table.held)
        self.world.clock.advance(STALE_S + 3600)
        reclaiming = Deferred.fromCoroutine(self.reclaim())
        for _ in range(reclaimed):
            if len(table.held) > mine:
                table.release_one(mine)
        theirs = table.held[mine:]
        del table.held[mine:]
        while table.held:
            table.release()
        table.hold = lambda row: False
        for gate in theirs:
            gate.callback(None)
        await reclaiming
        try:
            await writing
        except GivenUp:
            return "given up"
        return "done"

    async def check(self, has: list[str]) -> None:
        """Every one of these has one message with its text, and there is nothing else, then or later."""
        world = self.world
        for _ in range(2):
            held: dict[str, list[str]] = {}
            message_id = ""
            for holder in has:
                kind, _, name = holder.partition("/")
                if kind == "queue":
                    held.setdefault(message_id, []).append(holder)
                    continue
                box: Any = kind
                (listed,) = (await world.post.mailbox(name).page(box))[0]
                message_id = listed.entry.id
                self.assertIn(b"h", await world.bodies.read_all(message_id, 10_000))
                held.setdefault(message_id, []).append(holder)
            world.clock.advance(STALE_S + 3600)
            await self.reclaim()
        rows = [b"message/" + message_id.encode() for message_id in held]
        self.assertEqual(world.rows(b"message/"), sorted(rows))
        for message_id, holders in held.items():
            self.assertEqual(await world.bodies.holders(message_id), sorted(holders))
        self.assertEqual(world.rows(b"blob/"), [])


class _Failing:
    """A table whose n-th write is executed but not answered, or (even n) not executed."""

    def __init__(self, table: Any, fail_at: int) -> None:
        self._table, self._left, self._executes = table, fail_at, fail_at % 2 == 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    async def mutate(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            if self._executes:
                await self._table.mutate(*args, **kwargs)
            raise Unavailable("the answer was lost")
        return await self._table.mutate(*args, **kwargs)


class QueueTests(TestCase):
    def setUp(self) -> None:
        self.world = MailWorld()

    async def queued(self) -> Any:
        await self.world.outbox.send("t", self.world.outgoing("x@a.org"))
        self.shard = int(row_of(submission_id("alice", "t"))[-2:])

    async def test_one_of_two_claims(self) -> None:
        """Of two nodes that want an item one gets it."""
        await self.queued()
        one, two = self.world.queue_of("smtp-1"), self.world.queue_of("smtp-2")
        ((item, version),) = (await one.due(self.shard, 9))[0]
        self.assertIsNotNone(await one.claim(item, version))
        self.assertIsNone(await two.claim(item, version))

    async def test_takeover(self) -> None:
        """A renewed lease is left alone; one that stays unchanged for its time is taken over."""
        await self.queued()
        one, two = self.world.queue_of("smtp-1"), self.world.queue_of("smtp-2")
        ((item, version),) = (await one.due(self.shard, 9))[0]
        claimed = await one.claim(item, version)
        assert claimed is not None
        for _ in range(10):
            self.world.clock.advance(2.5)
            await one.renew(claimed)
            self.assertEqual((await two.due(self.shard, 9))[0], [])
        self.assertTrue(one.holds(claimed))
        self.world.clock.advance(8.1)
        self.assertFalse(one.holds(claimed))
        free, again = await two.due(self.shard, 9)
        self.assertEqual(free, [])
        self.assertIsNotNone(again)
        self.world.clock.advance(8.1)
        ((item, version),) = (await two.due(self.shard, 9))[0]
        self.assertIsNotNone(await two.claim(item, version))
        with self.assertRaises(Exception) as caught:
            await one.renew(claimed)
        self.assertEqual(type(caught.exception).__name__, "LeaseLost")

    async def test_a_fast_wall_clock_takes_nothing(self) -> None:
        """A node whose wall clock is an hour ahead does not take a lease that is renewed."""
        await self.queued()
        one, two = self.world.queue_of("smtp-1"), self.world.queue_of("smtp-2")
        ((item, version),) = (await one.due(self.shard, 9))[0]
        claimed = await one.claim(item, version)
        assert claimed is not None
        self.world.offset_s += 3600
        for _ in range(6):
            self.assertEqual((await two.due(self.shard, 9))[0], [])
            self.world.clock.advance(2.5)
            await one.renew(claimed)

    async def test_own_earlier_run(self) -> None:
        """A node that was restarted goes on with its items at once."""
        await self.queued()
        one, again = self.world.queue_of("smtp-1"), self.world.queue_of("smtp-1", 2)
        ((item, version),) = (await one.due(self.shard, 9))[0]
        await one.claim(item, version)
        self.world.clock.advance(8.1)
        self.assertEqual(len((await again.due(self.shard, 9))[0]), 1)

    async def test_executed_once(self) -> None:
        """An id that was finished is not queued again while it is remembered."""
        await self.queued()
        self.assertFalse(await self.world.queue.has(submission_id("alice", "t")))
        page = await self.world.table.scan(b"queue/%02d" % self.shard, b"done/", b"done0")
        self.assertEqual(len(page.cells), 1)


class ComposeTests(TestCase):
    async def raw(self, **more: Any) -> bytes:
        pieces = compose(MailWorld().letter(**more), "B")
        return b"".join([piece async for piece in pieces])

    async def test_text_survives(self) -> None:
        """Any text comes out as it went in, on lines of CRLF within the limit."""
        body = "Grüße\n.dot\n..two\nFrom here\n" + "x" * 5000 + " \n\t\n--B\n--=_B\n"
        raw = await self.raw(text=body, subject="Süß " * 40)
        self.assertEqual(raw.count(b"\n"), raw.count(b"\r\n"))
        self.assertLess(max(map(len, raw.split(b"\r\n"))), 999)
        self.assertTrue(raw.isascii())
        found = parse(raw)
        self.assertEqual(text(raw, found.parts[0], 10_000)[0], body)
        self.assertEqual(found.headers.text("subject"), ("Süß " * 40).strip())

    async def test_attachments_survive(self) -> None:
        """Attachments of any bytes and name come back, however their pieces were cut."""
        data = bytes(range(256)) * 50

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 777):
                yield data[at : at + 777]

        names = ["a.bin", 'quo"te.txt', "bü cher;.pdf"]

        async def attachments() -> AsyncIterator[Attachment]:
            for name in names:
                yield Attachment(name, "application/x-y", pieces())

        raw = await self.raw(attachments=attachments())
        found = parse(raw).attachments
        self.assertEqual([content(raw, part) for part in found], [data] * 3)
        self.assertEqual(
            [part.download_name for part in found], ["a.bin", "quo_te.txt", "bü cher_.pdf"]
        )
        self.assertEqual(found[0].content_type, "application/x-y")

    def test_no_header_injection(self) -> None:
        """A line break in any header value is refused, not folded in."""
        world = MailWorld()
        for more in (
            {"subject": "a\r\nBcc: x"},
            {"subject": "a\nb"},
            {"in_reply_to": "<a>\r\nB: c"},
        ):
            self.assertRaises(BadHeader, headers, world.letter(**more))
