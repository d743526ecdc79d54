"""`penncloud kv`: the key-value store from the shell.

Values are bytes: by argument, from `--file` or from stdin; what is read goes to stdout or a file as it
is, without a line end. ROW, COL and VALUE arguments are the bytes that the shell passes; with --encoded
they are percent-encoded, as `scan` prints them, for bytes that no shell passes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote_to_bytes

from attrs import frozen

from penncloud.cli._arguments import Intermixed
from penncloud.cli._exits import DONE, FAILED, UNAVAILABLE, USAGE
from penncloud.cli._table import with_table
from penncloud.cli._target import add_target
from penncloud.client.table import Conflict, Refused, Table, after, prefix_stop
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.wire.limits import MAX_VALUE_BYTES
from penncloud.wire.names import quote

# Cells of one page of a scan: one request to the server.
_PAGE: Final = 500


@frozen
class Streams:
    """Where a command reads and writes; the process's own, but for tests."""

    stdin: BinaryIO
    stdout: BinaryIO
    stderr: BinaryIO

    def note(self, text: str) -> None:
        self.stderr.write(f"penncloud: {text}\n".encode())


def add_to(commands: Any) -> None:
    parser = commands.add_parser("kv", help="read and write the key-value store")
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=Intermixed)

    def action(name: str, run: Callable[..., Any], help_: str) -> Any:
        found = actions.add_parser(name, help=help_, description=help_)
        add_target(found)
        found.add_argument(
            "--encoded", action="store_true", help="arguments are percent-encoded (%%00)"
        )
        found.add_argument("row", metavar="ROW")
        found.set_defaults(run=lambda arguments: _run(arguments, run))
        return found

    get = action("get", get_cell, "write a cell's value to stdout or a file")
    get.add_argument("col", metavar="COL")
    get.add_argument("--file", metavar="FILE", help="write the value here instead of to stdout")

    put = action("put", put_cell, "write a cell; prints its version")
    put.add_argument("col", metavar="COL")
    _add_value(put)

    cput = action("cput", cput_cell, "write a cell if it holds EXPECTED; prints its version")
    cput.add_argument("col", metavar="COL")
    cput.add_argument("values", metavar="[EXPECTED] [VALUE]", nargs="*")
    expected = cput.add_mutually_exclusive_group()
    expected.add_argument("--expected-file", metavar="FILE", help="EXPECTED is in this file")
    expected.add_argument(
        "--if-missing", action="store_true", help="write only if there is nothing"
    )
    cput.add_argument("--file", metavar="FILE", help="the value is in this file")
    cput.set_defaults(value=None)

    delete = action("delete", delete_cell, "delete a cell")
    delete.add_argument("col", metavar="COL")

    scan = action(
        "scan", scan_row, "list a row's cells: column, version, size, value; tab-separated"
    )
    scan.add_argument("start", metavar="FROM", nargs="?", default="")
    scan.add_argument("stop", metavar="TO", nargs="?", default="", help="this column excluded")
    scan.add_argument("--prefix", help="only columns that begin so, instead of FROM and TO")
    scan.add_argument("--limit", type=int, default=1000, metavar="N", help="default: 1000")
    scan.add_argument("--reverse", action="store_true", help="the last column first")
    scan.add_argument("--bytes", type=int, default=None, metavar="N", help="cut values to N bytes")


def _add_value(parser: Any) -> None:
    parser.add_argument("value", metavar="VALUE", nargs="?", help="without it and --file: stdin")
    parser.add_argument("--file", metavar="FILE", help="the value is in this file")


# Refusals that are not about the request: the cells cannot be had.
_OUT_OF_USE: Final = frozenset(("DAMAGED", "DISK"))

KvCommand = Callable[[Table, argparse.Namespace, Streams], Any]


def _run(arguments: argparse.Namespace, command: KvCommand) -> int:
    async def run(table: Table, _: Environment) -> int:
        streams = Streams(sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer)
        code: int = await answered(command, table, arguments, streams)
        streams.stdout.flush()
        return code

    return with_table(arguments, run)


async def answered(
    command: KvCommand, table: Table, arguments: argparse.Namespace, streams: Streams
) -> int:
    """The command's exit code, also where the store says no."""
    try:
        code: int = await command(table, arguments, streams)
    except Conflict as conflict:
        there = "nothing" if conflict.value is None else f"version {conflict.version}"
        streams.note(f"comparison failed: the cell holds {there}")
        return FAILED
    except Refused as refused:
        streams.note(str(refused))
        return UNAVAILABLE if refused.code in _OUT_OF_USE else USAGE
    return code


async def get_cell(table: Table, arguments: argparse.Namespace, streams: Streams) -> int:
    cell = await table.get(*_names(arguments), deadline_s=arguments.timeout)
    if cell is None:
        streams.note("not found")
        return FAILED
    if arguments.file is None:
        streams.stdout.write(cell.value)
    else:
        _write(arguments.file, cell.value)
    return DONE


async def put_cell(table: Table, arguments: argparse.Namespace, streams: Streams) -> int:
    value = _value(arguments, streams)
    version = await table.put(*_names(arguments), value, deadline_s=arguments.timeout)
    streams.stdout.write(b"%d\n" % version)
    return DONE


async def cput_cell(table: Table, arguments: argparse.Namespace, streams: Streams) -> int:
    row, col = _names(arguments)
    deadline_s = arguments.timeout
    values = list(arguments.values)
    by_option = arguments.if_missing or arguments.expected_file is not None
    if not by_option and not values:
        raise ConfigurationError("EXPECTED, --expected-file or --if-missing is needed")
    given = None if by_option else values.pop(0)
    if len(values) > 1:
        raise ConfigurationError(f"too many arguments: {' '.join(values[1:])}")
    arguments.value = values[0] if values else None
    value = _value(arguments, streams)
    if arguments.if_missing:
        version = await table.put_if_version(row, col, 0, value, deadline_s=deadline_s)
    else:
        expected = _read(arguments.expected_file) if given is None else _bytes(arguments, given)
        version = await table.compare_and_put(row, col, expected, value, deadline_s=deadline_s)
    streams.stdout.write(b"%d\n" % version)
    return DONE


async def delete_cell(table: Table, arguments: argparse.Namespace, streams: Streams) -> int:
    if await table.delete(*_names(arguments), deadline_s=arguments.timeout):
        return DONE
    streams.note("not found")
    return FAILED


async def scan_row(table: Table, arguments: argparse.Namespace, streams: Streams) -> int:
    start, stop = _bytes(arguments, arguments.start), _bytes(arguments, arguments.stop)
    if arguments.prefix is not None:
        start = _bytes(arguments, arguments.prefix)
        stop = prefix_stop(start)
    left = arguments.limit
    while left > 0:
        page = await table.scan(
            _bytes(arguments, arguments.row),
            start,
            stop,
            limit=min(_PAGE, left),
            reverse=arguments.reverse,
            max_value=arguments.bytes,
            deadline_s=arguments.timeout,
        )
        for cell in page.cells:
            fields = (quote(cell.col), b"%d" % cell.version, b"%d" % cell.size, quote(cell.value))
            streams.stdout.write(b"\t".join(fields) + b"\n")
        left -= len(page.cells)
        if not page.more or not page.cells:
            break
        if arguments.reverse:
            stop = page.cells[-1].col
        else:
            start = after(page.cells[-1].col)
    return DONE


def _names(arguments: argparse.Namespace) -> tuple[bytes, bytes]:
    return _bytes(arguments, arguments.row), _bytes(arguments, arguments.col)


def _bytes(arguments: argparse.Namespace, text: str) -> bytes:
    data = os.fsencode(text)
    return unquote_to_bytes(data) if arguments.encoded else data


def _value(arguments: argparse.Namespace, streams: Streams) -> bytes:
    if arguments.file is not None:
        if arguments.value is not None:
            raise ConfigurationError("VALUE and --file are two values: give one")
        return _read(arguments.file)
    if arguments.value is not None:
        return _bytes(arguments, arguments.value)
    # One byte more than fits tells that it does not fit, however much comes.
    return streams.stdin.read(MAX_VALUE_BYTES + 1)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_VALUE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _write(path: str, value: bytes) -> None:
    try:
        Path(path).write_bytes(value)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
