"""Live pages: one stream of server-sent events per browser, for all topics its tabs ask for.

Theory of operation
    `/events?topics=chat,mail` answers with an endless `text/event-stream`. A topic names a row of the
    store; every commit to that row (on whatever frontend) wakes the stream, which then asks the topic
    to read what is new behind its *cursor*. Nothing is queued: a slow client delays the reading, and
    finds everything in the store later. The id of every event holds the cursors of all topics, so
    that a stream that was cut resumes with `Last-Event-ID`, here or on another frontend, without gap
    or repetition.

    A topic whose events carry no content (`RowHint`) only says "read again"; it says so once at the
    beginning of every stream, which covers whatever happened before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from attrs import frozen
from prometheus_client import CollectorRegistry, Gauge
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from penncloud.client.table import Table, Unavailable, Watching
from penncloud.platform.environment import Environment
from penncloud.services.sessions import Session, Sessions
from penncloud.web.body import ClientGone
from penncloud.web.errors import WebError
from penncloud.web.request import WebRequest

if TYPE_CHECKING:
    from penncloud.web.application import Application

# Below the idle limits of usual proxies, and how late a dead connection is noticed at most.
HEARTBEAT_S: Final = 15.0
# A browser opens 6 connections per host, so one more stream could not be of any use.
MAX_PER_SESSION: Final = 6
MAX_STREAMS: Final = 3000
# Pause before the store is asked again after it did not answer.
_RETRY_S: Final = 1.0
_MAX_ID: Final = 1000
_CURSOR: Final = re.compile(r"[A-Za-z0-9/._-]{0,200}")


@frozen
class Event:
    """`data` becomes JSON; `cursor` (letters, digits, `/._-`) is the place behind this event."""

    cursor: str
    data: Any


@frozen
class Batch:
    """Some events in order, and whether there are more behind them now."""

    events: Sequence[Event]
    more: bool = False


class Topic(Protocol):
    """Something that changes, as one user sees it."""

    def row(self, session: Session) -> bytes:
        """The row whose commits mean that there may be something new."""
        ...

    async def read(self, session: Session, cursor: str, version: int) -> Batch:
        """What is new behind `cursor` ("": the client has nothing); a bounded amount.

        `version` is the one the last commit was reported with.
        """
        ...


@frozen
class RowHint:
    """The topic that only says: read again. Its data is {"version": N}."""

    row_of: Callable[[Session], bytes]

    def row(self, session: Session) -> bytes:
        return self.row_of(session)

    async def read(self, session: Session, cursor: str, version: int) -> Batch:
        return Batch([Event(str(version), {"version": version})])


class Events:
    """The topics, and the streams of this frontend."""

    def __init__(
        self,
        table: Table,
        environment: Environment,
        sessions: Sessions,
        registry: CollectorRegistry,
    ) -> None:
        self._table = table
        self._environment = environment
        self._sessions = sessions
        self._topics: dict[str, Topic] = {}
        self._streams: set[_Stream] = set()
        Gauge(
            "penncloud_http_event_streams", "Open streams of events.", registry=registry
        ).set_function(lambda: len(self._streams))

    def add(self, name: str, topic: Topic) -> None:
        """Offer a topic; pages ask for it by name (small letters)."""
        self._topics[name] = topic

    def mount(self, app: Application) -> None:
        @app.route("/events")
        async def events(request: WebRequest) -> None:
            await self._serve(request)

    def end(self) -> None:
        """Finish all streams; their clients will come back, to another frontend."""
        for stream in list(self._streams):
            stream.end()

    async def _serve(self, request: WebRequest) -> None:
        session = request.login
        names = [name for name in request.query.text("topics", "").split(",") if name]
        unknown = [name for name in names if name not in self._topics]
        if unknown or not names:
            raise WebError(400, "There is no such topic of events.")
        mine = sum(stream.session.id == session.id for stream in self._streams)
        if mine >= MAX_PER_SESSION or len(self._streams) >= MAX_STREAMS:
            raise WebError(429, "Too many live pages are open.", {"retry-after": "5"})
        last_id = request.getHeader("last-event-id") or request.query.text("since", "")
        stream = _Stream(
            request,
            session=session,
            topics={name: self._topics[name] for name in names},
            cursors=parse_id(last_id),
            reactor=self._environment.reactor,
            sessions=self._sessions,
        )
        self._streams.add(stream)
        try:
            await stream.run(self._table)
        finally:
            self._streams.discard(stream)


def parse_id(text: str) -> dict[str, str]:
    """The cursors by topic of an event's id; what is malformed counts as nothing."""
    cursors: dict[str, str] = {}
    if len(text) <= _MAX_ID:
        for part in text.split(","):
            name, equals, cursor = part.partition("=")
            if equals and _CURSOR.fullmatch(cursor):
                cursors[name] = cursor
    return cursors


class _Stream:
    """One client's stream."""

    log = Logger()

    def __init__(
        self,
        request: WebRequest,
        *,
        session: Session,
        topics: Mapping[str, Topic],
        cursors: Mapping[str, str],
        reactor: Any,
        sessions: Sessions,
    ) -> None:
        self.session = session
        self._request = request
        self._topics = topics
        self._cursors = {name: cursors.get(name, "") for name in topics}
        self._reactor = reactor
        self._sessions = sessions
        # Versions at which topics changed that were not read since.
        self._changed: dict[str, int] = {}
        self._ended = False
        self._beat_due_s = reactor.seconds() + HEARTBEAT_S
        self._wakeup: Deferred[None] | None = None

    async def run(self, table: Table) -> None:
        """Send until the client goes, the session ends or the server does."""
        self._request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
        self._request.notifyFinish().addErrback(lambda _: self.end())
        watches: list[Watching] = []
        try:
            # Milliseconds after which the browser connects again.
            await self._request.send(b"retry: 1000\n\n")
            for name, topic in self._topics.items():
                watches.append(table.watch(topic.row(self.session), self._waker(name)))
            while not self._ended:
                if self._reactor.seconds() >= self._beat_due_s:
                    await self._beat()
                elif self._changed:
                    await self._send_change()
                else:
                    await self._sleep()
        except ClientGone:
            return
        finally:
            for watch in watches:
                watch.stop()
        if not self._request.is_gone:
            self._request.finish()

    def end(self) -> None:
        self._ended = True
        self._wake()

    async def _send_change(self) -> None:
        """What is new of the topic that has waited longest."""
        name, version = next(iter(self._changed.items()))
        del self._changed[name]
        try:
            batch = await self._topics[name].read(self.session, self._cursors[name], version)
        except Unavailable as error:
            self.log.warn("topic {name} not read: {error}", name=name, error=str(error))
            self._reactor.callLater(_RETRY_S, self._waker(name), version)
            return
        if batch.more:
            self._changed.setdefault(name, version)
        for event in batch.events:
            self._cursors[name] = event.cursor
            await self._send(name, event.data)

    async def _sleep(self) -> None:
        """Until something changed, the stream ended, or the next heartbeat is due."""
        self._wakeup = Deferred()
        wait_s = max(0.0, self._beat_due_s - self._reactor.seconds())
        beat = self._reactor.callLater(wait_s, self._wake)
        await self._wakeup
        if beat.active():
            beat.cancel()

    async def _beat(self) -> None:
        """A heartbeat, and the moment to notice that the session has ended.

        It comes on busy streams too: who has been logged out must not go on listening because
        others go on talking.
        """
        self._beat_due_s = self._reactor.seconds() + HEARTBEAT_S
        try:
            alive = await self._sessions.find(self.session.cookie)
        except Unavailable:
            alive = self.session
        if alive is None:
            await self._send("logout", {})
            self._ended = True
        elif not self._ended:
            # Not a comment, so that scripts see it and notice its absence.
            await self._send("beat", {})

    async def _send(self, name: str, data: Any) -> None:
        cursors = ",".join(f"{topic}={cursor}" for topic, cursor in self._cursors.items())
        await self._request.send(
            b"id: %s\nevent: %s\ndata: %s\n\n"
            % (cursors.encode(), name.encode(), msgspec.json.encode(data))
        )

    def _waker(self, name: str) -> Callable[[int], None]:
        def changed(version: int) -> None:
            self._changed[name] = version
            self._wake()

        return changed

    def _wake(self) -> None:
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            wakeup.callback(None)
