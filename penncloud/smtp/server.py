"""The SMTP server as a whole: makes the clients' sessions, bounds them, and ends them in order."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, Counter, Gauge
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater

from penncloud.platform.environment import Environment
from penncloud.platform.tls import ServerCertificate
from penncloud.smtp.inbound import Session
from penncloud.smtp.reception import Reception


@frozen
class Limits:
    """Bounds of the server. Times in seconds."""

    message_bytes: int = 25 * 1024 * 1024
    recipients: int = 1000
    connections: int = 1000
    connections_per_client: int = 50
    # RFC 5321 4.5.3.2.7: at least five minutes between commands; and for DATA as a whole.
    idle_s: float = 300.0
    data_s: float = 1800.0
    # What stopping waits for messages that are just being stored.
    stop_s: float = 10.0


@define(eq=False)
class InboundServer(ServerFactory):
    """Makes sessions and bounds them."""

    environment: Environment
    reception: Reception
    registry: CollectorRegistry
    limits: Limits = Limits()
    certificate: ServerCertificate | None = None
    is_stopping: bool = False
    sessions: set[Session] = field(factory=set)
    _messages: Counter = field(init=False)

    noisy = False

    def __attrs_post_init__(self) -> None:
        self._messages = Counter(
            "penncloud_smtp_messages",
            "Messages by the code of the answer to their end.",
            ["code"],
            registry=self.registry,
        )
        Gauge(
            "penncloud_smtp_sessions", "Open connections of clients.", registry=self.registry
        ).set_function(lambda: len(self.sessions))

    def answered(self, code: int) -> None:
        """Count a message."""
        self._messages.labels(str(code)).inc()

    def buildProtocol(self, addr: Any) -> Session:
        return Session(self)

    def admit(self, session: Session) -> str | None:
        """Count a session in; a text if it has to go."""
        if self.is_stopping:
            return "Shutting down"
        if len(self.sessions) >= self.limits.connections:
            return "Too many connections"
        same = sum(each.client == session.client for each in self.sessions)
        if same >= self.limits.connections_per_client:
            return "Too many connections from your address"
        self.sessions.add(session)
        return None

    def left(self, session: Session) -> None:
        """A session's connection is gone."""
        self.sessions.discard(session)

    async def stop(self) -> None:
        """Dismiss the clients; messages that are just being stored get their answer first."""
        self.is_stopping = True
        for session in list(self.sessions):
            session.dismiss()
        waited = 0.0
        while self.sessions and waited < self.limits.stop_s:
            await deferLater(self.environment.reactor, 0.05, lambda: None)
            waited += 0.05
        for session in list(self.sessions):
            session.transport.abortConnection()
