"""`penncloud torture`: a real cluster under real faults, and a verdict on what its users saw.

Exit code 0: what was promised was kept; 1: it was not, or the run did not come to its end; 2: usage.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver

from penncloud.cli._exits import DONE, FAILED
from penncloud.cli._reactor import run_command
from penncloud.cluster.layout import Layout
from penncloud.platform.environment import Environment
from penncloud.platform.errors import ConfigurationError
from penncloud.platform.lockfile import DirectoryLock
from penncloud.platform.parent import end_with
from penncloud.platform.supervisor import Supervised
from penncloud.platform.tls import Credentials
from penncloud.torture.bed import Bed, Size
from penncloud.torture.crew import MemberLost
from penncloud.torture.disks import NoMounts, SmallDisks
from penncloud.torture.evidence import Evidence, verdict
from penncloud.torture.faults import NEMESES
from penncloud.torture.lan import Lan, Loopback, Namespaces, NoNamespaces
from penncloud.torture.member import Member
from penncloud.torture.messages import Plan
from penncloud.torture.picture import svg
from penncloud.torture.run import Order, Run

_MAX_MINUTES: Final = 24 * 60
# What a directory of an earlier run has in it; no other directory that is not empty is used.
_MARK: Final = "torture"


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "torture",
        help="disturb a real cluster and judge what its users saw",
        description="Starts a cluster of its own, uses it while servers are killed, stopped, cut off and"
        " robbed of their disks, and judges what the users were told.",
        epilog="docs/torture.md describes the faults, the checks and the picture.",
    )
    add = parser.add_argument
    add("--minutes", type=float, default=1.0, metavar="M", help="length (default: %(default)g)")
    known = ",".join(NEMESES)
    add("--nemesis", default=known, metavar="KINDS", help=f"some of {known} (default: all)")
    add("--seed", type=int, metavar="S", help="of the faults and the users (default: by chance)")
    add("--data", metavar="DIR", help="keep logs and data there (default: a temporary directory)")
    add(
        "--report",
        default="torture.svg",
        metavar="FILE",
        help="the picture (default: ./%(default)s)",
    )
    add(
        "--storage", type=int, default=3, metavar="N", help="storage servers (default: %(default)s)"
    )
    add(
        "--members",
        type=int,
        default=3,
        metavar="N",
        help="processes of users (default: %(default)s)",
    )
    add("--member", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.member is not None:
        return _be_member(msgspec.json.decode(arguments.member, type=Plan))
    if not 0 < arguments.minutes <= _MAX_MINUTES:
        raise ConfigurationError(f"--minutes: above 0, at most {_MAX_MINUTES}")
    if not (1 <= arguments.storage <= 20 and 1 <= arguments.members <= 20):
        raise ConfigurationError("--storage, --members: from 1 to 20")
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    directory = _directory(arguments.data)
    lock = DirectoryLock(str(directory))
    kept = True
    try:
        code = _torture(arguments, directory, seed)
        kept = code != DONE or arguments.data is not None
    finally:
        lock.release()
        if kept:
            print(f"logs and configuration are in {directory}")
        else:
            shutil.rmtree(directory)
    return code


def _directory(data: str | None) -> Path:
    """Where to work. Raises ConfigurationError for a directory that is not ours to empty."""
    if data is None:
        directory = Path(tempfile.mkdtemp(prefix="penncloud-torture-"))
    else:
        directory = Path(data).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            foreign = any(directory.iterdir()) and not (directory / _MARK).exists()
        except OSError as error:
            raise ConfigurationError(f"--data {directory}: {error.strerror}") from error
        if foreign:
            raise ConfigurationError(
                f"--data {directory}: it is not empty, and not of an earlier run"
            )
    (directory / _MARK).write_text("Made by `penncloud torture`, which empties it.\n")
    for path in (directory / "logs").glob("*"):
        path.unlink()
    return directory


# -- what there is to be had here ----------------------------------------------------------------


@define
class _Means:
    """What this machine lets us do; `nemeses` are those of the wanted that it does."""

    lan: Lan
    small_disks: SmallDisks | None
    nemeses: tuple[str, ...] = ()
    missing: list[str] = field(factory=list)


def _means(wanted: str, directory: Path) -> _Means:
    """Raises ConfigurationError for an unknown kind of fault, or when none can be had."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in wanted.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in NEMESES]
    if unknown:
        raise ConfigurationError(
            f"--nemesis: there is no {unknown[0]}; there are {', '.join(NEMESES)}"
        )
    means = _Means(Loopback(), None)
    why: dict[str, str] = {}
    try:
        means.lan = Namespaces()
    except NoNamespaces as error:
        why["partition"] = str(error)
    if "disk-full" in kinds:
        try:
            means.small_disks = SmallDisks()
            means.small_disks.try_out(directory)
        except NoMounts as error:
            means.small_disks = None
            why["disk-full"] = str(error)
    means.nemeses = tuple(kind for kind in kinds if kind not in why)
    means.missing = [f"not available: {kind}: {why[kind]}" for kind in kinds if kind in why]
    if kinds and not means.nemeses:
        means.lan.remove()
        raise ConfigurationError("; ".join(means.missing))
    return means


# -- the run -------------------------------------------------------------------------------------


def _torture(arguments: argparse.Namespace, directory: Path, seed: int) -> int:
    means = _means(arguments.nemesis, directory)
    for line in means.missing:
        print(line)
    where = "hosts with addresses of their own" if means.lan.can_cut else "one host for all"
    print(f"seed {seed}; {', '.join(means.nemeses) or 'no faults'}; {where}", flush=True)
    evidence = Evidence(notes=list(means.missing))
    order = Order(seed, arguments.minutes * 60, means.nemeses)

    async def torture(environment: Environment) -> int:
        bed = Bed(
            environment.reactor,
            Layout.at(str(directory)),
            means.lan,
            Size(storages=arguments.storage, members=arguments.members),
            now=environment.now,
            small_disks=means.small_disks,
            clocks="clock" in means.nemeses,
            changed=_tell,
        )
        playing = Run(environment, bed, order, directory, _say, evidence)
        return await _play(environment, bed, playing)

    with (directory / "torture.log").open("w") as log:
        globalLogBeginner.beginLoggingTo([textFileLogObserver(log)], redirectStandardIO=False)
        code = run_command(torture)
    for line in verdict(evidence):
        print(line)
    title = f"penncloud torture --seed {seed} --minutes {arguments.minutes:g}"
    Path(arguments.report).write_text(svg(evidence, title))
    print(f"the picture is in {arguments.report}")
    return code


async def _play(environment: Environment, bed: Bed, run: Run) -> int:
    """Make the bed, play, and take everything down, also where a signal ends the run."""
    interrupted = False
    playing: Deferred[None] = Deferred()

    def asked() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            _say("stopping")
            playing.cancel()

    def on_signal(*_: object) -> None:
        environment.reactor.callFromThread(asked)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    try:
        bed.make()
        playing = Deferred.fromCoroutine(run.play())
        await playing
    except MemberLost as error:
        run.evidence.violated([str(error)])
    except BaseException:
        if not interrupted:
            raise
        run.evidence.violated(["interrupted: the last round was not judged"])
    finally:
        await run.end()
    return FAILED if run.evidence.violations else DONE


def _say(line: str) -> None:
    print(line, flush=True)


def _tell(process: Supervised) -> None:
    if process.state == "waiting":
        _say(f"{process.id} ended by itself: {process.last_end}; it is started again")


# -- users ---------------------------------------------------------------------------------------


def _be_member(plan: Plan) -> int:
    """One process of users; ends with its parent, or when its stdin ends."""
    end_with(plan.parent)
    # Ctrl-C is for the run, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def serve(environment: Environment) -> int:
        member = Member(environment, plan)
        StandardIO(member, reactor=environment.reactor)
        await member.ended
        await member.leave()
        return DONE

    return run_command(serve, Credentials.at(plan.tls_dir, plan.name))
