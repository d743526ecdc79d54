"""Files in the browser.

- `/files/PATH` is a folder's page, or a file's content: `_pages.py`, `_content.py`
- `/file/...` are the actions, by folder ids, for scripts (JSON) and for plain forms: `_actions.py`
- uploads, as a raw body or as a plain form: `_uploads.py`
"""

from __future__ import annotations

from penncloud.services.blobs import Blobs
from penncloud.services.files import Files, row_of
from penncloud.web.application import Application
from penncloud.web.context import WebContext
from penncloud.web.events import RowHint
from penncloud.web.files._actions import Actions
from penncloud.web.files._pages import Pages
from penncloud.web.files._uploads import Uploads

__all__ = ["mount"]


def mount(app: Application, context: WebContext) -> None:
    blobs = Blobs(context.table, context.environment.entropy)
    files = Files(context.table, blobs, context.environment)
    context.navigation.add(
        "Files", "/files", icon="files", about="Keep files of any kind, in folders"
    )
    # Pages show the folder anew when another tab, or another device, changes something.
    context.events.add("files", RowHint(lambda session: row_of(session.name)))
    pages = Pages(context, files)
    app.route("/files/")(pages.root)
    app.route("/files/<path:path>")(pages.path)

    actions = Actions(context, files)
    app.route("/file/list")(actions.listing)
    # An upload goes on at another frontend when the page's own has died.
    app.route("/file/entry", siblings=True)(actions.entry)
    for name, action in (
        ("folder", actions.create_folder),
        ("rename", actions.rename),
        ("move", actions.move),
        ("delete", actions.delete),
        ("selection", actions.selection),
    ):
        app.route(f"/file/{name}", methods=["POST"])(action)

    uploads = Uploads(files)
    limit = context.config.max_upload_bytes
    app.route("/file/content", methods=["PUT"], streamed=True, max_body_bytes=limit, siblings=True)(
        uploads.put
    )
    app.route(
        "/file/upload", methods=["POST"], streamed=True, max_body_bytes=limit, csrf_in_body=True
    )(uploads.form)
