"""Twin of `penncloud.platform.json_log`: each event is one line that a program can read."""

from __future__ import annotations

import io
import json
from typing import Any

from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform import json_log, trace


class JsonLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out = io.StringIO()

    def logger(self, **variables: str) -> Logger:
        observer = json_log.observer(self.out, variables)
        return Logger("penncloud.test", observer=observer)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def test_line(self) -> None:
        """Message, level, place and what the message is made of, each under its name."""
        self.logger().warn("{id} has {count}", id="storage-1", count=3, row=b"a\xff", odd=object())
        (line,) = self.lines()
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            line,
            {
                "level": "warn",
                "logger": "penncloud.test",
                "message": "storage-1 has 3",
                "id": "storage-1",
                "count": 3,
                "row": "a\\xff",
            },
        )

    def test_time_is_utc(self) -> None:
        """The stamp is the event's, in UTC."""
        event: LogEvent = {"log_level": LogLevel.info, "log_time": 1.5, "log_format": "x"}
        self.assertEqual(json.loads(json_log.as_json(event))["time"], "1970-01-01T00:00:01.500Z")

    def test_request(self) -> None:
        """A line that is written for a request has its id; a field of that name cannot claim one."""
        log = self.logger()
        with trace.working_for("abc-1"):
            log.info("within")
        log.info("outside", request="forged")
        self.assertEqual([line.get("request") for line in self.lines()], ["abc-1", None])

    def test_failure(self) -> None:
        """A failure's traceback is part of its line, not lines of its own."""
        try:
            raise ValueError("broken")
        except ValueError:
            self.logger().failure("it failed", Failure())
        (line,) = self.lines()
        self.assertEqual(line["level"], "critical")
        self.assertIn("ValueError: broken", line["traceback"])

    def test_newlines(self) -> None:
        """What comes from outside cannot begin a line of its own."""
        self.logger().info("from {peer}", peer='x\n{"level": "critical"}')
        self.assertEqual(len(self.lines()), 1)

    def test_long(self) -> None:
        """No line is longer than journald takes."""
        self.logger().info("{text}", text="x" * 200_000, **{f"f{n}": "y" * 3000 for n in range(60)})
        self.assertLess(len(self.out.getvalue()), 48 * 1024)
        self.assertEqual(self.lines()[0]["level"], "info")

    def test_journal(self) -> None:
        """For journald each line says its priority."""
        log = self.logger(JOURNAL_STREAM="8:1")
        log.error("bad")
        log.debug("fine")
        first, second = self.out.getvalue().splitlines()
        self.assertTrue(first.startswith("<3>{"))
        self.assertTrue(second.startswith("<7>{"))
