"""Compose, reply, forward; and sending, with attachments streamed from the browser into the store."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

from attrs import frozen

from penncloud.services.mail import mime
from penncloud.services.mail.addresses import (
    Address,
    BadAddress,
    Shown,
    ascii_domain,
    parse_address,
    parse_list,
)
from penncloud.services.mail.compose import MAX_SUBJECT_CHARS, Attachment, Letter, compose
from penncloud.services.mail.outbox import (
    MAX_RECIPIENTS,
    Outbox,
    Outgoing,
    TooLarge,
    TooManyRecipients,
    UnknownRecipients,
)
from penncloud.web.application import json_answer, see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.mail._draft import Draft, DraftForm, Upload
from penncloud.web.mail._messages import Messages, Opened
from penncloud.web.request import WebRequest

# A form with attachments, in bytes.
MAX_FORM_BYTES = 30 * 1024 * 1024
# Characters of an original that are quoted, ids of one References field.
_QUOTED_CHARS = 100_000
_REFERENCES = 20

Kind = Literal["new", "reply", "forward"]


@frozen
class _Fixed:
    """What a reply's or forward's original determines. For a reply `to` is not empty."""

    to: tuple[Shown, ...] = ()
    subject: str = ""
    text: str = ""
    in_reply_to: str = ""
    references: tuple[str, ...] = ()
    attachments: tuple[mime.Part, ...] = ()
    original: Opened | None = None


class _Problem(Exception):
    """What the writer has to mend before the message can be sent."""


class Writing:
    """The routes of this module."""

    def __init__(self, context: WebContext, outbox: Outbox, messages: Messages) -> None:
        self._context = context
        self._outbox = outbox
        self._messages = messages

    async def compose(self, request: WebRequest) -> bytes:
        draft = Draft(to=request.query.text("to", "")[:1000])
        return self._page(request, draft, _Fixed())

    async def reply(self, request: WebRequest, box: str, stamp: str) -> bytes:
        return await self._answer(request, "reply", box, stamp)

    async def forward(self, request: WebRequest, box: str, stamp: str) -> bytes:
        return await self._answer(request, "forward", box, stamp)

    async def _answer(self, request: WebRequest, kind: Kind, box: str, stamp: str) -> bytes:
        draft = Draft(kind=kind, box=box, stamp=stamp)
        fixed = await self._fixed(request, draft)
        draft.to = ", ".join(map(str, fixed.to))
        draft.subject = fixed.subject
        draft.text = fixed.text
        draft.keep = [str(part.number) for part in fixed.attachments]
        return self._page(request, draft, fixed)

    def _page(self, request: WebRequest, draft: Draft, fixed: _Fixed, problem: str = "") -> bytes:
        if not draft.token:
            # One message per form, however often it is sent as it is.
            draft.token = self._context.environment.entropy(16).hex()
        return self._context.page(
            request,
            "mail/compose.html",
            draft=draft,
            fixed=fixed,
            problem=problem,
            max_bytes=MAX_FORM_BYTES,
            unread=0,
        )

    async def send(self, request: WebRequest) -> bytes:
        form = DraftForm(request)
        draft = await form.read_fields()
        request.check_csrf(draft.csrf)
        if not re.fullmatch(r"[0-9a-f]{32}", draft.token):
            raise WebError(400, "The form has no valid token. Please open a new one.")
        for value in (draft.to, draft.subject):
            if any(ord(char) < 32 or ord(char) == 127 for char in value):
                raise WebError(400, "A field of the header must not hold line breaks.")
        fixed = await self._fixed(request, draft)
        try:
            await self._send(request, draft, fixed, form)
        except (_Problem, UnknownRecipients, TooManyRecipients, TooLarge) as error:
            return self._refuse(request, draft, fixed, f"{error}")
        if request.wants_page:
            return see_other(request, "/mail/sent?sent=1")
        return json_answer(request, {"location": "/mail/sent?sent=1"})

    def _refuse(self, request: WebRequest, draft: Draft, fixed: _Fixed, problem: str) -> bytes:
        text = problem[:1].upper() + problem[1:] + "."
        if not request.wants_page:
            raise WebError(422, text)
        request.setResponseCode(422)
        return self._page(request, draft, fixed, text)

    async def _send(
        self, request: WebRequest, draft: Draft, fixed: _Fixed, form: DraftForm
    ) -> None:
        domain = self._context.cluster.domain
        sender = f"{request.login.name}@{domain}"
        if draft.kind == "reply":
            # To and subject of a reply are the original's, whatever the form says.
            draft.subject, to = fixed.subject, list(fixed.to)
            draft.to = ", ".join(map(str, to))
        else:
            to = parse_list(draft.to, MAX_RECIPIENTS + 1)
        shown, recipients = _recipients(to, domain)
        if len(draft.subject) > MAX_SUBJECT_CHARS:
            raise _Problem(f"the subject is longer than {MAX_SUBJECT_CHARS} characters")
        kept = [part for part in fixed.attachments if str(part.number) in draft.keep]
        has_uploads = await form.has_uploads()
        now = self._context.environment.now()

        def write(message_id: str) -> AsyncIterator[bytes]:
            files = self._attachments(fixed.original, kept, form) if kept or has_uploads else None
            letter = Letter(
                sender=Shown("", sender),
                to=tuple(shown),
                subject=draft.subject,
                text=draft.text,
                date=now,
                message_id=f"<{message_id}@{domain}>",
                in_reply_to=fixed.in_reply_to,
                references=fixed.references,
                attachments=files,
            )
            return compose(letter, self._context.environment.entropy(12).hex())

        await self._outbox.send(
            draft.delivery, Outgoing(request.login.name, sender, tuple(recipients), write)
        )

    async def _attachments(
        self, original: Opened | None, kept: list[mime.Part], form: DraftForm
    ) -> AsyncIterator[Attachment]:
        """First those of a forwarded message, then the files as the browser sends them."""
        for part in kept:
            assert original is not None, "parts without a message"
            data = await self._messages.content(original, part)
            yield Attachment(part.download_name, part.content_type, _once(data))
        async for upload in form.uploads():
            yield _attachment(upload)

    async def _fixed(self, request: WebRequest, draft: Draft) -> _Fixed:
        if draft.kind == "new":
            return _Fixed()
        original = await self._messages.open(request.login.name, draft.box, draft.stamp)
        headers = original.structure.headers
        subject = headers.text("subject")[: MAX_SUBJECT_CHARS - 10]
        if draft.kind == "forward":
            return _Fixed(
                subject=f"FWD: {subject}",
                text=_forwarded(original),
                attachments=tuple(original.structure.attachments),
                original=original,
            )
        mine = original.listed.box == "sent"
        names = ("to",) if mine else ("reply-to", "from")
        to = next((found for name in names if (found := original.addresses(name))), [])
        known = headers.message_ids("references") or headers.message_ids("in-reply-to")
        own = headers.message_ids("message-id", 1)
        is_reply = subject[:3].lower() == "re:"
        return _Fixed(
            to=tuple(to),
            subject=subject if is_reply else f"Re: {subject}",
            text=_quoted(original),
            in_reply_to=own[0] if own else "",
            references=tuple([*known, *own][-_REFERENCES:]),
            original=original,
        )


def _attachment(upload: Upload) -> Attachment:
    content_type = upload.content_type.lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*", content_type):
        content_type = "application/octet-stream"
    if content_type.startswith(("multipart/", "message/")):
        content_type = "application/octet-stream"  # these may not be encoded (RFC 2045 6.4)
    return Attachment(mime.clean_name(upload.name) or "file", content_type, upload.pieces)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _recipients(to: list[Shown], domain: str) -> tuple[list[Shown], list[Address]]:
    """What the header shows and where it goes; a name without @ is a user here. Raises _Problem."""
    shown: list[Shown] = []
    addresses: list[Address] = []
    for each in to:
        text = each.address or each.name
        try:
            address = parse_address(text if "@" in text else f"{text}@{domain}")
            # Checked again: IDNA makes "a/c" of one character, and long names of short ones.
            address = parse_address(str(Address(address.local, ascii_domain(address.domain))))
        except BadAddress as error:
            raise _Problem(f"“{text[:100]}” is not a mail address: {error}") from error
        shown.append(Shown(each.name if each.address else "", str(address)))
        addresses.append(address)
    if not addresses:
        raise _Problem("say to whom the message goes")
    return shown, addresses


def _quoted(original: Opened) -> str:
    sender = ", ".join(map(str, original.addresses("from", 3))) or "somebody"
    lines = original.quotable[:_QUOTED_CHARS].rstrip().split("\n")
    quoted = "\n".join(f"> {line}" if line[:1] != ">" else f">{line}" for line in lines)
    return f"\n\nOn {_when(original)}, {sender} wrote:\n{quoted}\n"


def _forwarded(original: Opened) -> str:
    headers = original.structure.headers
    head = [
        "---------- Forwarded message ----------",
        f"From: {', '.join(map(str, original.addresses('from', 3)))}",
        f"Date: {_when(original)}",
        f"Subject: {headers.text('subject')}",
        f"To: {', '.join(map(str, original.addresses('to')))}",
    ]
    return "\n\n" + "\n".join(head) + "\n\n" + original.quotable[:_QUOTED_CHARS]


def _when(original: Opened) -> str:
    date = datetime.fromtimestamp(original.listed.entry.date, UTC)
    return date.strftime("%Y-%m-%d at %H:%M UTC")
