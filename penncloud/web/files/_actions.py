"""Actions on entries, by the ids of folders: for scripts as JSON, for plain forms with pages.

A form's selection comes as fields `item`, each `VERSION:NAME`; scripts send the same as JSON. The
version is the one that the user saw: what was changed since is reported, not overwritten.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penncloud.services.files import (
    ROOT,
    Files,
    FilesError,
    Folder,
    Home,
    Item,
    NoSuchEntry,
    Outcome,
)
from penncloud.web.application import json_answer, see_other
from penncloud.web.context import WebContext
from penncloud.web.errors import WebError
from penncloud.web.files._paths import crumbs, describe, names_of, upload_id, url_of
from penncloud.web.files._problems import explain, refused, sentence
from penncloud.web.request import WebRequest

# Items of one request; scripts send larger selections in several.
MAX_ITEMS: Final = 500
_FOLDERS_OFFERED: Final = 200


class _Item(msgspec.Struct):
    name: str
    version: str = ""


class _Order(msgspec.Struct):
    """The body of every action; each reads what it needs."""

    folder: str = ROOT
    name: str = ""
    version: str = ""
    new_name: str = ""
    target: str = ""
    target_path: str = ""
    items: list[_Item] = []


class Actions:
    """What stands at `/file/...`, uploads aside."""

    def __init__(self, context: WebContext, files: Files) -> None:
        self._context = context
        self._files = files

    def _home(self, request: WebRequest) -> Home:
        return self._files.home(request.login.name)

    async def listing(self, request: WebRequest) -> bytes:
        """GET: a page of a folder's entries, for scripts."""
        home = self._home(request)
        query = request.query
        limit = query.integer("limit", 200, 1, 500)
        try:
            folder = await home.folder(query.text("folder"))
            page = await home.list(folder.id, query.text("cursor", "") or None, limit)
        except FilesError as error:
            return refused(request, error)
        entries = [describe(entry, folder.names) for entry in page.entries]
        return json_answer(
            request,
            {
                "folder": folder.id,
                "crumbs": [
                    {"name": name, "url": url, "id": each}
                    for (name, url), each in zip(
                        crumbs(folder), (ROOT, *(each for each, _ in folder.path)), strict=True
                    )
                ],
                "entries": entries,
                "cursor": page.cursor or "",
            },
        )

    async def entry(self, request: WebRequest) -> bytes:
        """GET: one entry, for scripts that want to know before they upload.

        With `upload=ID`, `is_stored` says whether that very upload has been finished before.
        """
        home = self._home(request)
        upload = upload_id(request)
        try:
            folder = await home.folder(request.query.text("folder"))
            entry = await home.find(folder.id, request.query.text("name"))
            is_stored = bool(upload) and await home.uploaded(upload) is not None
        except FilesError as error:
            return refused(request, error)
        described = entry and describe(entry, folder.names)
        return json_answer(request, {"entry": described, "is_stored": is_stored})

    async def create_folder(self, request: WebRequest) -> bytes:
        order = _order(request)
        home = self._home(request)
        try:
            folder = await home.folder(order.folder)
            entry = await home.create_folder(order.folder, order.name)
        except FilesError as error:
            return refused(request, error)
        if request.wants_page:
            return see_other(request, url_of(folder.names))
        request.setResponseCode(201)
        return json_answer(request, {"entry": describe(entry, folder.names)})

    async def rename(self, request: WebRequest) -> bytes:
        order = _order(request)
        home = self._home(request)
        item = Item(order.folder, order.name, _version(order.version))
        try:
            folder = await home.folder(order.folder)
            entry = await home.rename(item, order.new_name)
        except FilesError as error:
            return refused(request, error)
        if request.wants_page:
            return see_other(request, url_of(folder.names))
        return json_answer(request, {"entry": describe(entry, folder.names)})

    async def move(self, request: WebRequest) -> bytes:
        order = _order(request)
        home = self._home(request)
        try:
            target = order.target or await _folder_at(home, order.target_path)
            outcome = await home.move(_items(order), target)
            return await self._report(request, order, outcome)
        except FilesError as error:
            return refused(request, error)

    async def delete(self, request: WebRequest) -> bytes:
        order = _order(request)
        try:
            outcome = await self._home(request).delete(_items(order))
            return await self._report(request, order, outcome)
        except FilesError as error:
            return refused(request, error)

    async def selection(self, request: WebRequest) -> bytes:
        """Without scripts: the page that asks what is to happen with the ticked entries."""
        order = _order(request)
        home = self._home(request)
        try:
            folder = await home.folder(order.folder)
            inside = await home.list(order.folder, None, _FOLDERS_OFFERED)
        except FilesError as error:
            return refused(request, error)
        if not order.items:
            raise WebError(400, "Nothing was chosen: tick the files and folders first.")
        doing = request.form().text("do", "")
        if doing not in {"rename", "move", "delete"}:
            raise WebError(400, "This cannot be done with files.")
        if doing == "rename" and len(order.items) > 1:
            raise WebError(400, "Only one file or folder can be renamed at a time.")
        chosen = {item.name for item in order.items}
        above = (ROOT, *(each for each, _ in folder.path))
        targets = [
            {"id": each, "path": " / ".join(["Files", *folder.names[:depth]])}
            for depth, each in enumerate(above[:-1])
        ]
        targets += [
            {"id": entry.id, "path": " / ".join(["Files", *folder.names, entry.name])}
            for entry in inside.entries
            if entry.is_folder and entry.name not in chosen
        ]
        return self._context.page(
            request,
            "files/selection.html",
            doing=doing,
            folder=folder,
            crumbs=crumbs(folder),
            items=order.items,
            targets=targets,
        )

    async def _report(self, request: WebRequest, order: _Order, outcome: Outcome) -> bytes:
        if not request.wants_page:
            answer: dict[str, Any] = {
                "done": len(outcome.done),
                "refused": [
                    {"name": item.name, **explain(error)} for item, error in outcome.refused
                ],
            }
            return json_answer(request, answer)
        if outcome.refused:
            # What could be done is done; the page says what was not.
            text = " ".join(sentence(error) for _, error in outcome.refused[:20])
            raise WebError(409, f"{len(outcome.done)} done, {len(outcome.refused)} not: {text}")
        folder = await self._home(request).folder(order.folder)
        return see_other(request, url_of(folder.names))


def _order(request: WebRequest) -> _Order:
    kind = (request.getHeader("content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/json":
        order = request.json(_Order)
    else:
        form = request.form()
        items = [field.partition(":") for field in form.all("item")]
        order = _Order(
            folder=form.text("folder"),
            name=form.text("name", ""),
            version=form.text("version", ""),
            new_name=form.text("new_name", ""),
            target=form.text("target", ""),
            target_path=form.text("target_path", ""),
            items=[_Item(name, version) for version, _, name in items],
        )
    if len(order.items) > MAX_ITEMS:
        raise WebError(400, f"At most {MAX_ITEMS} files and folders can be changed at a time.")
    return order


def _items(order: _Order) -> list[Item]:
    if not order.items:
        raise WebError(400, "Nothing was chosen.")
    return [Item(order.folder, item.name, _version(item.version)) for item in order.items]


def _version(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise WebError(400, "The version is not a number.")
    return int(text)


async def _folder_at(home: Home, path: str) -> str:
    found = await home.resolve(names_of(path.strip().lstrip("/")))
    if not isinstance(found, Folder):
        raise NoSuchEntry(f"“{path}” is not a folder")
    return found.id
