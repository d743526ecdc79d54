"""A small world for the tests of mail: a table in memory, users, a fake clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from penncloud.client.memory import MemoryTable
from penncloud.platform.environment import Environment
from penncloud.services.blobs import Blobs
from penncloud.services.mail.addresses import Shown, parse_address
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.compose import Letter, compose
from penncloud.services.mail.outbox import Outbox, Outgoing
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import Queue
from tests.services.unreliable_table import UnreliableTable

START_S = 1_700_000_000.0


class Users:
    """Accounts that exist, and a store that may not answer."""

    def __init__(self, table: MemoryTable, *names: str) -> None:
        self.table = table
        self.names = set(names)

    async def exists(self, name: str) -> bool:
        await self.table.get(b"user/" + name.encode(), b"account")
        return name in self.names


def same_thread(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
    """Run it here and now."""
    return maybeDeferred(f, *args, **kwargs)


class MailWorld:
    """Everything that mail needs, with node ids to act as."""

    def __init__(self, reactor: Any = None, domain: str = "penncloud") -> None:
        self.clock = Clock() if reactor is None else reactor
        self.offset_s = START_S
        self.table = UnreliableTable()
        seeded = random.Random(1)
        self.environment = Environment(
            reactor=self.clock,
            now=lambda: self.offset_s + self.clock.seconds(),
            random=random.Random(2),
            entropy=seeded.randbytes,
            run_in_thread=same_thread,
        )
        self.blobs = Blobs(self.table, self.environment.entropy)
        self.bodies = Bodies(self.table, self.blobs, self.environment)
        self.users = Users(self.table, "alice", "bob", "carol", "admin")
        self.post = PostOffice(self.table, self.bodies, self.environment, self.users, domain)
        self.queue = self.queue_of("http-1")
        self.outbox = Outbox(self.environment, self.bodies, self.post, self.queue)

    def queue_of(self, node: str, incarnation: int = 1) -> Queue:
        return Queue(self.table, self.environment, node, incarnation)

    def rows(self, prefix: bytes) -> list[bytes]:
        """Rows that hold any cell."""
        return sorted(r for r, cells in self.table._rows.items() if cells and r.startswith(prefix))

    def letter(self, text: str = "hello\n", subject: str = "hi", **more: Any) -> Letter:
        return Letter(
            sender=Shown("", "alice@penncloud"),
            to=more.pop("to", (Shown("", "bob@penncloud"),)),
            subject=subject,
            text=text,
            date=START_S,
            message_id=more.pop("message_id", "<m1@penncloud>"),
            **more,
        )

    def outgoing(self, *recipients: str, letter: Letter | None = None) -> Outgoing:
        def write(message_id: str) -> AsyncIterator[bytes]:
            return compose(letter or self.letter(message_id=f"<{message_id}@penncloud>"), "b")

        return Outgoing(
            "alice", "alice@penncloud", tuple(parse_address(r) for r in recipients), write
        )
