"""Where things are in a cluster's data directory on one host.

DIR/LOCK            held by the agent; its content is the agent's pid
DIR/cluster.json    where everything listens now (`cluster_file`)
DIR/secret          the cluster's shared secret, mode 600
DIR/tls/            certificates and keys of the servers and of the administrator (`certificates`)
DIR/tls/authority/  what signs them (`authority`), mode 700
DIR/etc/ID.toml     configuration of one process (`configuration`), mode 600
DIR/logs/ID.log     its log, rotated and bounded
DIR/ID/             data of a coordinator or storage server
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

from penncloud.platform.errors import ConfigurationError


@frozen
class Layout:
    """The paths below one data directory, which is absolute: processes start anywhere."""

    root: Path

    @classmethod
    def at(cls, directory: str) -> Layout:
        return cls(Path(directory).absolute())

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def cluster_file(self) -> Path:
        return self.root / "cluster.json"

    @property
    def secret(self) -> Path:
        return self.root / "secret"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def authority(self) -> Path:
        return self.tls / "authority"

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def configuration(self, node_id: str) -> Path:
        return self.etc / f"{node_id}.toml"

    def log(self, node_id: str) -> Path:
        return self.logs / f"{node_id}.log"

    def data(self, node_id: str) -> Path:
        return self.root / node_id

    def make(self) -> None:
        """Make the directories; raises ConfigurationError where that is not possible."""
        try:
            for directory in (self.root, self.etc, self.logs):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"data directory {self.root}: not writable: {error.strerror}"
            ) from error


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Replace a small file atomically: a reader sees the old content or the new one.

    Synced, so that a power cut does not leave an empty file. Raises ConfigurationError.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
