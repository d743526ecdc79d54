"""Worker processes that do what a test tells them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from penncloud.platform.metrics import Family
from penncloud.platform.supervisor import Ended, Signal
from penncloud.web.workers.words import (
    Begin,
    Failed,
    FromWorker,
    Report,
    Reported,
    Retire,
    Serves,
    ToWorker,
)


@define
class FakeWorker:
    """One process. It ends when a test says so, or by KILL. `heard` are the words after the first."""

    pid: int
    begin: Begin
    _say: Callable[[FromWorker], None]
    _ended: Callable[[Ended], None]
    heard: list[ToWorker] = field(factory=list)
    signals: list[str] = field(factory=list)
    alive: bool = True

    def signal(self, name: Signal) -> None:
        self.signals.append(name)
        if self.alive and name == "KILL":
            self.end(Ended(None, 9))

    def tell(self, word: ToWorker) -> None:
        self.heard.append(word)

    def serve(self) -> None:
        self._say(Serves())

    def report(self, *families: Family) -> None:
        self._say(Reported(list(families)))

    def fail(self, text: str) -> None:
        self._say(Failed(text))
        self.end(Ended(1, None))

    def end(self, how: Ended) -> None:
        self.alive = False
        self._ended(how)

    @property
    def retirements(self) -> list[Retire]:
        return [word for word in self.heard if isinstance(word, Retire)]

    @property
    def questions(self) -> int:
        return sum(isinstance(word, Report) for word in self.heard)


@define
class FakeSpawner:
    """`spawn` is what a pool takes; `started` are the processes it made, in order."""

    started: list[FakeWorker] = field(factory=list)

    def spawn(
        self,
        begin: Begin,
        say: Callable[[FromWorker], None],
        ended: Callable[[Ended], None],
    ) -> FakeWorker:
        worker = FakeWorker(500 + len(self.started), begin, say, ended)
        self.started.append(worker)
        return worker

    @property
    def alive(self) -> list[FakeWorker]:
        return [worker for worker in self.started if worker.alive]

    @property
    def last(self) -> FakeWorker:
        return self.started[-1]
