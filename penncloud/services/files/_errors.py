"""What can be wrong with a request about files. The texts are shown to the user as they are."""

from __future__ import annotations

from typing import ClassVar

from penncloud.platform.errors import PennCloudError
from penncloud.services.files._layout import Entry


class FilesError(PennCloudError):
    """Any refusal of this service."""


class BadName(FilesError):
    """The name cannot be used for a file or folder."""


class NoSuchEntry(FilesError):
    """The file or folder does not exist (any more)."""


class NameTaken(FilesError):
    """The folder has something of that name already: `entry`."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"“{entry.name}” already exists here")
        self.entry = entry


class AlreadyStored(FilesError):
    """The upload of this id was finished before: `entry` is the file as it was made."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"“{entry.name}” was uploaded before")
        self.entry = entry


class Changed(FilesError):
    """The entry is no longer what the caller saw: `entry` is what stands there now."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"“{entry.name}” was changed in the meantime")
        self.entry = entry


class IntoItself(FilesError):
    """A folder cannot be moved into itself or below itself."""


class TooDeep(FilesError):
    """Folders are nested too deeply."""


class Busy(FilesError):
    """Others change the same things all the time; nothing was done."""

    retryable: ClassVar[bool] = True
