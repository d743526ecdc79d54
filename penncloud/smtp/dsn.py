"""Reports on what could not be delivered, or not yet (RFC 3464), into the sender's mailbox."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from email.utils import formatdate

from attrs import define
from twisted.logger import Logger

from penncloud.platform.environment import Environment
from penncloud.services.mail.addresses import Shown
from penncloud.services.mail.bodies import NoSuchMessage
from penncloud.services.mail.compose import Letter
from penncloud.services.mail.compose import headers as compose_headers
from penncloud.services.mail.headers import split
from penncloud.services.mail.mailbox import Filing, holder
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import Item, Recipient
from penncloud.services.mail.summary import HEAD_BYTES, summarise

# Bytes of the original's header section that a report carries.
_ORIGINAL_BYTES = 32 * 1024


@define
class Reports:
    """Writes reports. They come from the null sender, so nothing ever answers them (RFC 5321 6.1)."""

    _environment: Environment
    _post: PostOffice
    _hostname: str

    log = Logger()

    async def failed(self, item: Item, recipients: Sequence[Recipient]) -> None:
        """Tell the sender that these will not get the message. Doing it again delivers nothing.

        An attempt that is made again may find others refused: they are in the report's name.
        """
        refused = "\n".join(sorted(recipient.address for recipient in recipients))
        digest = hashlib.sha256(refused.encode()).hexdigest()[:16]
        await self._report(item, recipients, "failed", f"failed-{item.id}-{digest}")

    async def delayed(self, item: Item, recipients: Sequence[Recipient]) -> None:
        """Tell the sender that these did not get the message yet, and that it is tried on."""
        await self._report(item, recipients, "delayed", f"delayed-{item.id}")

    async def _report(
        self, item: Item, recipients: Sequence[Recipient], action: str, token: str
    ) -> None:
        if not item.sender or not item.user:
            self.log.info("{id} {action}: it has no sender to tell", id=item.id, action=action)
            return
        bodies = self._post.bodies
        message_id = bodies.new_id()
        original = await self._original(item)
        letter = self._letter(item, action, original, message_id)
        raw = report(
            letter,
            recipients,
            action=action,
            created=item.created,
            original=original,
            hostname=self._hostname,
        )
        holders = [holder("inbox", item.user)]
        writer = await bodies.open(message_id, holders)
        await writer.write(raw)
        await writer.finish(holders)
        filing = Filing(token, message_id, summarise(raw, len(raw)), return_path="")
        await self._post.deliver([item.user], filing)
        await writer.settle()

    async def _original(self, item: Item) -> bytes:
        """The header section of the message that is reported on."""
        try:
            head = await self._post.bodies.read_all(item.message_id, HEAD_BYTES)
        except NoSuchMessage:
            return b""
        _, body = split(head)
        return head[: min(body, _ORIGINAL_BYTES)].rstrip(b"\r\n") + b"\r\n"

    def _letter(self, item: Item, action: str, original: bytes, message_id: str) -> Letter:
        found, _ = split(original)
        own = found.message_ids("message-id", 1)
        subjects = {
            "failed": "Undelivered mail returned to sender",
            "delayed": "Delivery of your mail is delayed",
        }
        return Letter(
            sender=Shown("Mail Delivery System", f"mailer-daemon@{self._post.domain}"),
            to=(Shown("", item.sender),),
            subject=subjects[action],
            text="",
            date=self._environment.now(),
            message_id=f"<{message_id}@{self._post.domain}>",
            in_reply_to=own[0] if own else "",
            references=tuple(own),
            extra=(("Auto-Submitted", "auto-replied"),),
        )


def report(
    letter: Letter,
    recipients: Sequence[Recipient],
    *,
    action: str,
    created: float,
    original: bytes,
    hostname: str,
) -> bytes:
    """The multipart/report: for people, for programs, and the original's headers."""
    mark = f"=_report_{letter.message_id.strip('<>').partition('@')[0]}"
    lines = [
        *compose_headers(letter),
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="%s"'
        % mark.encode(),
        b"",
        b"--" + mark.encode(),
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Transfer-Encoding: 8bit",
        b"",
        *_for_people(recipients, action),
        b"--" + mark.encode(),
        b"Content-Type: message/delivery-status",
        b"",
        b"Reporting-MTA: dns; " + hostname.encode(),
        b"Arrival-Date: " + formatdate(created).encode(),
    ]
    for recipient in recipients:
        lines += [b"", *_for_programs(recipient, action)]
    lines += [
        b"",
        b"--" + mark.encode(),
        b"Content-Type: text/rfc822-headers",
        b"",
        original.rstrip(b"\r\n"),
        b"--" + mark.encode() + b"--",
        b"",
    ]
    return b"\r\n".join(lines)


def _for_people(recipients: Sequence[Recipient], action: str) -> list[bytes]:
    if action == "failed":
        first = "Your message could not be delivered to:"
        last = "It will not be tried again."
    else:
        first = "Your message could not be delivered yet to:"
        last = "You need not do anything: it is tried again for some days, and you will be told."
    lines = [first, ""]
    for recipient in recipients:
        said = (
            f"{recipient.remote} said: {recipient.reply}" if recipient.remote else recipient.reply
        )
        lines += [f"  <{recipient.address}>", f"    {recipient.status} {_one_line(said)}", ""]
    return [line.encode("utf-8", "replace") for line in [*lines, last, ""]]


def _for_programs(recipient: Recipient, action: str) -> list[bytes]:
    kind = "rfc822" if recipient.address.isascii() else "utf-8"
    lines = [
        f"Final-Recipient: {kind}; {recipient.address}",
        f"Action: {action}",
        f"Status: {recipient.status or '5.0.0'}",
    ]
    if recipient.remote:
        lines.append(f"Remote-MTA: dns; {_one_line(recipient.remote)}")
    if recipient.reply:
        lines.append(f"Diagnostic-Code: smtp; {_one_line(recipient.reply)}")
    return [line.encode("utf-8", "replace") for line in lines]


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:600]
