"""Pages of folders, and contents of files, by their paths."""

from __future__ import annotations

from typing import Final

from penncloud.services.files import Files, Folder, Home, NoSuchEntry, TooDeep
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.files._content import send_content
from penncloud.web.files._paths import crumbs, describe, names_of
from penncloud.web.files._problems import refused, sentence
from penncloud.web.request import WebRequest
from penncloud.web.siblings import page_policy

# Entries of a page; scripts fetch the next ones as the reader scrolls.
PAGE_ENTRIES: Final = 200


class Pages:
    """What stands at `/files/...`."""

    def __init__(self, context: WebContext, files: Files) -> None:
        self._context = context
        self._files = files

    async def root(self, request: WebRequest) -> bytes | None:
        return await self.path(request, "")

    async def path(self, request: WebRequest, path: str) -> bytes | None:
        home = self._files.home(request.login.name)
        try:
            found = await home.resolve(names_of(path))
        except (NoSuchEntry, TooDeep) as error:
            raise WebError(404, sentence(error)) from error
        if isinstance(found, Folder):
            return await self._folder(request, home, found)
        if path.endswith("/"):
            raise WebError(404, "There is no such folder.")
        await send_content(request, home, found, bool(request.query.text("view", "")))
        return None

    async def _folder(self, request: WebRequest, home: Home, folder: Folder) -> bytes:
        try:
            listing = await home.list(
                folder.id, request.query.text("from", "") or None, PAGE_ENTRIES
            )
        except NoSuchEntry as error:
            return refused(request, error)
        elsewhere: list[str] = []
        if not request.comes_by_proxy:
            elsewhere = self._context.siblings.origins(request.getHeader(b"host") or b"")
            request.setHeader(b"content-security-policy", page_policy(elsewhere))
        return self._context.page(
            request,
            "files/folder.html",
            folder=folder,
            crumbs=crumbs(folder),
            entries=[describe(entry, folder.names) for entry in listing.entries],
            cursor=listing.cursor or "",
            first_page=not request.query.text("from", ""),
            max_upload_bytes=self._context.config.max_upload_bytes,
            elsewhere=elsewhere,
            # Names what the plain form uploads, so that it is stored once, however often it is sent.
            upload=self._context.environment.entropy(16).hex(),
        )
