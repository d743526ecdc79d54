"""Media types: by the name's extension, and which of them a browser may show.

What users upload must never run as a page of this site. So contents are attachments, except for types
that cannot carry scripts; text of any kind (HTML and SVG sources too) is shown as plain text.
"""

from __future__ import annotations

import mimetypes
from typing import Final

# Python's own table, not the machine's files: the same answer on every frontend.
_KNOWN: Final = mimetypes.MimeTypes(filenames=())
for _extension, _kind in {
    ".avif": "image/avif",
    ".csv": "text/csv",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mkv": "video/x-matroska",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".opus": "audio/ogg",
    ".rst": "text/plain",
    ".toml": "text/plain",
    ".webp": "image/webp",
    ".yaml": "text/plain",
    ".yml": "text/plain",
}.items():
    _KNOWN.add_type(_kind, _extension)

_IMAGES: Final = frozenset({"png", "jpeg", "gif", "webp", "avif", "bmp", "vnd.microsoft.icon"})
_MEDIA: Final = frozenset(
    {"audio/mpeg", "audio/ogg", "audio/mp4", "audio/flac", "audio/x-wav", "audio/aac"}
    | {"video/mp4", "video/webm", "video/ogg", "video/quicktime"}
)
_TEXTS: Final = frozenset(
    {"json", "javascript", "xml", "x-sh", "x-tex", "x-httpd-php", "xhtml+xml"}
)
_PICTURES: Final = {"image": "image", "audio": "audio", "video": "video", "text": "text"}
_ARCHIVES: Final = frozenset({"zip", "gzip", "x-tar", "x-bzip2", "x-7z-compressed", "x-xz"})


def media_type(name: str) -> str:
    """The type that a name suggests."""
    _, dot, extension = name.rpartition(".")
    if not dot:
        return "application/octet-stream"
    # The extension alone: the module would read a whole name as a URL.
    return _KNOWN.types_map[True].get("." + extension.lower(), "application/octet-stream")


def viewed_as(name: str) -> str | None:
    """The content type under which a browser may show the file, or None: only as an attachment."""
    kind = media_type(name)
    family, _, detail = kind.partition("/")
    if (
        family == "text"
        or (family == "application" and detail in _TEXTS)
        or kind == "image/svg+xml"
    ):
        return "text/plain; charset=utf-8"
    if kind in _MEDIA or (family == "image" and detail in _IMAGES):
        return kind
    return None


def icon(name: str, is_folder: bool) -> str:
    """The name of the symbol that stands for it in a listing."""
    if is_folder:
        return "folder"
    family, _, detail = media_type(name).partition("/")
    if detail == "pdf":
        return "pdf"
    if detail in _ARCHIVES:
        return "archive"
    if detail in _TEXTS:
        return "text"
    return _PICTURES.get(family, "file")
