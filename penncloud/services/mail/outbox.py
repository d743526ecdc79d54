"""Sending what a user wrote: one logical operation that survives every crash and every second click.

    1. the body, held by the sent copy, every local recipient and every queue item to come
    2. the commit: a submission in the queue, under an id derived from the form's token
    3. carrying it out: sent copy, local deliveries, then one mutation that ends the submission and
       queues one item per outside domain

Before 2 nothing was sent; after it everything will be: if the node dies, an smtp node finds the
submission when its lease runs out and carries it out. Every part of 3 can be done twice without effect.
Where 2 comes so late that the body was reclaimed it fails (`given_up`), and the sender is asked to try again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from penncloud.platform.environment import Environment
from penncloud.platform.errors import PennCloudError
from penncloud.services.mail.addresses import Address, parse_address
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.given_up import GivenUp
from penncloud.services.mail.mailbox import Filing, holder
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import (
    MAX_DOMAINS,
    AlreadyQueued,
    Claimed,
    Item,
    LeaseLost,
    Queue,
    Recipient,
    item_holder,
    submission_id,
)
from penncloud.services.mail.summary import HEAD_BYTES, summarise

# Recipients of one message sent by the web.
MAX_RECIPIENTS = 100


class UnknownRecipients(PennCloudError):
    """Local addresses that nobody has; nothing was sent."""

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__("nobody here has the address " + ", ".join(addresses))
        self.addresses = list(addresses)


class TooManyRecipients(PennCloudError):
    """More recipients than one message may have; nothing was sent."""


class TooLarge(PennCloudError):
    """The message is larger than allowed; nothing was sent."""


@frozen
class Outgoing:
    """What is to be sent: `write(message id)` gives the message's bytes, the envelope stands beside."""

    user: str
    sender: str
    recipients: tuple[Address, ...]
    write: Callable[[str], AsyncIterator[bytes]]


@define
class Outbox:
    """Submissions. `max_bytes` bounds one message."""

    _log = Logger()

    _environment: Environment
    _bodies: Bodies
    _post: PostOffice
    _queue: Queue
    max_bytes: int = 35 * 1024 * 1024

    async def send(self, token: str, outgoing: Outgoing) -> bool:
        """Send, once per user and token; False when that was done (or begun) before.

        Returns when the sent copy, the local deliveries and the queue items are durable. Raises
        UnknownRecipients, TooManyRecipients, TooLarge (nothing was sent), GivenUp or Unavailable: then it
        may have been accepted, and sending again with the same token is safe.
        """
        item_id = submission_id(outgoing.user, token)
        if await self._post.mailbox(outgoing.user).was_filed(_sent_token(item_id)):
            return False
        addresses = list(dict.fromkeys(outgoing.recipients))
        if not 0 < len(addresses) <= MAX_RECIPIENTS:
            raise TooManyRecipients(f"a message has 1 to {MAX_RECIPIENTS} recipients")
        local, outside = await self._sorted(addresses)
        domains = {address.domain for address in outside}
        if len(domains) > MAX_DOMAINS:
            raise TooManyRecipients(f"a message goes to at most {MAX_DOMAINS} domains")
        holders = [
            holder("sent", outgoing.user),
            *(holder("inbox", name) for name in local),
            item_holder(item_id),
            *(item_holder(f"{item_id}.{n}") for n in range(len(domains))),
        ]
        message_id = self._bodies.new_id()
        writer = await self._bodies.open(message_id, holders)
        try:
            async for piece in outgoing.write(message_id):
                await writer.write(piece)
                if writer.size > self.max_bytes:
                    raise TooLarge("the message is larger than allowed")
        except BaseException:
            # The sender is told at once: when the store is away, clearing up may take its deadlines again.
            Deferred.fromCoroutine(writer.abort()).addErrback(
                lambda failure: self._log.failure("a message was not removed", failure)
            )
            raise
        await writer.finish(holders)
        now = self._environment.now()
        item = Item(
            id=item_id,
            message_id=message_id,
            user=outgoing.user,
            sender=outgoing.sender,
            recipients=[Recipient(str(address)) for address in addresses],
            created=now,
            due=now,
        )
        try:
            claimed = await self._queue.submit(item)
        except (AlreadyQueued, GivenUp) as error:
            for each in holders:
                await self._bodies.release(message_id, each)
            await writer.settle()
            if isinstance(error, GivenUp):
                raise
            return False
        try:
            await self.carry_out(claimed)
        except LeaseLost:
            # We were slow, and another node has taken over what was committed above.
            return True
        await writer.settle()
        return True

    async def carry_out(self, claimed: Claimed) -> None:
        """File, deliver and split a submission. Raises LeaseLost, or Unavailable: then do it again."""
        item = claimed.item
        head = await self._bodies.read_all(item.message_id, HEAD_BYTES)
        size = (await self._bodies.find(item.message_id)).size
        summary = summarise(head, size)
        sent = Filing(_sent_token(item.id), item.message_id, summary)
        await self._post.mailbox(item.user).file("sent", sent)
        addresses = [parse_address(recipient.address) for recipient in item.recipients]
        local = [address for address in addresses if self._post.is_local(address)]
        names = {await self._post.find_user(address) for address in local}
        inbox = Filing(f"submission-{item.id}", item.message_id, summary, item.sender)
        await self._post.deliver(sorted(name for name in names if name), inbox)
        by_domain: dict[str, list[Recipient]] = {}
        for address in addresses:
            if not self._post.is_local(address):
                by_domain.setdefault(address.domain, []).append(Recipient(str(address)))
        now = self._environment.now()
        successors = [
            msgspec.structs.replace(
                item,
                id=f"{item.id}.{n}",
                domain=domain,
                recipients=recipients,
                created=now,
                due=now,
                lease=None,
            )
            for n, (domain, recipients) in enumerate(by_domain.items())
        ]
        await self._queue.finish(claimed, successors)
        await self._bodies.release_done(item.message_id, item.holder)

    async def _sorted(self, addresses: Sequence[Address]) -> tuple[list[str], list[Address]]:
        """User names of the local recipients (each once), and the outside addresses."""
        local: list[str] = []
        unknown: list[str] = []
        outside: list[Address] = []
        for address in addresses:
            if not self._post.is_local(address):
                outside.append(address)
                continue
            name = await self._post.find_user(address)
            if name is None:
                unknown.append(str(address))
            elif name not in local:
                local.append(name)
        if unknown:
            raise UnknownRecipients(unknown)
        return local, outside


def _sent_token(item_id: str) -> str:
    return f"sent-{item_id}"
