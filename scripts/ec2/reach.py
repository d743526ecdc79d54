"""Commands and files on a machine, by ssh."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Mapping
from typing import Final, Protocol

from penncloud.platform.errors import PennCloudError

_OPTIONS: Final = (
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=accept-new",
    "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=15",
)  # fmt: skip
_COMMAND_S: Final = 900
_PAUSE_S: Final = 5.0
_PATIENCE_S: Final = 300.0


class CommandFailed(PennCloudError):
    """A command on a machine failed, or the machine cannot be reached; the text has its last words."""


class Reach(Protocol):
    """How machines are reached. `run` gives what the command printed; both raise CommandFailed."""

    def run(self, address: str, command: str, stdin: bytes = b"") -> str: ...

    def put(self, address: str, files: Mapping[str, bytes]) -> None:
        """Write files, by their absolute path, as root; a `.key` and a `.toml` for root alone."""
        ...

    def until_prepared(self, address: str) -> None:
        """Return when the machine can be logged in to and its user-data has been carried out."""
        ...


class Ssh:
    """By the ssh program, with its agent and configuration."""

    def __init__(self, user: str, identity: str = "") -> None:
        self._user = user
        self._options = [*_OPTIONS, *(["-i", identity] if identity else [])]

    def run(self, address: str, command: str, stdin: bytes = b"") -> str:
        words = ["ssh", *self._options, f"{self._user}@{address}", f"sudo sh -c {quoted(command)}"]
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, timeout=_COMMAND_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"{address}: {command}: does not end") from error
        except OSError as error:
            raise CommandFailed(f"ssh cannot be started: {error.strerror}") from error
        said = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            words_ = (done.stderr.decode("utf-8", "replace") + said).strip()[-2000:]
            raise CommandFailed(f"{address}: {command}: exit code {done.returncode}: {words_}")
        return said

    def put(self, address: str, files: Mapping[str, bytes]) -> None:
        self.run(address, "tar -C / --no-same-owner -xf -", archive(files))

    def until_prepared(self, address: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.run(address, "test -e /var/lib/penncloud-prepared")
                return
            except CommandFailed:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def archive(files: Mapping[str, bytes]) -> bytes:
    """A tar of the files, whose keys and configuration nobody but root reads."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o600 if path.endswith((".key", ".toml")) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
