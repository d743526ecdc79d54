"""Files without a reactor: what a child writes is there, and a refusal of the disk has its name."""

from __future__ import annotations

import errno
import os

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.errors import DiskError, DiskFull
from penncloud.platform.plain_files import PlainFiles


class PlainFilesTests(SynchronousTestCase):
    """One directory."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        os.mkdir(self.path)
        self.files = PlainFiles(self.path)

    def test_round_trip(self) -> None:
        """What was written is read at any offset, little of it gathered in memory."""
        pieces = [bytes([number]) * 300_000 for number in range(20)]
        new = self.files.create("new")
        for piece in pieces:
            new.write([piece[:7], piece[7:]])
        self.assertGreater(os.stat(os.path.join(self.path, "new")).st_size, 4_000_000)
        new.sync()
        new.close()
        content = b"".join(pieces)
        file = self.files.open_read("new")
        self.assertEqual(file.size_bytes, len(content))
        self.assertEqual(file.pread(299_999, 5), content[299_999:300_004])
        self.assertEqual(file.pread(len(content) - 3, 100), content[-3:])
        file.close()

    def test_present_and_missing(self) -> None:
        """Nothing is overwritten, and what is not there is told as a disk tells it."""
        self.files.create("here").close()
        with self.assertRaises(DiskError):
            self.files.create("here")
        with self.assertRaises(FileNotFoundError):
            self.files.open_read("missing")
        with self.assertRaisesRegex(DiskError, "here/x"):
            self.files.open_read("here/x")

    def test_refused(self) -> None:
        """No room is told from other failures, whether a write or a sync meets it."""
        for call in ("write", "fdatasync"):
            for number, expected in ((errno.ENOSPC, DiskFull), (errno.EIO, DiskError)):

                def refuse(*_arguments: object, number: int = number) -> int:
                    raise OSError(number, os.strerror(number))

                file = self.files.create(f"{call}{number}")
                file.write([b"content"])
                patched = self.patch(os, call, refuse)
                with self.assertRaises(expected) as raised:
                    file.sync()
                patched.restore()
                self.assertEqual(isinstance(raised.exception, DiskFull), expected is DiskFull)
                file.close()
