"""A file's content as the answer: whole or in part, from the store to the client without resting.

Memory: the chunks that are read ahead, and one on its way to the client; the store is asked for more
only when the client has taken it.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from penncloud.services.files import Entry, Home
from penncloud.web.errors import WebError
from penncloud.web.files._ranges import (
    NotSatisfiable,
    Range,
    disposition,
    has_cached,
    http_date,
    is_unmodified,
    parse_range,
)
from penncloud.web.files._types import media_type, viewed_as
from penncloud.web.request import WebRequest

# The content is a document of its own that may do nothing: no scripts, no forms, no same origin.
_SANDBOX: Final = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
)


async def send_content(request: WebRequest, home: Home, entry: Entry, view: bool) -> None:
    """Answer a GET or HEAD with a file; `view`: to be shown where its type is harmless."""
    etag = f'"{entry.blob.sha256}"'
    _describe(request, entry, etag, view)
    if has_cached(
        request.getHeader("if-none-match"),
        request.getHeader("if-modified-since"),
        etag,
        entry.modified,
    ):
        request.setResponseCode(304)
        request.finish()
        return
    part = _part(request, entry, etag)
    request.setHeader("content-length", str(part.length))
    if part.length < entry.size:
        request.setResponseCode(206)
        request.setHeader("content-range", part.content_range(entry.size))
    if request.method == b"HEAD" or part.length == 0:
        request.write(b"")
        request.finish()
        return
    async with aclosing(home.read(entry, part.start, part.length)) as pieces:
        # Nothing is sent before the first piece is there: until then an error has its own status.
        async for piece in pieces:
            await request.send(piece)
    request.finish()


def _describe(request: WebRequest, entry: Entry, etag: str, view: bool) -> None:
    shown = viewed_as(entry.name) if view else None
    kind = "attachment" if shown is None else "inline"
    request.setHeader("content-type", shown or media_type(entry.name))
    request.setHeader("content-disposition", disposition(kind, entry.name))
    request.setHeader("content-security-policy", _SANDBOX)
    request.setHeader("x-content-type-options", "nosniff")
    request.setHeader("accept-ranges", "bytes")
    request.setHeader("etag", etag)
    request.setHeader("last-modified", http_date(entry.modified))
    # Kept by the browser, but asked about each time: it may have been replaced or taken away.
    request.setHeader("cache-control", "private, no-cache")


def _part(request: WebRequest, entry: Entry, etag: str) -> Range:
    whole = Range(0, entry.size)
    header = request.getHeader("range")
    if header is None or not is_unmodified(request.getHeader("if-range"), etag, entry.modified):
        return whole
    try:
        return parse_range(header, entry.size) or whole
    except NotSatisfiable as error:
        raise WebError(
            416,
            "The file is shorter than what was asked for.",
            {"content-range": f"bytes */{entry.size}"},
        ) from error
