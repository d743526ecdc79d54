"""Taking a message in: who may get one here, and from the first byte to every mailbox."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from email.utils import formatdate

from attrs import frozen
from twisted.logger import Logger

from penncloud.platform import trace
from penncloud.platform.environment import Environment
from penncloud.services.mail.addresses import Address
from penncloud.services.mail.bodies import BodyWriter
from penncloud.services.mail.mailbox import Filing, holder
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.summary import HEAD_BYTES, summarise
from penncloud.smtp.commands import Refusal
from penncloud.smtp.trace import TraceHeaders


@frozen
class Envelope:
    """Who sends what to whom. `users` are the accounts that the recipients mean, each once."""

    sender: Address | None
    recipients: tuple[Address, ...]
    users: tuple[str, ...]
    client: str  # IP address
    helo: str
    protocol: str  # as in the `with` clause of Received: SMTP, ESMTP, UTF8SMTPS


class Incoming:
    """One message under way. `size` counts its bytes as they came, in total."""

    def __init__(self, writer: BodyWriter, envelope: Envelope, trace: TraceHeaders) -> None:
        self.envelope = envelope
        self.size = 0
        self.trace = trace
        self.writer = writer
        self.head = bytearray()
        self._digest = hashlib.sha256(str(envelope.sender or "").encode() + b"\x00")

    async def write(self, lines: bytes) -> None:
        """Take complete lines. Raises what the store raises."""
        self.size += len(lines)
        self._digest.update(lines)
        await self._store(self.trace.feed(lines))

    async def close(self) -> None:
        """No more lines come."""
        await self._store(self.trace.finish())

    async def _store(self, data: bytes) -> None:
        if data:
            self.head += data[: HEAD_BYTES - len(self.head)]
            await self.writer.write(data)

    @property
    def token(self) -> str:
        """The name of this delivery.

        A client that did not get our 250 sends the very same message again: it has the same token, so
        that those who have it do not get it twice. Without a Message-ID two equal messages may be
        meant as two.
        """
        if self.trace.message_id:
            return f"smtp-{self._digest.hexdigest()[:40]}"
        return f"smtp-{self.writer.message_id}"


class Reception:
    """What the smtp server does with envelopes and messages."""

    log = Logger()

    def __init__(self, environment: Environment, post: PostOffice, hostname: str) -> None:
        self.hostname = hostname
        self._environment = environment
        self._post = post

    async def accept_recipient(self, address: Address) -> str:
        """The account that gets mail for this address. Raises Refusal, or Unavailable."""
        if not self._post.is_local(address):
            raise Refusal(550, "5.7.1", "Relaying denied")
        user = await self._post.find_user(address)
        if user is None:
            raise Refusal(550, "5.1.1", "No such user here")
        return user

    async def begin(self, envelope: Envelope) -> Incoming:
        """Prepare to store a message. Raises Unavailable."""
        bodies = self._post.bodies
        message_id = bodies.new_id()
        with trace.working_for(message_id):
            writer = await bodies.open(message_id, _holders(envelope.users))
        received = self._received(envelope, message_id)
        return Incoming(writer, envelope, TraceHeaders(received, self.hostname))

    async def deliver(self, incoming: Incoming) -> None:
        """Store a closed message for every recipient; returns when all of them have it.

        Raises Unavailable (and others) when that is not certain: some may have it, and get it
        only once when the client sends it again.
        """
        with trace.working_for(incoming.writer.message_id):
            await self._deliver(incoming)

    async def _deliver(self, incoming: Incoming) -> None:
        envelope, writer = incoming.envelope, incoming.writer
        await writer.finish(_holders(envelope.users))
        filing = Filing(
            token=incoming.token,
            message_id=writer.message_id,
            summary=summarise(bytes(incoming.head), writer.size),
            return_path=str(envelope.sender or ""),
        )
        await self._post.deliver(envelope.users, filing)
        await writer.settle()
        self.log.info(
            "{id}: {size} bytes from <{sender}> at {client} to {count} mailboxes",
            id=writer.message_id,
            size=writer.size,
            sender=filing.return_path,
            client=envelope.client,
            count=len(envelope.users),
        )

    def _received(self, envelope: Envelope, message_id: str) -> bytes:
        """RFC 5321 4.4. The recipient is named only if alone: others shall not learn of each other."""
        helo = re.sub(r"[^!-'*-\[\]-~]", "?", envelope.helo)[:255] or "unknown"
        client = f"IPv6:{envelope.client}" if ":" in envelope.client else envelope.client
        lines = [
            f"Received: from {helo} ([{client}])",
            f"\tby {self.hostname} (PennCloud) with {envelope.protocol} id {message_id}",
        ]
        if len(envelope.recipients) == 1:
            lines.append(f"\tfor <{envelope.recipients[0]}>")
        date = formatdate(self._environment.now())
        return ("\r\n".join(lines) + f";\r\n\t{date}\r\n").encode()


def _holders(users: Sequence[str]) -> list[str]:
    return [holder("inbox", user) for user in users]
