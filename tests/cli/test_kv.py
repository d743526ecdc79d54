"""Twin of `penncloud.cli.kv`: each action on the store's fake, with bytes in and out."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from penncloud.cli import kv
from penncloud.cli._main import parser
from penncloud.client.memory import MemoryTable
from penncloud.client.table import Refused, Unavailable
from penncloud.platform.errors import ConfigurationError

COMMANDS = {
    "get": kv.get_cell,
    "put": kv.put_cell,
    "cput": kv.cput_cell,
    "delete": kv.delete_cell,
    "scan": kv.scan_row,
}
EVERY_BYTE = bytes(range(256))


class KvTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.table = MemoryTable()

    def kv(self, action: str, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        """Exit code, stdout and stderr."""
        parsed = parser().parse_args(["kv", action, *arguments])
        streams = kv.Streams(io.BytesIO(stdin), io.BytesIO(), io.BytesIO())
        ran = Deferred.fromCoroutine(kv.answered(COMMANDS[action], self.table, parsed, streams))
        code = self.successResultOf(ran)
        assert isinstance(streams.stdout, io.BytesIO)
        assert isinstance(streams.stderr, io.BytesIO)
        return code, streams.stdout.getvalue(), streams.stderr.getvalue().decode()

    def test_put_and_get(self) -> None:
        """A value given as an argument comes back without anything added."""
        code, version, _ = self.kv("put", "row", "col", "value")
        self.assertEqual((code, version), (0, b"1\n"))
        self.assertEqual(self.kv("get", "row", "col"), (0, b"value", ""))

    def test_every_byte_through_stdin_and_files(self) -> None:
        """Values are bytes: nothing is decoded, stripped or ended with a line."""
        self.kv("put", "row", "in", stdin=EVERY_BYTE)
        path = Path(self.mktemp())
        path.write_bytes(EVERY_BYTE + b"\n")
        self.kv("put", "row", "file", "--file", str(path))
        self.assertEqual(self.kv("get", "row", "in")[1], EVERY_BYTE)
        out = Path(self.mktemp())
        self.assertEqual(self.kv("get", "row", "file", "--file", str(out)), (0, b"", ""))
        self.assertEqual(out.read_bytes(), EVERY_BYTE + b"\n")

    def test_empty_value(self) -> None:
        """An empty argument is an empty value, not a question for stdin."""
        self.kv("put", "row", "col", "", stdin=b"not this")
        self.assertEqual(self.kv("get", "row", "col"), (0, b"", ""))

    def test_names_of_any_bytes(self) -> None:
        """With --encoded, rows and columns hold bytes that no shell can pass."""
        self.kv("put", "--encoded", "r%00w", "c%FF", "v%0A")
        self.assertEqual(self.kv("get", "--encoded", "r%00w", "c%FF")[1], b"v\n")
        self.kv("put", "r%00w", "c", "v")
        self.assertEqual(self.kv("get", "--encoded", "r%2500w", "c")[1], b"v")

    def test_not_found(self) -> None:
        """A missing cell is exit code 1, with words on stderr and nothing on stdout."""
        self.assertEqual(self.kv("get", "row", "col"), (1, b"", "penncloud: not found\n"))
        self.assertEqual(self.kv("delete", "row", "col")[0], 1)

    def test_options_anywhere(self) -> None:
        """Options may stand between arguments, and a value may begin with a dash behind `--`."""
        self.kv("put", "row", "--timeout", "3", "col", "--encoded", "v%0A")
        self.assertEqual(self.kv("get", "row", "col")[1], b"v\n")
        self.kv("put", "row", "--timeout", "3", "--", "dash", "-v")
        self.assertEqual(self.kv("get", "row", "dash")[1], b"-v")

    def test_delete(self) -> None:
        """A deleted cell is gone."""
        self.kv("put", "row", "col", "value")
        self.assertEqual(self.kv("delete", "row", "col"), (0, b"", ""))
        self.assertEqual(self.kv("get", "row", "col")[0], 1)

    def test_compare_and_put(self) -> None:
        """Written when the present value is the expected one, else exit code 1 and untouched."""
        self.kv("put", "row", "col", "old")
        self.assertEqual(self.kv("cput", "row", "col", "old", "new")[0], 0)
        code, out, error = self.kv("cput", "row", "col", "old", "newer")
        self.assertEqual((code, out), (1, b""))
        self.assertIn("comparison failed", error)
        self.assertEqual(self.kv("get", "row", "col")[1], b"new")
        self.assertEqual(self.kv("cput", "row", "other", "old", "x")[0], 1)

    def test_compare_and_put_from_elsewhere(self) -> None:
        """Expected and new values by file and stdin, too."""
        self.kv("put", "row", "col", stdin=EVERY_BYTE)
        path = Path(self.mktemp())
        path.write_bytes(EVERY_BYTE)
        code, _, _ = self.kv("cput", "row", "col", "--expected-file", str(path), stdin=b"\0")
        self.assertEqual(code, 0)
        self.assertEqual(self.kv("get", "row", "col")[1], b"\0")

    def test_put_if_missing(self) -> None:
        """--if-missing writes a new cell and never an existing one."""
        self.assertEqual(self.kv("cput", "row", "col", "--if-missing", "first")[0], 0)
        code, _, error = self.kv("cput", "row", "col", "--if-missing", "second")
        self.assertEqual(code, 1)
        self.assertIn("version 1", error)
        self.assertEqual(self.kv("get", "row", "col")[1], b"first")

    def test_scan(self) -> None:
        """One line per cell; bytes outside printable ASCII are percent-encoded."""
        for col, value in (("a", b"1"), ("b", b"\0\n\t"), ("c", b"")):
            self.kv("put", "row", col, stdin=value)
        code, out, _ = self.kv("scan", "row")
        self.assertEqual(code, 0)
        self.assertEqual(out, b"a\t1\t1\t1\nb\t2\t3\t%00%0A%09\nc\t3\t0\t\n")
        self.assertEqual(self.kv("scan", "row", "b", "c")[1], b"b\t2\t3\t%00%0A%09\n")
        self.assertEqual(self.kv("scan", "row", "--prefix", "c")[1], b"c\t3\t0\t\n")
        self.assertEqual(self.kv("scan", "row", "--limit", "1", "--reverse")[1], b"c\t3\t0\t\n")
        self.assertEqual(self.kv("scan", "nothing"), (0, b"", ""))

    def test_scan_of_many_pages(self) -> None:
        """A scan goes on page by page, in both directions, and stops at its limit."""
        for number in range(1203):
            self.successResultOf(
                Deferred.fromCoroutine(self.table.put(b"row", b"%04d" % number, b""))
            )
        columns = [
            line.split(b"\t")[0]
            for line in self.kv("scan", "row", "--limit", "5000")[1].splitlines()
        ]
        self.assertEqual(columns, [b"%04d" % number for number in range(1203)])
        back = self.kv("scan", "row", "--limit", "1100", "--reverse")[1].splitlines()
        self.assertEqual(len(back), 1100)
        self.assertTrue(back[-1].startswith(b"0103\t"))

    def test_too_large(self) -> None:
        """What the store refuses as wrong is exit code 2, with its reason."""
        code, _, error = self.kv("put", "row", "col", stdin=b"x" * (1024 * 1024 + 1))
        self.assertEqual(code, 2)
        self.assertNotEqual(error, "")

    def test_cells_that_cannot_be_had(self) -> None:
        """A damaged tablet or a disk that fails is exit code 3: the request was right."""

        async def refused(code: str, *_: object) -> int:
            raise Refused(code, "why")

        parsed = parser().parse_args(["kv", "get", "row", "col"])
        for code, expected in (("DAMAGED", 3), ("DISK", 3), ("FORMAT", 2)):
            streams = kv.Streams(io.BytesIO(), io.BytesIO(), io.BytesIO())
            command = functools.partial(refused, code)
            ran = Deferred.fromCoroutine(kv.answered(command, self.table, parsed, streams))
            self.assertEqual(self.successResultOf(ran), expected)

    def test_unusable_arguments(self) -> None:
        """Two values, too many, a file that cannot be read: an error that names it."""
        for arguments, word in (
            (("put", "r", "c", "v", "--file", "f"), "--file"),
            (("put", "r", "c", "--file", "/nonexistent/f"), "/nonexistent/f"),
            (("cput", "r", "c"), "EXPECTED"),
            (("cput", "r", "c", "a", "b", "x"), "x"),
        ):
            parsed = parser().parse_args(["kv", *arguments])
            streams = kv.Streams(io.BytesIO(), io.BytesIO(), io.BytesIO())
            command = COMMANDS[arguments[0]]
            failure = self.failureResultOf(
                Deferred.fromCoroutine(kv.answered(command, self.table, parsed, streams)),
                ConfigurationError,
            )
            self.assertIn(word, str(failure.value))

    def test_unavailable(self) -> None:
        """A store that does not answer is raised on: the command line makes it exit code 3."""
        self.table.unavailable = True
        parsed = parser().parse_args(["kv", "get", "r", "c"])
        streams = kv.Streams(io.BytesIO(), io.BytesIO(), io.BytesIO())
        self.failureResultOf(
            Deferred.fromCoroutine(kv.answered(kv.get_cell, self.table, parsed, streams)),
            Unavailable,
        )
