"""The chat board in the browser: a page that works as a plain form, live where there are scripts."""

from __future__ import annotations

from typing import Any

import msgspec

from penncloud.services.chat import BadMessage, Chat, Messages, is_cursor
from penncloud.services.sessions import Session
from penncloud.web.application import Application, json_answer, see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.events import Batch, Event
from penncloud.web.forms import Form
from penncloud.web.request import WebRequest


class _Posted(msgspec.Struct, forbid_unknown_fields=True):
    """What a script posts."""

    id: str
    text: str


class _Topic:
    """Events with the messages behind `after`: a page that has more or less than that notices."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def row(self, session: Session) -> bytes:
        return self._chat.row

    async def read(self, session: Session, cursor: str, version: int) -> Batch:
        if is_cursor(cursor):
            found = await self._chat.following(cursor)
        else:
            found, cursor = await self._chat.latest(), ""
        if not found.messages:
            return Batch([])
        data: dict[str, Any] = {"after": cursor, "messages": found.messages}
        more = found.more and bool(cursor)
        return Batch([Event(found.messages[-1].cursor, data)], more)


class _Features:
    """The routes of this module."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._chat = Chat(context.table, context.environment)
        context.events.add("chat", _Topic(self._chat))

    async def board(self, request: WebRequest) -> bytes:
        return await self._page(request)

    async def messages(self, request: WebRequest) -> bytes:
        """JSON: a page of messages before or behind a cursor."""
        before, behind = _cursor(request.query, "before"), _cursor(request.query, "after")
        if behind:
            found = await self._chat.following(behind)
        else:
            found = await self._chat.latest(before)
        return json_answer(request, {"messages": found.messages, "more": found.more})

    async def post(self, request: WebRequest) -> bytes:
        is_script = not request.wants_page
        if is_script:
            posted = request.json(_Posted)
        else:
            form = request.form()
            posted = _Posted(form.text("id"), form.text("text", ""))
        try:
            message = await self._chat.post(request.login.name, posted.text, posted.id)
        except BadMessage as error:
            if is_script:
                raise WebError(422, str(error)) from error
            request.setResponseCode(422)
            return await self._page(request, draft=posted.text, problem=str(error))
        if is_script:
            return json_answer(request, message)
        return see_other(request, "/chat#end")

    async def _page(self, request: WebRequest, draft: str = "", problem: str = "") -> bytes:
        before = _cursor(request.query, "before")
        found: Messages = await self._chat.latest(before)
        return self._context.page(
            request,
            "chat/board.html",
            messages=found.messages,
            more=found.more,
            before=before,
            draft=draft,
            problem=problem,
            # A form that is sent twice posts once.
            client_id=self._context.environment.entropy(16).hex(),
        )


def _cursor(query: Form, name: str) -> str:
    cursor = query.text(name, "")
    if cursor and not is_cursor(cursor):
        raise WebError(400, "This is not a place on the board.")
    return cursor


def mount(app: Application, context: WebContext) -> None:
    features = _Features(context)
    context.navigation.add("Chat", "/chat", icon="chat", about="One board for everybody, live")
    app.route("/chat")(features.board)
    app.route("/chat", methods=["POST"])(features.post)
    app.route("/chat/messages")(features.messages)
    app.route("/chat/messages", methods=["POST"])(features.post)
