"""The features of the web frontend, in the order of the navigation bar. A new one is one line."""

from __future__ import annotations

from penncloud.web import account, admin, chat, files, mail
from penncloud.web.application import Application
from penncloud.web.context import WebContext

# Each has `mount(app, context)`: routes, topics of events and its entry in the navigation.
FEATURES = (
    files,
    mail,
    chat,
    account,
    admin,
)


def mount_all(app: Application, context: WebContext) -> None:
    for feature in FEATURES:
        feature.mount(app, context)
