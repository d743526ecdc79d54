"""Which part of a file is asked for (RFC 9110 sections 13 and 14), and what it is called."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final
from urllib.parse import quote

from attrs import frozen

_ONE_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
# attr-char of RFC 8187 beside letters and digits.
_ATTR_CHARS: Final = "!#$&+-.^_`|~"


@frozen
class Range:
    """`length` bytes from `start`; at least one."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


class NotSatisfiable(Exception):
    """The range begins behind the end."""


def parse_range(header: str, size: int) -> Range | None:
    """The range of a Range header in a content of `size` bytes; None: send everything.

    A header that is malformed, has another unit or several ranges is ignored, which section 14.2
    allows. Raises NotSatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise NotSatisfiable
        return Range(size - length, length)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise NotSatisfiable
    stop = min(int(last) + 1, size) if last else size
    return Range(start, stop - start)


def http_date(unix_s: float) -> str:
    """As in Last-Modified, whole seconds."""
    return format_datetime(datetime.fromtimestamp(int(unix_s), UTC), usegmt=True)


def is_unmodified(if_range: str | None, etag: str, modified: float) -> bool:
    """Whether a range may be sent: section 13.1.5, strong comparison or the exact date."""
    if if_range is None:
        return True
    value = if_range.strip()
    return value in (etag, http_date(modified))


def has_cached(
    if_none_match: str | None, if_modified_since: str | None, etag: str, modified: float
) -> bool:
    """Whether the client has this content: sections 13.1.2 (weak comparison) and 13.1.3."""
    if if_none_match is not None:
        tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
        return etag in tags or tags == ["*"]
    if if_modified_since is None:
        return False
    try:
        since = parsedate_to_datetime(if_modified_since)
    except ValueError:
        return False
    return since.tzinfo is not None and int(modified) <= since.timestamp()


def disposition(kind: str, name: str) -> str:
    """A Content-Disposition (RFC 6266): an ASCII name for the oldest clients, RFC 8187 for the rest."""
    plain = "".join(
        character if character.isascii() and character.isprintable() else "_" for character in name
    )
    # Section 4.3 and appendix D: percent signs and backslashes are misread by some clients.
    plain = re.sub(r'["\\%]', "_", plain)
    extended = quote(name, safe=_ATTR_CHARS)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}"
