"""What can be wrong with stored data."""

from __future__ import annotations

from typing import ClassVar

from penncloud.platform.errors import PennCloudError


class StoreDamaged(PennCloudError):
    """A file that everything depends on (manifest, log) is missing or not what was written.

    The text names the file. Nothing is repaired or dropped: the server has to be rebuilt from
    replicas or a backup.
    """


class TabletDamaged(PennCloudError):
    """A file of one tablet is missing or not what was written; the other tablets are not affected."""

    def __init__(self, tablet: int, reason: str) -> None:
        super().__init__(f"tablet {tablet} is damaged: {reason}")
        self.tablet = tablet
        self.reason = reason


class NewerFormat(PennCloudError):
    """The directory was written by a later version of PennCloud, which this one cannot read."""


class Overloaded(PennCloudError):
    """Too much waits for the disk already; nothing was done."""

    retryable: ClassVar[bool] = True


class NoSuchTablet(PennCloudError):
    """The engine does not have this tablet (any more)."""

    def __init__(self, tablet: int) -> None:
        super().__init__(f"there is no tablet {tablet} here")
        self.tablet = tablet


class TableDamaged(PennCloudError):
    """A table file is missing or not what was written. Tablets turn this into TabletDamaged."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: {reason} (offset {offset})")
        self.path = path
        self.offset = offset
        self.reason = reason
