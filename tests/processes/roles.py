"""Roles as systemd runs them: `twistd -n penncloud-ROLE --config FILE`, each a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penncloud.cluster.configuration import to_toml
from tests.processes.cluster import program_environment
from tests.waiting import PATIENCE_S

ROLES = ("coordinator", "storage", "http", "smtp", "lb")

_TWISTD = "from twisted.scripts.twistd import run; run()"


def start(
    role: str, options: Sequence[str], directory: Path, inside: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a role in the foreground in `directory`; its log goes to a file there.

    `inside` is a command that becomes the one that follows it in its arguments.
    """
    twistd = [sys.executable, "-c", _TWISTD, "-n", "--pidfile="]
    with (directory / f"{role}.out").open("wb") as log:
        return subprocess.Popen(
            [*inside, *twistd, f"penncloud-{role}", *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.PIPE,
            env=program_environment(),
        )


def outcome(process: subprocess.Popen[bytes]) -> tuple[int, list[str]]:
    """Wait for the end: exit code and the lines of stderr."""
    try:
        _, error = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"{process.args!r} does not end") from None
    return process.returncode, error.decode("utf-8", "replace").splitlines()


def write_configuration(
    path: Path, role: str, keys: Mapping[str, Any], cluster: Mapping[str, Any]
) -> Path:
    """A file with the two sections that a role reads."""
    path.write_text(to_toml({"cluster": dict(cluster), role: dict(keys)}))
    return path
