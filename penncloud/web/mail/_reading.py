"""The pages that show mail: the two boxes, a message with its thread, its parts."""

from __future__ import annotations

import re
from contextlib import aclosing
from urllib.parse import quote

from penncloud.services.mail import mime
from penncloud.services.mail.bodies import NoSuchMessage
from penncloud.services.mail.mailbox import BoxName, NoSuchEntry
from penncloud.services.mail.post import PostOffice
from penncloud.web.application import see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.mail._messages import Messages, with_links
from penncloud.web.request import WebRequest
from penncloud.web.security import CONTENT_SECURITY_POLICY

# Messages on one page of a list, and deleted by one form.
PAGE = 50
_STAMP = re.compile(r"[0-9a-f]{16}")
# The frame in which HTML mail is shown: no scripts, nothing from elsewhere, no way out of it.
_FRAME_POLICY = (
    b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self';"
    b" base-uri 'none'; form-action 'none'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
_FRAME = (
    "<!doctype html><html><head><meta charset=utf-8><title>Message</title><style>"
    "body{margin:0.75rem;font:16px/1.5 system-ui,sans-serif;color:#1b2533;background:#fff;"
    "overflow-wrap:anywhere}img{max-width:100%;height:auto}pre{white-space:pre-wrap}"
    "blockquote{margin:0 0 0 0.5rem;padding-left:0.75rem;border-left:3px solid #ccd}"
    "</style></head><body>"
)


class Reading:
    """The routes of this module."""

    def __init__(self, context: WebContext, post: PostOffice, messages: Messages) -> None:
        self._context = context
        self._post = post
        self._messages = messages

    async def inbox(self, request: WebRequest) -> bytes:
        return await self._list(request, "inbox")

    async def sent(self, request: WebRequest) -> bytes:
        return await self._list(request, "sent")

    async def _list(self, request: WebRequest, box: BoxName) -> bytes:
        before = request.query.text("before", "")
        if before and not _STAMP.fullmatch(before):
            raise WebError(400, "This is not a place in the mailbox.")
        mailbox = self._post.mailbox(request.login.name)
        listed, more = await mailbox.page(box, before=before, limit=PAGE)
        return self._context.page(
            request,
            "mail/list.html",
            box=box,
            listed=listed,
            more=more,
            before=before,
            unread=await mailbox.unread_count(),
            was_sent=request.query.text("sent", "") == "1",
        )

    async def message(self, request: WebRequest, box: str, stamp: str) -> bytes:
        user = request.login.name
        opened = await self._messages.open(user, box, stamp)
        mailbox = self._post.mailbox(user)
        thread = await mailbox.thread(opened.listed.entry.thread)
        frames = f"{CONTENT_SECURITY_POLICY}; frame-src 'self'"
        request.setHeader(b"content-security-policy", frames.encode())
        return self._context.page(
            request,
            "mail/message.html",
            box=box,
            listed=opened.listed,
            headers=opened.structure.headers,
            sender=opened.addresses("from", 5),
            to=opened.addresses("to"),
            cc=opened.addresses("cc"),
            subject=opened.structure.headers.text("subject"),
            lines=with_links(opened.text),
            is_cut=opened.is_text_cut or opened.structure.is_cut,
            shows_html=opened.has_html and request.query.text("view", "") != "text",
            has_html=opened.has_html,
            has_text=opened.structure.first("text/plain") is not None,
            attachments=[(part, mime.decoded_size(part)) for part in opened.structure.attachments],
            thread=[each for each in thread if each.stamp != stamp or each.box != box],
            thread_place=next(
                (n for n, each in enumerate(thread) if each.stamp == stamp and each.box == box), 0
            ),
            unread=await mailbox.unread_count(),
        )

    async def html(self, request: WebRequest, box: str, stamp: str) -> bytes:
        """The HTML part, for the frame."""
        opened = await self._messages.open(request.login.name, box, stamp)
        page, blocked = await self._messages.safe_html(opened)
        request.setHeader(b"content-security-policy", _FRAME_POLICY)
        request.setHeader(b"x-frame-options", b"SAMEORIGIN")
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        note = (
            '<p style="color:#7a4d00;background:#fff3d6;padding:0.4rem 0.75rem;border-radius:6px">'
            "Pictures from other servers are not loaded: they would tell the sender that you read"
            " this.</p>"
        )
        return (_FRAME + (note if blocked else "") + page + "</body></html>").encode()

    async def raw(self, request: WebRequest, box: str, stamp: str) -> bytes | None:
        """The message as it was received, in pieces."""
        listed = await self._messages.find(request.login.name, box, stamp)
        entry, bodies = listed.entry, self._post.bodies
        first = (
            b"" if entry.return_path is None else f"Return-Path: <{entry.return_path}>\r\n".encode()
        )
        try:
            size = (await bodies.find(entry.id)).size
        except NoSuchMessage as error:
            raise WebError(404, "This message is not here any more.") from error
        _as_download(
            request, f"{mime.clean_name(entry.subject) or 'message'}.eml", "message/rfc822"
        )
        request.setHeader(b"content-length", b"%d" % (len(first) + size))
        if request.method == b"HEAD":
            return b""
        if first:
            await request.send(first)
        async with aclosing(bodies.read(entry.id)) as pieces:
            async for piece in pieces:
                await request.send(piece)
        request.finish()
        return None

    async def attachment(self, request: WebRequest, box: str, stamp: str, number: int) -> bytes:
        opened = await self._messages.open(request.login.name, box, stamp)
        parts = [part for part in opened.structure.attachments if part.number == number]
        if not parts:
            raise WebError(404, "The message has no such attachment.")
        _as_download(request, parts[0].download_name, parts[0].content_type)
        return await self._messages.content(opened, parts[0])

    async def mark(self, request: WebRequest, box: str, stamp: str) -> bytes:
        await self._messages.find(request.login.name, box, stamp)
        as_unread = request.form().text("as", "") == "unread"
        if box == "inbox":
            try:
                await self._post.mailbox(request.login.name).mark(stamp, unread=as_unread)
            except NoSuchEntry as error:
                raise WebError(404, "This message is not here any more.") from error
        return see_other(request, "/mail" if as_unread else f"/mail/{box}/{stamp}")

    async def delete(self, request: WebRequest, box: str, stamp: str) -> bytes:
        listed = await self._messages.find(request.login.name, box, stamp)
        await self._delete(request.login.name, listed.box, stamp)
        return see_other(request, _box_path(listed.box))

    async def delete_many(self, request: WebRequest) -> bytes:
        """What was ticked in a list; what is gone already is no error."""
        form = request.form()
        box: BoxName = "sent" if form.text("box", "") == "sent" else "inbox"
        stamps = form.all("stamp")
        if len(stamps) > PAGE or not all(_STAMP.fullmatch(stamp) for stamp in stamps):
            raise WebError(400, "These are no messages of one page.")
        for stamp in stamps:
            await self._delete(request.login.name, box, stamp)
        return see_other(request, _box_path(box))

    async def _delete(self, user: str, box: BoxName, stamp: str) -> None:
        try:
            await self._post.mailbox(user).delete(box, stamp)
        except NoSuchEntry:
            return  # somebody (another tab) was quicker: it is gone, as was wanted


def _box_path(box: BoxName) -> str:
    return "/mail/sent" if box == "sent" else "/mail"


def _as_download(request: WebRequest, name: str, content_type: str) -> None:
    """Never shown by the browser in our name: offered for download, and not guessed at."""
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    request.setHeader(b"content-disposition", disposition.encode())
    request.setHeader(b"content-type", content_type.encode("ascii", "replace"))
    request.setHeader(b"x-content-type-options", b"nosniff")
    request.setHeader(b"content-security-policy", b"default-src 'none'; sandbox")
