"""The log as one JSON object per line, for journald and for programs that collect logs.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "penncloud.storage.node",
     "message": "storage-1 serves", "id": "storage-1", "request": "0f3a..."}

`time` is UTC. `request` is there where the line belongs to a request (`trace`). What the message was made
of stands beside it under its own name, as far as it is text, a number or a list of these; `traceback` is
there for a failure. Where journald reads the output (JOURNAL_STREAM is set), a line begins with its
priority in `<>`, which journald takes off again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from penncloud.platform import trace

# syslog(3): the priorities of Twisted's levels.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
# A line of journald is at most 48 KiB; longer ones would be cut in the middle.
_LINE_BYTES: Final = 40_000
_FIELD_CHARACTERS: Final = 2_000
# What Twisted adds for itself, and what stands in the line under another name.
_OWN: Final = frozenset({"time", "level", "logger", "message", "request", "traceback", "format"})


def _plain(value: Any) -> Any:
    """A value as JSON has it, None for what it has not."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value[:_FIELD_CHARACTERS]
    if isinstance(value, BaseException):
        return str(value)[:_FIELD_CHARACTERS]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:50]]
    return None


def as_json(event: LogEvent) -> bytes:
    """One line, without its end."""
    level = event.get("log_level")
    name = getattr(level, "name", "info")
    stamp = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    line: dict[str, Any] = {
        "time": stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": name,
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event)[: _LINE_BYTES // 4],
    }
    # An observer is called by the code that logs, in its context.
    if trace.current():
        line["request"] = trace.current()
    for key, value in event.items():
        if not key.startswith("log_") and key not in _OWN and (plain := _plain(value)) is not None:
            line[key] = plain
    failure = event.get("log_failure")
    if failure is not None:
        # The end of it says what happened.
        line["traceback"] = failure.getTraceback()[-_LINE_BYTES // 4 :]
    encoded = msgspec.json.encode(line)
    if len(encoded) > _LINE_BYTES:
        kept = {key: line[key] for key in ("time", "level", "logger", "message") if key in line}
        encoded = msgspec.json.encode({**kept, "message": kept["message"][:_FIELD_CHARACTERS]})
    return encoded


@implementer(ILogObserver)
class JsonLog:
    """Writes each event to `out`. `priorities`: begin each line as journald wants it."""

    def __init__(self, out: TextIO, priorities: bool = False) -> None:
        self._out = out
        self._priorities = priorities

    def __call__(self, event: LogEvent) -> None:
        text = as_json(event).decode()
        if self._priorities:
            level = getattr(event.get("log_level"), "name", "info")
            text = f"<{_PRIORITIES.get(level, 6)}>{text}"
        self._out.write(text + "\n")
        self._out.flush()


def observer(out: TextIO, variables: Mapping[str, str]) -> ILogObserver:
    """The observer for a process with these environment variables."""
    return JsonLog(out, "JOURNAL_STREAM" in variables)


def to_stdout() -> ILogObserver:
    """For `twistd --logger penncloud.platform.json_log.to_stdout`."""
    return observer(sys.stdout, os.environ)
