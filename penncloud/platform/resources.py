"""What there is for the program to use: the files that come with it, in a checkout and in an installation;
and the machine's cores and memory.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Final

from penncloud.platform.errors import ConfigurationError

MAX_WORKERS: Final = 64

# A file that every copy of `static/` has.
_LANDMARK = "css/penncloud.css"


def static_dir() -> Path:
    """The directory with style sheets, scripts and pictures.

    A checkout (also installed with `pip install -e`) has it beside the package. A wheel puts it among
    the installation's data files, which its RECORD lists.
    """
    beside = Path(__file__).resolve().parents[2] / "static"
    if (beside / _LANDMARK).is_file():
        return beside
    try:
        recorded = importlib.metadata.files("penncloud") or []
    except importlib.metadata.PackageNotFoundError:
        recorded = []
    for path in recorded:
        if path.as_posix().endswith("/penncloud/static/" + _LANDMARK):
            found = Path(str(path.locate())).resolve()
            return found.parents[1]
    raise ConfigurationError(
        f"the static files are missing: neither {beside} nor the installed files have {_LANDMARK};"
        " install penncloud again"
    )


def version() -> str:
    """Of the installed package; "unknown" in a checkout that was never installed."""
    try:
        return importlib.metadata.version("penncloud")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# Below it a process more makes others wait for memory rather than do more work.
_WORKER_BYTES: Final = 512 * 1024 * 1024


def worker_count(configured: int | str) -> int:
    """How many workers a frontend has on this machine: as configured, or for "auto" one per core that this
    process may use, and at most one for every 512 MiB of the machine's memory.

    Raises ConfigurationError for a number that is none.
    """
    if not isinstance(configured, str):
        if not 0 <= configured <= MAX_WORKERS:
            raise ConfigurationError(f"[http]: workers: from 0 to {MAX_WORKERS}, or auto")
        return configured
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(len(os.sched_getaffinity(0)), memory_bytes // _WORKER_BYTES, MAX_WORKERS)
