"""Names of files and folders: which are allowed, and how a second "report.pdf" is called."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from penncloud.services.files._errors import BadName

MAX_NAME_BYTES: Final = 255
# With these "exe.jpg" may be shown for what is "gpj.exe".
_OVERRIDE: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")


def clean_name(text: str) -> str:
    """The name in Unicode NFC, or BadName.

    Everything is allowed except what no file system and no URL path can carry: `/`, control
    characters, `.`, `..`, lone surrogates, more than 255 bytes of UTF-8, and what makes a name look like
    another one (overrides of the writing direction). NFC, because macOS sends decomposed names, and two
    names that look the same must be the same.
    """
    name = unicodedata.normalize("NFC", text)
    if not name:
        raise BadName("a name cannot be empty")
    if name in {".", ".."}:
        raise BadName(f"“{name}” cannot be a name")
    if "/" in name:
        raise BadName("a name cannot contain “/”")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise BadName("a name cannot contain control characters")
    if _OVERRIDE.search(name):
        raise BadName("a name cannot contain characters that reverse its direction")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise BadName(f"a name can have at most {MAX_NAME_BYTES} bytes")
    return name


def numbered(name: str, number: int) -> str:
    """`report.pdf`, 2 -> `report (2).pdf`; the stem is cut where the result would be too long."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > 16:
        stem, dot, extension = name, "", ""
    tail = f" ({number}){dot}{extension}"
    room = MAX_NAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail
