"""The way from the replicas to the world: other storage servers and the coordinators."""

from __future__ import annotations

from collections.abc import Mapping

from penncloud.replication.messages import Configuration, Message
from penncloud.storage.peers import Peers
from penncloud.storage.proposals import Proposals


class Outside:
    """Leads nowhere until it is connected: a server that starts has nothing to say yet."""

    def __init__(self) -> None:
        self._peers: Peers | None = None
        self._proposals: Proposals | None = None

    def connect_to(self, peers: Peers, proposals: Proposals) -> None:
        self._peers, self._proposals = peers, proposals

    def send(self, message: Message) -> None:
        """To a peer, with the next `flush`."""
        if self._peers is not None:
            self._peers.send(message)

    def flush(self) -> None:
        if self._peers is not None:
            self._peers.flush()

    def connect(
        self, addresses: Mapping[str, str], outranked: Mapping[str, tuple[int, int]]
    ) -> None:
        """Keep connections to these peers; see `Peers`."""
        if self._peers is not None:
            self._peers.connect(addresses)
            self._peers.believe(outranked)

    def propose(self, configuration: Configuration) -> None:
        """To the coordinators; the outcome comes as an assignment."""
        if self._proposals is not None:
            self._proposals.propose(configuration)

    def ask(self) -> None:
        """Let the coordinators say what the assignment is now."""
        if self._proposals is not None:
            self._proposals.fetch()
