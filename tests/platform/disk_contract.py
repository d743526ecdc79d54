"""What every `platform.disk.Disk` does; the real and the simulated one pass the same tests."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from penncloud.platform.disk import Disk
from penncloud.platform.errors import DiskFailed, DiskFull

_T = TypeVar("_T")


class DiskContract(TestCase):
    """A subclass makes `disk` and knows how to let it work and how to break it."""

    disk: Disk

    def settle(self, result: Deferred[_T]) -> Awaitable[_T]:
        """Let the disk go on until `result` fires."""
        raise NotImplementedError

    def fail_next_write(self) -> None:
        """The next write finds no room."""
        raise NotImplementedError

    def fail_next_sync(self) -> None:
        """The next sync fails with an input/output error."""
        raise NotImplementedError

    async def _fails(self, kind: type[BaseException], result: Deferred[None]) -> None:
        try:
            await self.settle(result)
        except kind:
            return
        raise AssertionError(f"expected {kind.__name__}")

    async def test_append_and_read_back(self) -> None:
        """Appended bytes have consecutive offsets and can be read once they are synced."""
        file = self.disk.create("log")
        self.assertEqual(file.append(b"one"), 0)
        self.assertEqual(file.append([b"two", b"", b"three"]), 3)
        self.assertEqual(file.size_bytes, 11)
        await self.settle(file.sync())
        reader = self.disk.open_read("log")
        self.assertEqual(reader.size_bytes, 11)
        self.assertEqual(reader.pread(3, 3), b"two")
        self.assertEqual(reader.pread(6, 100), b"three")
        self.assertEqual(reader.pread(50, 5), b"")
        reader.close()
        await self.settle(file.close())

    async def test_syncs_in_a_row(self) -> None:
        """Syncs called before others have fired all fire, in order, and cover their bytes."""
        file = self.disk.create("log")
        fired: list[int] = []
        waiting = []

        def note(_ignored: None, number: int) -> None:
            fired.append(number)

        for number in range(20):
            file.append(b"%02d" % number)
            waiting.append(file.sync().addCallback(note, number))
        await self.settle(waiting[-1])
        self.assertEqual(fired, list(range(20)))
        self.assertEqual(self.disk.read("log"), b"".join(b"%02d" % n for n in range(20)))
        await self.settle(file.close())

    async def test_large_appends(self) -> None:
        """Many buffers and many bytes go through one sync."""
        file = self.disk.create("table", background=True)
        pieces = [bytes([n % 251]) * 1000 for n in range(5000)]
        file.append(pieces)
        file.append(b"end")
        await self.settle(file.close())
        self.assertEqual(self.disk.read("table"), b"".join(pieces) + b"end")

    async def test_sync_without_bytes(self) -> None:
        """A sync with nothing to write succeeds."""
        file = self.disk.create("log")
        await self.settle(file.sync())
        await self.settle(file.close())

    async def test_preallocation(self) -> None:
        """Reserved room is no content for the writer, zeros for a reader, and given back."""
        file = self.disk.create("log", preallocate_bytes=10_000)
        self.assertEqual(file.size_bytes, 0)
        self.assertEqual(file.append(b"abc"), 0)
        await self.settle(file.sync())
        content = self.disk.read("log")
        self.assertEqual(content.rstrip(b"\0"), b"abc")
        await self.settle(file.close())
        await self.settle(self.disk.sync_dir(""))
        self.assertEqual(self.disk.read("log"), b"abc")

    async def test_append_beyond_the_reserve(self) -> None:
        """Reserved room is no limit."""
        file = self.disk.create("log", preallocate_bytes=10)
        file.append(b"x" * 5000)
        await self.settle(file.close())
        self.assertEqual(self.disk.read("log"), b"x" * 5000)

    async def test_create_existing(self) -> None:
        """An append file is never silently replaced, and needs its directory."""
        await self.settle(self.disk.create("log").close())
        with self.assertRaises(FileExistsError):
            self.disk.create("log")
        with self.assertRaises(FileNotFoundError):
            self.disk.create("nowhere/log")

    async def test_open_append_cuts(self) -> None:
        """Continuing a file drops what is behind `truncate_to`."""
        file = self.disk.create("log")
        file.append(b"0123456789")
        await self.settle(file.close())
        again = self.disk.open_append("log", truncate_to=4)
        self.assertEqual(again.append(b"abc"), 4)
        await self.settle(again.close())
        self.assertEqual(self.disk.read("log"), b"0123abc")
        with self.assertRaises(FileNotFoundError):
            self.disk.open_append("other", 0)

    async def test_closed_files(self) -> None:
        """Using a closed file is an error of the caller."""
        file = self.disk.create("log")
        await self.settle(file.close())
        for use in (file.sync, file.close, lambda: file.append(b"x")):
            with self.assertRaises(ValueError):
                use()

    async def test_replace(self) -> None:
        """A small file is replaced as a whole; empty is a content too."""
        await self.settle(self.disk.replace("manifest", b"one"))
        self.assertEqual(self.disk.read("manifest"), b"one")
        await self.settle(self.disk.replace("manifest", b""))
        self.assertEqual(self.disk.read("manifest"), b"")
        self.assertEqual(self.disk.listdir(""), ["manifest"])

    async def test_missing_files(self) -> None:
        """Reading what is not there says so; removing it is no error."""
        with self.assertRaises(FileNotFoundError):
            self.disk.read("nothing")
        with self.assertRaises(FileNotFoundError):
            self.disk.open_read("nothing")
        self.disk.remove("nothing")
        self.assertEqual(self.disk.listdir("nothing"), [])
        self.assertEqual(self.disk.exists("nothing"), False)

    async def test_directories(self) -> None:
        """Directories can be made deep, listed in order, and removed when they are empty."""
        self.disk.makedirs("a/b")
        self.disk.makedirs("a/b")
        for name in ("z", "y"):
            await self.settle(self.disk.create(f"a/b/{name}").close())
        await self.settle(self.disk.sync_dir("a/b"))
        self.assertEqual(self.disk.listdir("a/b"), ["y", "z"])
        self.assertEqual(self.disk.listdir("a"), ["b"])
        self.disk.remove("a/b/y")
        self.disk.remove("a/b/z")
        self.disk.remove("a/b")
        self.assertEqual(self.disk.listdir("a"), [])

    async def test_rename_and_link(self) -> None:
        """A renamed file has one new name; a linked one has two and outlives one of them."""
        file = self.disk.create("one")
        file.append(b"content")
        await self.settle(file.close())
        self.disk.rename("one", "two")
        self.assertEqual(self.disk.listdir(""), ["two"])
        self.disk.link("two", "three")
        self.disk.remove("two")
        self.assertEqual(self.disk.read("three"), b"content")
        self.assertEqual(self.disk.size_bytes("three"), 7)
        with self.assertRaises(FileNotFoundError):
            self.disk.rename("two", "four")
        with self.assertRaises(FileNotFoundError):
            self.disk.link("two", "four")

    async def test_readers_keep_removed_files(self) -> None:
        """A reader is not disturbed when its file is removed."""
        file = self.disk.create("one")
        file.append(b"content")
        await self.settle(file.close())
        reader = self.disk.open_read("one")
        self.disk.remove("one")
        self.assertEqual(reader.pread(0, 7), b"content")
        reader.close()

    async def test_free_bytes(self) -> None:
        """There is some room."""
        self.assertEqual(self.disk.free_bytes() > 0, True)

    async def test_full_disk_takes_back(self) -> None:
        """Without room, everything unsynced is taken back, and the file goes on afterwards."""
        file = self.disk.create("log")
        file.append(b"kept")
        await self.settle(file.sync())
        self.fail_next_write()
        file.append(b"refused")
        first = file.sync()
        file.append(b"behind it")
        second = file.sync()
        await self._fails(DiskFull, first)
        await self._fails(DiskFull, second)
        self.assertEqual(file.size_bytes, 4)
        self.assertEqual(file.append(b"!"), 4)
        await self.settle(file.sync())
        self.assertEqual(self.disk.read("log"), b"kept!")
        await self.settle(file.close())

    async def test_full_disk_is_reported_late(self) -> None:
        """Bytes that nobody had synced when they were taken back fail the next sync, once."""
        file = self.disk.create("log")
        self.fail_next_write()
        file.append(b"refused")
        first = file.sync()
        file.append(b"not yet synced")
        await self._fails(DiskFull, first)
        await self._fails(DiskFull, file.sync())
        await self.settle(file.sync())
        self.assertEqual(self.disk.read("log"), b"")
        await self.settle(file.close())

    async def test_full_disk_keeps_small_file(self) -> None:
        """A replacement that finds no room leaves the old content."""
        await self.settle(self.disk.replace("manifest", b"old"))
        self.fail_next_write()
        await self._fails(DiskFull, self.disk.replace("manifest", b"new"))
        self.assertEqual(self.disk.read("manifest"), b"old")
        self.assertEqual(self.disk.listdir(""), ["manifest"])

    async def test_failed_sync_is_final(self) -> None:
        """After a failed sync nothing is written any more, and the node is told once."""
        failures: list[BaseException] = []
        self.disk.on_failure(failures.append)
        file = self.disk.create("log")
        other = self.disk.create("other")
        self.fail_next_sync()
        file.append(b"doubtful")
        await self._fails(DiskFailed, file.sync())
        await self._fails(DiskFailed, file.sync())
        await self._fails(DiskFailed, other.sync())
        with self.assertRaises(DiskFailed):
            file.append(b"more")
        with self.assertRaises(DiskFailed):
            self.disk.create("third")
        await self._fails(DiskFailed, self.disk.replace("manifest", b"new"))
        await self._fails(DiskFailed, self.disk.sync_dir(""))
        self.assertEqual([type(failure) for failure in failures], [DiskFailed])
