"""Twin of `penncloud.web.workers.words`."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from penncloud.platform.config import Cluster, Http
from penncloud.platform.metrics import Family, Sample
from penncloud.web.workers.words import (
    Begin,
    Failed,
    FromWorker,
    Lines,
    Report,
    Reported,
    Retire,
    Serves,
    ToWorker,
    UseCoordinators,
    encode,
    words_from_worker,
    words_to_worker,
)


class WordsTests(SynchronousTestCase):
    def test_to_the_worker(self) -> None:
        """Every word arrives as it was said, however the pipe cuts it."""
        words: list[ToWorker] = [
            Begin(2, Cluster(coordinators=["a:1"]), Http(id="http-1", workers=3), ["a:1", "b:2"]),
            UseCoordinators(["c:3"]),
            Report(),
            Retire(2.5, patient=True),
        ]
        heard: list[Any] = []
        ear = words_to_worker(heard.append)
        for byte in b"".join(map(encode, words)):
            ear.received(bytes([byte]))
        self.assertEqual(heard, words)

    def test_from_the_worker(self) -> None:
        """Several words in one piece are several words."""
        family = Family("x", "X\n.", "gauge", [Sample("x", {"a": "b"}, "nan")])
        words: list[FromWorker] = [Serves(), Reported([family]), Failed("no\nfile")]
        heard: list[Any] = []
        words_from_worker(heard.append).received(b"".join(map(encode, words)))
        self.assertEqual(heard, words)

    def test_nonsense(self) -> None:
        """What nobody understands is logged, and the next word is heard."""
        heard: list[Any] = []
        words_to_worker(heard.append).received(b"{]\n" + encode(Serves()) + encode(Report()))
        self.assertEqual(heard, [Report()])


class LinesTests(SynchronousTestCase):
    def test_long_lines(self) -> None:
        """A line beyond the limit is dropped without being kept; those around it are not."""
        heard: list[bytes] = []
        lines = Lines(heard.append, 8)
        lines.received(b"one\n" + b"x" * 5)
        for _ in range(1000):
            lines.received(b"x" * 1000)
        self.assertEqual(sum(map(len, lines._parts)), 0)
        lines.received(b"\ntwo\n12345678\n123456789\n\nend")
        self.assertEqual(heard, [b"one", b"two", b"12345678", b""])
