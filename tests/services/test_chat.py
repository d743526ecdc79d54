"""The chat board over the in-memory table."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from penncloud.client.memory import MemoryTable
from penncloud.services.chat import MAX_CHARACTERS, BadMessage, Chat, is_cursor
from tests.web.frontend import environment_for


class ChatTests(TestCase):
    def setUp(self) -> None:
        self.wall_s = 1000.0
        self.table = MemoryTable()
        self.chat = Chat(self.table, environment_for(Clock(), lambda: self.wall_s))

    async def post(self, text: str, author: str = "anna", client_id: str = "") -> str:
        message = await self.chat.post(author, text, client_id or f"id-{text}-{'x' * 8}"[:60])
        return message.cursor

    async def texts(self) -> list[str]:
        return [message.text for message in (await self.chat.latest()).messages]

    async def test_messages_have_one_order(self) -> None:
        """The order is that of the commits, and cursors compare in it."""
        cursors = [await self.post(f"{number}") for number in range(12)]
        self.assertEqual(await self.texts(), [f"{number}" for number in range(12)])
        self.assertEqual(cursors, sorted(cursors))
        self.assertTrue(all(map(is_cursor, cursors)))

    async def test_message_is_stamped_by_the_server(self) -> None:
        """Author and time are the server's to say."""
        message = await self.chat.post("anna", "hello", "12345678")
        self.assertEqual((message.author, message.sent), ("anna", 1000.0))

    async def test_retry_shows_once(self) -> None:
        """The same id again gives the message as it was first sent, and adds nothing."""
        first = await self.chat.post("anna", "hello", "12345678")
        self.wall_s += 5.0
        again = await self.chat.post("anna", "hello", "12345678")
        self.assertEqual(first, again)
        self.assertEqual(await self.texts(), ["hello"])

    async def test_ids_are_each_authors_own(self) -> None:
        """Nobody can suppress another's message by using its id."""
        await self.chat.post("anna", "one", "12345678")
        await self.chat.post("berta", "two", "12345678")
        self.assertEqual(await self.texts(), ["one", "two"])

    async def test_pages_backwards_meet_without_gap(self) -> None:
        """Paging up by cursor shows every message once."""
        for number in range(25):
            await self.post(f"{number}")
        pages: list[str] = []
        before = ""
        while True:
            page = await self.chat.latest(before, limit=7)
            pages[:0] = [message.text for message in page.messages]
            if not page.more:
                break
            before = page.messages[0].cursor
        self.assertEqual(pages, [f"{number}" for number in range(25)])

    async def test_following_resumes_behind_a_cursor(self) -> None:
        """What comes behind a cursor is everything behind it and nothing else."""
        cursors = [await self.post(f"{number}") for number in range(6)]
        page = await self.chat.following(cursors[2], limit=2)
        self.assertEqual([m.text for m in page.messages], ["3", "4"])
        self.assertTrue(page.more)
        page = await self.chat.following(page.messages[-1].cursor)
        self.assertEqual([m.text for m in page.messages], ["5"])
        self.assertFalse(page.more)

    async def test_what_cannot_be_posted(self) -> None:
        """Nothing, too much and malformed ids are told to the author."""
        for text in ("", "   \n ", "x" * (MAX_CHARACTERS + 1), "\x00\x01"):
            with self.assertRaises(BadMessage):
                await self.chat.post("anna", text, "12345678")
        for client_id in ("", "short", "x" * 65, "with/slash", "12345678\n"):
            with self.assertRaises(BadMessage):
                await self.chat.post("anna", "hello", client_id)
        self.assertEqual(await self.texts(), [])

    async def test_text_that_would_hide_something_is_cleaned(self) -> None:
        """Control characters and direction overrides go; line ends and tabs stay."""
        await self.chat.post("anna", "a\u202eb\x07c\r\nd\te", "12345678")
        self.assertEqual(await self.texts(), ["abc\nd\te"])

    async def test_boards_are_separate(self) -> None:
        """Another room is another row."""
        other = Chat(self.table, environment_for(Clock()), "other")
        await other.post("anna", "elsewhere", "12345678")
        self.assertEqual(await self.texts(), [])
