"""Wall clocks that jump: libfaketime between a server and its clock, told by a file what to add.

The monotonic clock stays as it is, as it does where an administrator or NTP sets the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

LIBRARY: Final = "libfaketimeMT.so.1"
_PLACES: Final = ("/usr/lib/*/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")


def find_library() -> Path | None:
    """libfaketime, where it is installed (Debian: the package `faketime`)."""
    for pattern in _PLACES:
        for directory in sorted(Path("/").glob(pattern.lstrip("/"))):
            if (directory / LIBRARY).exists():
                return directory / LIBRARY
    return None


def variables(library: Path, file: Path) -> dict[str, str]:
    """What a process's environment needs for its wall clock to follow `file`."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(file: Path, ahead_s: int) -> None:
    """Let the clock of those that follow `file` be so many seconds ahead (negative: behind)."""
    file.write_text(f"{ahead_s:+d}\n")
