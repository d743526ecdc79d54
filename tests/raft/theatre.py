"""Golden scripts: Raft as a play that reads as prose.

A script is a text file of commands (lines that begin with `> `) and of what each of them leads to. Running it
gives the file again, or the rules have changed. Commands:

    cluster a b c        fresh nodes, all voters (a name in parentheses only listens)
    tick a 10            time passes at a
    work a               a does all that it has to do: persists, sends, applies
    deliver a b          what is on its way from a to b arrives
    lose a b             what is on its way from a to b is lost (without b: to anybody)
    settle a b c         these work and deliver among themselves until nothing is left to do
    cut a / mend         a is cut off from all others / nobody is any more (settle obeys, deliver does not)
    propose a x          a command for the application, at a
    members a b c (d)    the membership that the leader is asked to propose (the leader is named first)
    read a               a linearizable read at a
    transfer a b         leader a hands over to b
    snapshot a           a replaces its log by a snapshot of what it applied
    crash a / start a    a loses what is not on its disk / comes back with what is
    log a                shows a's log

After a command every node whose role, term, leader or commit index changed is shown.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from penncloud.raft.log import RaftLog
from penncloud.raft.messages import Entry, HardState, Membership, Message, Snapshot
from penncloud.raft.node import MembershipRefused, NotLeader, Options, Overloaded, RaftNode


@define
class _Chance:
    """No chance: the first node's election time-out is 10 ticks, the second's 11, and so on."""

    position: int

    def randrange(self, stop: int, /) -> int:
        return self.position


@define
class _Player:
    id: str
    snapshot: Snapshot
    hard_state: HardState = field(factory=HardState)
    entries: list[Entry] = field(factory=list)
    node: RaftNode | None = None
    applied: list[Entry] = field(factory=list)
    shown: str = ""


def _names(words: list[str]) -> tuple[list[str], list[str]]:
    """Voters, and those in parentheses."""
    return (
        [word for word in words if not word.startswith("(")],
        [word.strip("()") for word in words if word.startswith("(")],
    )


class Theatre:
    """Runs the commands of one script."""

    def __init__(self, broken: Callable[[str], bool] = lambda _: False) -> None:
        self._broken = broken
        self._players: dict[str, _Player] = {}
        self._network: list[Message] = []
        self._cut: set[str] = set()
        self._reads = 0
        self._lines: list[str] = []

    def play(self, script: str) -> str:
        """The script with what really happens."""
        output: list[str] = []
        for line in script.splitlines():
            if line.startswith("> "):
                verb, *words = line[2:].split()
                self._lines = []
                getattr(self, f"_do_{verb}")(*words)
                self._show_changes()
                output.extend([line, *(f"  {told}" for told in self._lines)])
            elif line.startswith("#") or not line:
                output.append(line)
        return "\n".join(output) + "\n"

    # -- commands --------------------------------------------------------------------------------

    def _do_cluster(self, *words: str) -> None:
        voters, others = _names(list(words))
        first = Snapshot(0, 0, Membership(frozenset(voters)), b"")
        for name in (*voters, *others):
            self._players[name] = _Player(name, first)
            self._do_start(name)

    def _do_start(self, name: str) -> None:
        player = self._players[name]
        log = RaftLog(player.snapshot, player.entries)
        options = Options(max_message_bytes=1024, max_message_entries=1)
        chance = _Chance(list(self._players).index(name))
        player.node = RaftNode(name, log, player.hard_state, chance, options, self._broken)
        player.applied = []

    def _do_crash(self, name: str) -> None:
        self._players[name].node = None

    def _do_tick(self, name: str, count: str) -> None:
        for _ in range(int(count)):
            self._node(name).tick()

    def _do_work(self, name: str) -> None:
        player, node = self._players[name], self._node(name)
        while ready := node.ready():
            if ready.hard_state is not None:
                player.hard_state = ready.hard_state
            if ready.snapshot is not None:
                player.snapshot, player.entries = ready.snapshot, []
                self._lines.append(f"{name} installs the snapshot of {ready.snapshot.index}")
            if ready.entries:
                keep = ready.entries[0].index - player.snapshot.index - 1
                player.entries[keep:] = ready.entries
            self._network.extend(ready.messages)
            for entry in ready.committed:
                player.applied.append(entry)
                if entry.kind == "command":
                    self._lines.append(f"{name} applies {entry.index} {entry.data.decode()}")
            for read in ready.reads:
                told = f"index {read.index}" if read.index else "not possible"
                self._lines.append(f"{name} read {read.context}: {told}")
            node.advance(ready)

    def _do_deliver(self, sender: str, to: str) -> None:
        for message in self._taken(sender, to):
            node = self._players[to].node
            if node is not None:
                node.step(message)

    def _do_lose(self, sender: str, to: str = "") -> None:
        for player in [to] if to else list(self._players):
            self._taken(sender, player)

    def _do_settle(self, *names: str) -> None:
        for _ in range(100):
            for name in names:
                self._do_work(name)
            pairs = {(m.sender, m.to) for m in self._network}
            open_pairs = [
                (sender, to)
                for sender, to in sorted(pairs)
                if sender in names and to in names and not {sender, to} & self._cut
            ]
            if not open_pairs:
                return
            for pair in open_pairs:
                self._do_deliver(*pair)
        raise AssertionError("the nodes do not come to rest")

    def _do_cut(self, name: str) -> None:
        self._cut.add(name)

    def _do_mend(self) -> None:
        self._cut.clear()
        self._network.clear()

    def _do_propose(self, name: str, data: str) -> None:
        try:
            index, term = self._node(name).propose(data.encode())
            self._lines.append(f"{name} appends {index} in term {term}")
        except (NotLeader, Overloaded) as error:
            self._lines.append(f"refused: {error}")

    def _do_members(self, leader: str, *words: str) -> None:
        voters, learners = _names([leader, *words] if f"-{leader}" not in words else list(words))
        voters = [name for name in voters if not name.startswith("-")]
        wanted = Membership(frozenset(voters), frozenset(learners))
        try:
            index, _ = self._node(leader).propose_membership(wanted)
            self._lines.append(f"{leader} appends {index}, a membership")
        except (NotLeader, MembershipRefused) as error:
            self._lines.append(f"refused: {error}")

    def _do_read(self, name: str) -> None:
        self._reads += 1
        try:
            self._node(name).read(self._reads)
        except NotLeader as error:
            self._lines.append(f"refused: {error}")

    def _do_transfer(self, name: str, to: str) -> None:
        self._node(name).transfer(to)

    def _do_snapshot(self, name: str) -> None:
        player = self._players[name]
        last = player.applied[-1]
        node = self._node(name)
        snapshot = Snapshot(
            last.index, last.term, node.log.membership_at(last.index), b"state" * 500
        )
        player.entries = [entry for entry in player.entries if entry.index > last.index]
        player.snapshot = snapshot
        node.compact(snapshot)

    def _do_log(self, name: str) -> None:
        player = self._players[name]
        told = [f"snapshot {player.snapshot.index}"] if player.snapshot.index else []
        told += [f"{e.index}/{e.term} {e.data.decode() or e.kind}" for e in player.entries]
        self._lines.append(f"{name}: " + ", ".join(told))

    # -- the stage -------------------------------------------------------------------------------

    def _node(self, name: str) -> RaftNode:
        node = self._players[name].node
        assert node is not None, f"{name} is down"
        return node

    def _taken(self, sender: str, to: str) -> list[Message]:
        found = [m for m in self._network if (m.sender, m.to) == (sender, to)]
        self._network = [m for m in self._network if (m.sender, m.to) != (sender, to)]
        return found

    def _show_changes(self) -> None:
        for player in self._players.values():
            node = player.node
            if node is None:
                state = "down"
            else:
                state = f"{node.role}, term {node.term}, leader {node.leader or 'unknown'}"
                state += f", commit {node.log.commit}"
            if state != player.shown:
                self._lines.append(f"{player.id}: {state}")
                player.shown = state
