"""Where the files that come with the program are: `static/`, in a checkout and in an installation."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from penncloud.platform.errors import ConfigurationError

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
