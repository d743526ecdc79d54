"""Addresses and JSON of entries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from penncloud.services.files import Entry, Folder
from penncloud.web.context import iso_time, size_text, time_text
from penncloud.web.errors import WebError
from penncloud.web.files._types import icon, viewed_as
from penncloud.web.request import WebRequest

_UPLOAD_ID: Final = re.compile(r"[0-9A-Za-z]{16,64}")


def url_of(names: Iterable[str]) -> str:
    """The address of a path. Every character of a name is quoted that could mean something."""
    return "/files/" + "/".join(quote(name, safe="") for name in names)


def names_of(path: str) -> list[str]:
    """The names of an address's path (already unquoted)."""
    return path.rstrip("/").split("/") if path.strip("/") else []


def upload_id(request: WebRequest) -> str:
    """The id of the upload that a query is about, or ""; WebError (400) if it cannot be one."""
    given = request.query.text("upload", "")
    if given and not _UPLOAD_ID.fullmatch(given):
        raise WebError(400, "The field “upload” is not an id.")
    return given


def crumbs(folder: Folder) -> list[tuple[str, str]]:
    """Name and address of each folder from the root to this one."""
    names = folder.names
    found = [("Files", "/files/")]
    found += [(name, url_of(names[: depth + 1])) for depth, name in enumerate(names)]
    return found


def describe(entry: Entry, names: tuple[str, ...]) -> dict[str, Any]:
    """An entry for pages and scripts; `names` are those of its folder.

    The version is a string: JavaScript's numbers do not hold 64 bits.
    """
    url = url_of((*names, entry.name))
    return {
        "name": entry.name,
        "kind": entry.record.kind,
        "id": entry.id if entry.is_folder else "",
        "version": str(entry.version),
        "icon": icon(entry.name, entry.is_folder),
        "url": url,
        "view": f"{url}?view=1" if not entry.is_folder and viewed_as(entry.name) else "",
        "size": entry.size,
        "size_text": "" if entry.is_folder else size_text(entry.size),
        "modified": iso_time(entry.modified),
        "modified_text": time_text(entry.modified),
    }
