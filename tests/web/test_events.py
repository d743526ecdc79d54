"""A stream of events on a fake clock: heartbeats, ended sessions, a store that is away."""

from __future__ import annotations

from typing import Any, cast

from attrs import define, field
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from penncloud.client.memory import MemoryTable
from penncloud.client.table import Unavailable
from penncloud.services.accounts import Accounts
from penncloud.services.sessions import Session, Sessions
from penncloud.web.body import ClientGone
from penncloud.web.events import HEARTBEAT_S, Batch, Event, Events, RowHint
from penncloud.web.forms import Form
from penncloud.web.request import WebRequest
from tests.web.frontend import QUICK, environment_for


@define
class StreamRequest:
    """As much of a WebRequest as a stream uses; what was sent is kept."""

    login: Session
    topics: str
    sent: list[bytes] = field(factory=list)
    is_gone: bool = False
    finished: bool = False
    _finish: Deferred[None] = field(factory=Deferred)

    @property
    def query(self) -> Form:
        return Form({"topics": [self.topics]})

    def getHeader(self, name: str) -> str | None:
        return None

    def setHeader(self, name: bytes, value: bytes) -> None:
        """Headers are looked at by other tests."""

    def notifyFinish(self) -> Deferred[None]:
        return self._finish

    async def send(self, data: bytes) -> None:
        if self.is_gone:
            raise ClientGone("gone")
        self.sent.append(data)

    def finish(self) -> None:
        self.finished = True

    def leave(self) -> None:
        self.is_gone = True
        self._finish.errback(Failure(ClientGone("gone")))

    def events(self) -> list[str]:
        """The names of the events since the last look."""
        lines = b"".join(self.sent).decode().split("\n")
        self.sent.clear()
        return [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]


@define
class Flaky:
    """A topic whose store is away when told so."""

    away: bool = False

    def row(self, session: Session) -> bytes:
        return b"row"

    async def read(self, session: Session, cursor: str, version: int) -> Batch:
        if self.away:
            raise Unavailable("away")
        return Batch([Event(str(version), {})])


class StreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.table = MemoryTable()
        environment = environment_for(self.clock, lambda: 1000.0 + self.clock.seconds())
        self.sessions = Sessions(self.table, environment, 3600.0)
        accounts = Accounts(self.table, environment, QUICK)
        account = self.wait(accounts.create("anna", "correct horse"))
        self.session = self.wait(self.sessions.start(account))
        self.topic = Flaky()
        self.events = Events(self.table, environment, self.sessions, CollectorRegistry())
        self.events.add("flaky", self.topic)
        self.events.add("hint", RowHint(lambda session: b"mail/" + session.name.encode()))

    def wait(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def open(self, topics: str) -> StreamRequest:
        request = StreamRequest(self.session, topics)
        serving = self.events._serve(cast(WebRequest, request))
        self.serving = Deferred.fromCoroutine(serving)
        return request

    def test_hint_at_the_beginning_and_at_every_change(self) -> None:
        """Whatever happened before the stream is covered by its first hint."""
        request = self.open("hint")
        self.assertEqual(request.events(), ["hint"])
        self.wait(self.table.put(b"mail/anna", b"a", b""))
        self.assertEqual(request.events(), ["hint"])
        self.wait(self.table.put(b"mail/berta", b"a", b""))
        self.assertEqual(request.events(), [])

    def test_silence_is_broken_by_heartbeats(self) -> None:
        """A client can tell a quiet stream from a dead one."""
        request = self.open("hint")
        request.events()
        self.clock.advance(HEARTBEAT_S - 1)
        self.assertEqual(request.events(), [])
        self.clock.advance(1)
        self.assertEqual(request.events(), ["beat"])
        self.clock.advance(HEARTBEAT_S)
        self.assertEqual(request.events(), ["beat"])

    def test_stream_ends_with_its_session(self) -> None:
        """Logging out elsewhere ends the stream at the next heartbeat."""
        request = self.open("hint")
        self.wait(self.sessions.end(self.session))
        self.clock.advance(HEARTBEAT_S)
        self.assertEqual(request.events(), ["hint", "logout"])
        self.assertTrue(request.finished)
        self.successResultOf(self.serving)

    def test_busy_stream_ends_with_its_session_too(self) -> None:
        """Who was logged out does not go on listening because others go on talking."""
        request = self.open("hint")
        self.wait(self.sessions.end(self.session))
        for _ in range(3):
            self.wait(self.table.put(b"mail/anna", b"a", b""))
            self.clock.advance(HEARTBEAT_S / 2)
        self.assertEqual(request.events().count("logout"), 1)
        self.assertTrue(request.finished)
        self.successResultOf(self.serving)

    def test_stream_outlasts_an_absence_of_the_store(self) -> None:
        """What could not be read is read when the store is back; the heart goes on beating."""
        self.topic.away = True
        request = self.open("flaky")
        self.clock.pump([1.0, 1.0])
        self.assertEqual(request.events(), [])
        self.topic.away = False
        self.clock.advance(1.0)
        self.assertEqual(request.events(), ["flaky"])
        self.table.unavailable = True
        self.clock.advance(HEARTBEAT_S)
        self.assertEqual(request.events(), ["beat"])

    def test_client_that_leaves_frees_everything(self) -> None:
        """No watch, timer or stream is left behind."""
        request = self.open("hint,flaky")
        request.leave()
        self.successResultOf(self.serving)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(any(self.table._watches.values()))
        self.assertFalse(self.events._streams)
