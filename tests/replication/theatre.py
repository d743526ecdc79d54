"""Golden scripts: replication as a play that reads as prose.

A script is a text file of commands (lines that begin with `> `) and of what each of them leads to.
Running it gives the file again, or the rules have changed. Commands:

    group a b c             fresh members, a their primary by configuration 1, serving
    wait 0.3                time passes for all, in steps of 50 ms: who is up works, and messages arrive
    write a x               a client's write at a
    read a                  a linearizable read at a
    work a                  a does what it has to do: persists, sends, applies
    deliver a b             what is on its way from a to b arrives, and b works
    lose a b                it is lost
    cut a / mend            nothing arrives from a or at a / everything does again
    crash a / start a       a loses what is not on its disk / comes back with what is
    wipe a                  a loses its disk too
    configure a 2 b: b c    a is told that cfg 2 has primary b and members b, c
    log a                   what a has on its disk

After a command every replica whose role, cfg, committed or prepared version changed is shown.
"""

from __future__ import annotations

from attrs import define, field

from penncloud.replication.messages import Configuration, Message, Ready
from penncloud.replication.primary import Refused
from penncloud.replication.replica import Replica
from penncloud.replication.state import Durable
from tests.replication.application import Operation, noop
from tests.replication.world import Disk

STEP_S = 0.05


@define(eq=False)
class _Player:
    id: str
    disk: Disk = field(factory=Disk)
    replica: Replica | None = None
    shown: str = ""
    words: dict[int, str] = field(factory=dict)


class Theatre:
    """Runs the commands of one script."""

    def __init__(self) -> None:
        self._players: dict[str, _Player] = {}
        self._network: list[Message] = []
        self._cut: set[str] = set()
        self._now = 0.0
        self._lines: list[str] = []
        self._words: dict[int, str] = {}

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

    def _do_group(self, *names: str) -> None:
        for name in names:
            self._players[name] = _Player(name)
            self._players[name].disk.blank = False
            self._do_start(name)
        for name in names:
            self._do_configure(name, "1", f"{names[0]}:", *names)
        self._do_wait("1.0")

    def _do_start(self, name: str) -> None:
        player = self._players.setdefault(name, _Player(name))
        disk = player.disk
        disk.incarnation += 1
        place = disk.sealed, disk.checkpoint, tuple(disk.entries), disk.staged
        durable = Durable(disk.incarnation, disk.blank, *place)
        player.replica = Replica(name, 1, durable, noop, self._now)

    def _do_crash(self, name: str) -> None:
        self._players[name].replica = None
        self._network = [m for m in self._network if name not in (m.sender, m.to)]

    def _do_wipe(self, name: str) -> None:
        self._do_crash(name)
        self._players[name].disk = Disk(incarnation=self._players[name].disk.incarnation)

    def _do_configure(self, name: str, cfg: str, primary: str, *members: str) -> None:
        chosen = primary.rstrip(":")
        incarnation = self._players[chosen].disk.incarnation
        config = Configuration(1, int(cfg), chosen, tuple(members), incarnation)
        self._replica(name).configure(config, self._now)

    def _do_wait(self, seconds: str) -> None:
        for _ in range(round(float(seconds) / STEP_S)):
            self._now += STEP_S
            for player in self._players.values():
                if player.replica is not None:
                    player.replica.tick(self._now)
            self._settle()

    def _do_write(self, name: str, word: str) -> None:
        replica = self._replica(name)
        try:
            version, cfg = replica.next_place(self._now)
            number = len(self._words) + 1
            replica.propose(Operation(version, cfg, number, 0, number, (version, 0)), self._now)
            self._words[number] = word
        except Refused as refused:
            self._lines.append(f"refused: {refused}")

    def _do_read(self, name: str) -> None:
        replica = self._replica(name)
        may = replica.may_read(replica.read_ticket(), self._now)
        self._lines.append(f"{name} may read" if may else f"{name} may not read")

    def _do_work(self, name: str) -> None:
        replica = self._replica(name)
        while (ready := replica.ready()) is not None:
            self._obey(name, ready)
            replica.advance(ready)

    def _do_deliver(self, sender: str, to: str) -> None:
        for message in self._taken(sender, to):
            replica = self._players[to].replica
            if replica is not None:
                replica.step(message, self._now)
                self._do_work(to)

    def _do_lose(self, sender: str, to: str) -> None:
        self._taken(sender, to)

    def _do_cut(self, name: str) -> None:
        self._cut.add(name)

    def _do_mend(self) -> None:
        self._cut.clear()
        for one in self._players.values():
            for two in self._players.values():
                if one.replica is not None and one is not two:
                    one.replica.reconnected(two.id, self._now)

    def _do_log(self, name: str) -> None:
        disk = self._players[name].disk
        told = ", ".join(self._told(entry) for entry in disk.entries) or "nothing"
        aside = ", ".join(self._told(entry) for entry in disk.quarantine)
        self._lines.append(f"{name}: {told}" + (f"; in quarantine {aside}" if aside else ""))

    # -- the stage -------------------------------------------------------------------------------

    def _obey(self, name: str, ready: Ready) -> None:
        player, replica = self._players[name], self._replica(name)
        if ready.stepped_down:
            self._lines.append(f"{name} steps down: whoever waits is told UNKNOWN")
        proposal = ready.proposal
        if proposal is not None:
            members = " ".join(proposal.members)
            self._lines.append(f"{name} proposes cfg {proposal.cfg} with {members}")
        player.disk.persist(ready)
        if ready.committed > player.disk.checkpoint.version and replica.role == "primary":
            for entry in player.disk.entries:
                known = entry.version in player.words or entry.version > ready.committed
                if entry.request and not known:
                    player.words[entry.version] = self._words[entry.request]
                    self._lines.append(f"{name} commits {self._words[entry.request]}")
        self._network.extend((*ready.prompt, *ready.messages))

    def _settle(self) -> None:
        for _ in range(100):
            for player in self._players.values():
                if player.replica is not None:
                    self._do_work(player.id)
            pairs = sorted({(m.sender, m.to) for m in self._network})
            if not pairs:
                return
            for sender, to in pairs:
                if {sender, to} & self._cut or to not in self._players:
                    self._taken(sender, to)
                else:
                    self._do_deliver(sender, to)
        raise AssertionError("the replicas do not come to rest")

    def _told(self, entry: Operation) -> str:
        return f"{entry.version}/{entry.entry_cfg} {self._words.get(entry.request, 'no-op')}"

    def _replica(self, name: str) -> Replica:
        replica = self._players[name].replica
        assert replica is not None, f"{name} is down"
        return replica

    def _taken(self, sender: str, to: str) -> list[Message]:
        found = [m for m in self._network if (m.sender, m.to) == (sender, to)]
        self._network = [m for m in self._network if (m.sender, m.to) != (sender, to)]
        return found

    def _show_changes(self) -> None:
        for player in self._players.values():
            replica = player.replica
            if replica is None:
                state = "down"
            else:
                state = f"{replica.role}, sealed {replica.state.sealed}"
                state += f", committed {replica.committed} of {replica.prepared}"
                if replica.alarm:
                    state += f", ALARM {replica.alarm}"
            if state != player.shown:
                self._lines.append(f"{player.id}: {state}")
                player.shown = state
