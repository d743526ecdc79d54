"""The roots of PennCloud's exceptions.

An exception says whether trying again makes sense: that is what a caller has to know, and a name
alone does not tell it.
"""

from __future__ import annotations

from typing import ClassVar


class PennCloudError(Exception):
    """Any failure that PennCloud itself reports.

    `retryable` is true where the very same request may succeed later without anybody changing it.
    """

    retryable: ClassVar[bool] = False


class ConfigurationError(PennCloudError):
    """What the administrator wrote (file, option, directory, port) cannot be used.

    The text is shown to a person as it is: it names the file, the key and what is accepted.
    """


class DiskError(PennCloudError):
    """The disk refused an operation."""


class DiskFull(DiskError):
    """No space left: nothing was written, and later writes may succeed once space is freed."""

    retryable: ClassVar[bool] = True


class DiskFailed(DiskError):
    """A write or sync failed, so nobody knows what is on the disk: the node has to stop.

    Never retried on the same file: the kernel may have dropped the dirty pages and would report
    the next fsync as a success (Rebello et al., "Can Applications Recover from fsync Failures?",
    USENIX ATC 2020).
    """


class DirectoryLocked(ConfigurationError):
    """Another live process holds the data directory."""
