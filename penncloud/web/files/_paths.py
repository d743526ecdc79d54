"""Addresses and JSON of entries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from penncloud.services.files import Entry, Folder
from penncloud.web.context import iso_time, size_text, time_text
from penncloud.web.files._types import icon, viewed_as


def url_of(names: Iterable[str]) -> str:
    """The address of a path. Every character of a name is quoted that could mean something."""
    return "/files/" + "/".join(quote(name, safe="") for name in names)


def names_of(path: str) -> list[str]:
    """The names of an address's path (already unquoted)."""
    return path.rstrip("/").split("/") if path.strip("/") else []


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
