"""The coordinator's answers to `messages`: the view, enabling, and word of every change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from penncloud.coordinator.commands import Rejected, SetEnabled
from penncloud.coordinator.decisions import Decisions
from penncloud.coordinator.messages import (
    ClusterView,
    Enabled,
    EnableNode,
    NodesChanged,
    Subscribe,
    ViewCluster,
)
from penncloud.coordinator.refusals import decided
from penncloud.coordinator.view import Observer
from penncloud.platform.environment import Environment
from penncloud.rpc.calls import Calls
from penncloud.rpc.errors import Refusal, RpcError
from penncloud.rpc.protocol import RpcProtocol

# Who may take a frontend out: an administrator's command, and the admin console.
ENABLERS: Final = ("admin", "http")


class DirectoryServer:
    """`observer` gives the present view; call `changed` whenever it may differ."""

    log = Logger()

    def __init__(
        self, environment: Environment, decisions: Decisions, observer: Callable[[], Observer]
    ) -> None:
        self._environment = environment
        self._clock = environment.reactor
        self._decisions = decisions
        self._observer = observer
        # A dict as an ordered set: what is done to all is done in the same order in every run.
        self._subscribers: dict[RpcProtocol, None] = {}
        self._telling: Any = None

    def serve(self, calls: Calls) -> None:
        calls.on_call(ViewCluster, self._view)
        calls.on_call(EnableNode, self._enable, ENABLERS)
        calls.on_call(Subscribe, self._subscribe)

    def changed(self) -> None:
        """Tell the subscribers, once for all changes of this turn of the reactor."""
        if self._telling is None and self._subscribers:
            self._telling = self._clock.callLater(0, self._tell)

    def lost(self, connection: RpcProtocol) -> None:
        """A connection has ended."""
        self._subscribers.pop(connection, None)

    def stop(self) -> None:
        self._subscribers.clear()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    async def _view(self, connection: RpcProtocol, message: ViewCluster) -> ClusterView:
        await decided(self._decisions.read_barrier())
        return self._observer().cluster(self._clock.seconds())

    async def _enable(self, connection: RpcProtocol, message: EnableNode) -> Enabled:
        now = self._environment.now()
        command = SetEnabled(now, message.id, message.enabled, message.request)
        result = await decided(self._decisions.propose(command))
        if isinstance(result, Rejected):
            raise Refusal(result.code, result.text)
        return Enabled()

    def _subscribe(self, connection: RpcProtocol, message: Subscribe) -> NodesChanged:
        self._subscribers[connection] = None
        return self._now()

    def _now(self) -> NodesChanged:
        return NodesChanged(self._observer().nodes(self._clock.seconds()))

    def _tell(self) -> None:
        self._telling = None
        news = self._now()
        for connection in list(self._subscribers):
            try:
                connection.note(news)
            except RpcError as error:
                # It subscribes again when it is back, and then learns how things stand.
                self._subscribers.pop(connection, None)
                connection.drop(f"not told of a change: {error}")
