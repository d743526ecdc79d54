"""The admin's pages: servers, tablets, raw cells, the audit log, and the actions on servers.

A button leads to a page that tells what the action would do; only the form there does it, and for
destructive ones only with the server's name typed. All of it works without scripts; `js/admin.js` keeps
the server table fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from penncloud.client.directory import NoSuchNode, Worker
from penncloud.client.table import Refused
from penncloud.platform.errors import PennCloudError
from penncloud.services.admin import (
    ACTIONS,
    Action,
    Administration,
    NotApplicable,
    Overview,
    Server,
    hash_range,
)
from penncloud.services.audit import AuditLog
from penncloud.services.raw_cells import BadPlace, Cursor, RawView, decode_name, parse_prefix
from penncloud.web.application import Application, json_answer, see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.request import WebRequest

CELLS_PER_PAGE: Final = 50
ENTRIES_PER_PAGE: Final = 50

_ROLES: Final = {
    "lb": "load balancer",
    "http": "frontend",
    "smtp": "mail server",
    "coordinator": "coordinator",
    "storage": "storage server",
    "agent": "agent of a host",
}


class _ServersJson(msgspec.Struct, frozen=True):
    """What `js/admin.js` polls."""

    freshness: str
    stale: bool
    servers: list[Server]


def mount(app: Application, context: WebContext) -> None:
    """Add the routes and the navigation entry."""
    audit = AuditLog(context.table, context.environment)
    administration = Administration(
        context.environment, context.directory, context.control, audit, context.config.id
    )
    pages = AdminPages(context, administration, audit, RawView(context.raw, context.table))
    context.navigation.add(
        "Admin", "/admin", icon="admin", about="Servers, tablets and raw data", admin_only=True
    )
    app.route("/admin", access="admin")(pages.servers)
    app.route("/admin/servers.json", access="admin")(pages.servers_json)
    app.route("/admin/servers/<node_id>/<action>", access="admin")(pages.ask)
    app.route("/admin/servers/<node_id>/<action>", methods=["POST"], access="admin")(pages.act)
    app.route("/admin/tablets", access="admin")(pages.tablets)
    app.route("/admin/cells", access="admin")(pages.cells)
    app.route("/admin/cells/value", access="admin")(pages.value)
    app.route("/admin/audit", access="admin")(pages.audit_log)


@define
class AdminPages:
    """The routes below /admin."""

    context: WebContext
    administration: Administration
    audit: AuditLog
    raw: RawView
    _log = Logger()

    async def servers(self, request: WebRequest) -> bytes:
        overview = await self.administration.overview()
        return self._page(
            request,
            "servers",
            overview=overview,
            freshness=_freshness(overview),
            roles=_ROLES,
            possible=_possible,
            workers_text=workers_text,
            done=_done(request),
        )

    async def servers_json(self, request: WebRequest) -> bytes:
        overview = await self.administration.overview()
        answer = _ServersJson(_freshness(overview), overview.stale, overview.servers)
        return json_answer(request, answer)

    async def tablets(self, request: WebRequest) -> bytes:
        overview = await self.administration.overview()
        return self._page(
            request,
            "tablets",
            overview=overview,
            freshness=_freshness(overview),
            hash_range=hash_range,
        )

    async def cells(self, request: WebRequest) -> bytes:
        typed, at = request.query.text("prefix", ""), request.query.text("at", "")
        try:
            cursor, prefix = Cursor.parse(at), parse_prefix(typed)
        except BadPlace as error:
            raise WebError(400, str(error)) from error
        servers = await self.administration.server_ids()
        page = await self.raw.page(cursor, prefix, CELLS_PER_PAGE, servers)
        return self._page(request, "cells", page=page, prefix=typed, at_start=not at)

    async def value(self, request: WebRequest) -> bytes:
        """A whole value as a file: never shown by the browser as anything else."""
        try:
            row = decode_name(request.query.text("row"))
            col = decode_name(request.query.text("col"))
            cell = await self.raw.value(row, col)
        except BadPlace as error:
            raise WebError(400, str(error)) from error
        except Refused as error:
            raise WebError(400, "This address names no cell.") from error
        if cell is None:
            raise WebError(404, "There is no such cell (any more).")
        request.setHeader(b"content-type", b"application/octet-stream")
        request.setHeader(b"content-disposition", b'attachment; filename="value.bin"')
        return cell.value

    async def audit_log(self, request: WebRequest) -> bytes:
        older = request.query.text("older", "")
        if not older.isascii() or len(older) > 100:
            raise WebError(400, "This page address is damaged.")
        page = await self.audit.page(older, ENTRIES_PER_PAGE)
        return self._page(request, "audit", page=page, waiting=self.audit.waiting, stamp=_stamp)

    async def ask(self, request: WebRequest, node_id: str, action: str) -> bytes:
        """What the action would do, and the form that does it."""
        return await self._confirmation(request, node_id, _action(action))

    async def act(self, request: WebRequest, node_id: str, action: str) -> bytes:
        """Do it, if it was confirmed."""
        wanted = _action(action)
        effect = await self._effect(node_id, wanted)
        if effect.destructive and request.form().text("confirm", "").strip() != node_id:
            request.setResponseCode(422)
            return await self._confirmation(
                request, node_id, wanted, "This is not the server's name: nothing was done."
            )
        actor = request.login.name
        if node_id == self.administration.own_id and wanted in ("stop", "restart"):
            return self._leave(request, actor, node_id, wanted)
        try:
            await self.administration.perform(actor, node_id, wanted)
        except NotApplicable as error:
            raise WebError(409, str(error)) from error
        except PennCloudError as error:
            raise WebError(
                502, f"{node_id} could not be reached to {wanted} it: {error}"
            ) from error
        return see_other(request, f"/admin?done={wanted}&server={node_id}")

    def _leave(self, request: WebRequest, actor: str, node_id: str, action: Action) -> bytes:
        """Stopping the frontend that has to answer: answer first, and by way of the balancer."""
        doing = Deferred.fromCoroutine(self.administration.perform(actor, node_id, action))
        doing.addErrback(
            lambda failure: self._log.failure(
                "{action} {node_id}", failure, action=action, node_id=node_id
            )
        )
        # No redirect: browsers let a form lead to its own site only (`form-action`).
        request.setHeader(b"refresh", f"1; url={self.context.config.lb_url}".encode("ascii"))
        return self._page(request, "leaving", tab="servers", server=node_id, action=action)

    async def _effect(self, node_id: str, action: Action) -> Any:
        try:
            return await self.administration.effect(node_id, action)
        except NoSuchNode as error:
            raise WebError(404, str(error)) from error
        except NotApplicable as error:
            raise WebError(409, str(error)) from error

    async def _confirmation(
        self, request: WebRequest, node_id: str, action: Action, problem: str = ""
    ) -> bytes:
        effect = await self._effect(node_id, action)
        return self._page(
            request,
            "confirm",
            tab="servers",
            effect=effect,
            action=action,
            server=node_id,
            problem=problem,
        )

    def _page(self, request: WebRequest, name: str, **values: Any) -> bytes:
        values.setdefault("tab", name)
        return self.context.page(request, f"admin/{name}.html", **values)


def _action(text: str) -> Action:
    if text not in ACTIONS:
        raise WebError(404, "There is nothing at this address.")
    return text


def _possible(role: str) -> tuple[Action, ...]:
    """The buttons of a role, of which the page shows those that apply."""
    if role == "agent":
        return ()
    return ACTIONS if role == "http" else ("start", "stop", "restart")


def workers_text(workers: Sequence[Worker]) -> str:
    """The processes of a frontend, each by its number; `js/admin.js` says it in the same way."""
    told = (
        f"{one.number}: {one.pid or '-'}{'' if one.state == 'serving' else f' {one.state}'}"
        for one in workers
    )
    return ", ".join(told)


def _done(request: WebRequest) -> str:
    """What the last form did, as its redirect tells; anything else than one of ours is left out."""
    action = request.query.text("done", "")
    if action not in ACTIONS:
        return ""
    return f"Done: {action} {request.query.text('server', '')[:64]}."


def _freshness(overview: Overview) -> str:
    if overview.stale:
        return (
            "Stale: no coordinator answers."
            f" This is what was known {overview.age_s:.0f} seconds ago."
        )
    return "Live: as the coordinators' heartbeats show it."


def _stamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
