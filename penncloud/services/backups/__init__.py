"""Backups: one moment of the whole store in a directory, and a cluster made of it again.

`_repository` is the directory's format, `_saving` fills it from a `client.snapshot.ClusterSnapshot`,
`_restoring` writes it into a cluster of any size and proves that it is there.
"""

from penncloud.services.backups._repository import (
    BackupDamaged,
    Manifest,
    NoSuchBackup,
    Repository,
)
from penncloud.services.backups._restoring import (
    NotEmpty,
    NotTheSame,
    Target,
    restore,
    verify_files,
)
from penncloud.services.backups._saving import cluster_id, save

__all__ = [
    "BackupDamaged",
    "Manifest",
    "NoSuchBackup",
    "NotEmpty",
    "NotTheSame",
    "Repository",
    "Target",
    "cluster_id",
    "restore",
    "save",
    "verify_files",
]
