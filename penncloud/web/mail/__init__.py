"""Webmail: reading (`_reading.py`) and writing (`_writing.py`) in the browser."""

from __future__ import annotations

from penncloud.services.blobs import Blobs
from penncloud.services.mail.bodies import Bodies
from penncloud.services.mail.mailbox import mailbox_row
from penncloud.services.mail.outbox import Outbox
from penncloud.services.mail.post import PostOffice
from penncloud.services.mail.queue import Queue
from penncloud.web.application import Application
from penncloud.web.context import WebContext
from penncloud.web.events import RowHint
from penncloud.web.mail._messages import Messages
from penncloud.web.mail._reading import Reading
from penncloud.web.mail._writing import MAX_FORM_BYTES, Writing


def mount(app: Application, context: WebContext) -> None:
    context.navigation.add("Mail", "/mail", icon="mail", about="Write to people here and elsewhere")
    context.events.add("mail", RowHint(lambda session: mailbox_row(session.name)))
    table, environment = context.table, context.environment
    bodies = Bodies(table, Blobs(table, environment.entropy), environment)
    post = PostOffice(table, bodies, environment, context.accounts, context.cluster.domain)
    # Leases of an earlier run of this frontend are taken up by the smtp nodes.
    queue = Queue(table, environment, context.config.id, int(environment.now() * 1000))
    messages = Messages(environment, post)
    reading = Reading(context, post, messages)
    writing = Writing(context, Outbox(environment, bodies, post, queue), messages)

    place = "/mail/<any(inbox, sent):box>/<stamp>"
    app.route("/mail")(reading.inbox)
    app.route("/mail/sent")(reading.sent)
    app.route("/mail/delete", methods=["POST"])(reading.delete_many)
    app.route(place)(reading.message)
    app.route(f"{place}/html")(reading.html)
    app.route(f"{place}/raw")(reading.raw)
    app.route(f"{place}/attachments/<int:number>")(reading.attachment)
    app.route(f"{place}/mark", methods=["POST"])(reading.mark)
    app.route(f"{place}/delete", methods=["POST"])(reading.delete)
    app.route("/mail/compose")(writing.compose)
    app.route(f"{place}/reply")(writing.reply)
    app.route(f"{place}/forward")(writing.forward)
    app.route(
        "/mail/send",
        methods=["POST"],
        streamed=True,
        csrf_in_body=True,
        max_body_bytes=MAX_FORM_BYTES,
    )(writing.send)
