"""The local post office: who is here, and putting one stored message into many mailboxes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from attrs import define
from twisted.internet.defer import DeferredList, DeferredSemaphore

from penncloud.client.table import Table
from penncloud.platform.environment import Environment
from penncloud.services.mail.addresses import Address
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.given_up import GivenUp
from penncloud.services.mail.mailbox import Filing, Mailbox, holder

# Mailboxes written at the same time for one message.
DELIVERIES_AT_ONCE = 16
# Whose mailbox gets what is sent to postmaster@ (RFC 5321 4.5.1).
POSTMASTER_IS = "admin"
_USER = re.compile(r"[a-z][a-z0-9._-]{0,31}")


class Users(Protocol):
    """What mail has to know of accounts (see services.accounts)."""

    async def exists(self, name: str) -> bool:
        """Raises Unavailable when the store cannot tell."""
        ...


@define
class PostOffice:
    """Local delivery for one mail domain."""

    _table: Table
    bodies: Bodies
    _environment: Environment
    _users: Users
    domain: str

    def mailbox(self, name: str) -> Mailbox:
        """A user's mailbox."""
        return Mailbox(self._table, self.bodies, self._environment, name)

    def is_local(self, address: Address) -> bool:
        """Whether an address is ours to deliver, whoever it names."""
        return address.domain in ("", self.domain.lower())

    async def find_user(self, address: Address) -> str | None:
        """The account that a local address means, or None. Raises Unavailable."""
        name = address.local.lower()
        if name == "postmaster":
            return POSTMASTER_IS
        if not _USER.fullmatch(name) or name.endswith("."):
            return None
        return name if await self._users.exists(name) else None

    async def deliver(self, names: Iterable[str], filing: Filing) -> None:
        """Put a stored message into every user's inbox; returns when all of them have it.

        The body has to be held for `inbox/NAME` of each. Raises the first failure, after all have been
        tried; doing it again delivers only what is missing. GivenUp: send it again, under another id.
        """
        slots = DeferredSemaphore(DELIVERIES_AT_ONCE)
        running = [slots.run(self._deliver, name, filing) for name in names]
        outcomes: list[tuple[bool, Any]] = await DeferredList(running, consumeErrors=True)
        for succeeded, outcome in outcomes:
            if not succeeded:
                outcome.raiseException()

    async def _deliver(self, name: str, filing: Filing) -> None:
        mailbox = self.mailbox(name)
        try:
            if await mailbox.file("inbox", filing) or await mailbox.has("inbox", filing.message_id):
                return
        except GivenUp:
            # The reclaimer may have been here before the body was.
            await self.bodies.release(filing.message_id, holder("inbox", name))
            raise
        # Delivered before under another body (a sender that tries again), or deleted since.
        await self.bodies.release(filing.message_id, holder("inbox", name))
