"""Which frontend is next: round robin over those that may be given clients."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from penncloud.client.directory import NodeInfo


@define
class RoundRobin:
    """Deals out http servers in the order of their ids.

    The turn is remembered as an id, not as a position, so that a server that comes or goes does not make
    another one be skipped or drawn twice.
    """

    _eligible: tuple[NodeInfo, ...] = ()
    _last_id: str = ""
    known: int = field(default=0)
    """How many http servers the directory has, whatever their state."""
    disabled: int = field(default=0)
    """How many of them an administrator has taken out."""

    @property
    def eligible(self) -> tuple[NodeInfo, ...]:
        """The servers that take turns, by id."""
        return self._eligible

    def update(self, nodes: Sequence[NodeInfo]) -> None:
        """Take over what the directory says now.

        A suspected server has missed a heartbeat or two and may be gone: it is given nobody while a
        live one is there, and is better than no answer when none is.
        """
        frontends = sorted((node for node in nodes if node.role == "http"), key=lambda n: n.id)
        enabled = [node for node in frontends if node.enabled]
        live = [node for node in enabled if node.state == "live"]
        suspected = [node for node in enabled if node.state == "suspected"]
        self._eligible = tuple(live or suspected)
        self.known = len(frontends)
        self.disabled = len(frontends) - len(enabled)

    def next(self, but: Sequence[str] = ()) -> NodeInfo | None:
        """The server whose turn it is, leaving out the ids in `but`; None when there is none."""
        open_to_all = [node for node in self._eligible if node.id not in but]
        if not open_to_all:
            return None
        later = (node for node in open_to_all if node.id > self._last_id)
        chosen = next(later, open_to_all[0])
        self._last_id = chosen.id
        return chosen
