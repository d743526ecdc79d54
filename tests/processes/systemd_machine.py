"""A machine of its own with a real systemd as its first process: namespaces over this machine's files.

Everything that is written goes to memory and is gone with the machine; /opt/penncloud/bin has `twistd` and
`penncloud` of this checkout. The network is this machine's. It takes root, namespaces and systemd:
`why_not()` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import twisted
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
_SYSTEMD = "/lib/systemd/systemd"

# $1: a directory for the machine; $2, $3, $4: Python's installation, its packages, the checkout.
_BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
mkdir -p opt/python opt/packages opt/checkout opt/penncloud/bin
mount --bind "$2" opt/python
mount --bind "$3" opt/packages
mount --bind "$4" opt/checkout
for each in run tmp dev root home; do mount -t tmpfs -o mode=755 tmpfs $each; done
chmod 1777 tmp
for each in null zero full random urandom tty; do
    touch dev/$each
    mount --bind /dev/$each dev/$each
done
mkdir dev/shm dev/pts
ln -s /proc/self/fd dev/fd
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
rm -f etc/systemd/system/*.wants/*
for each in twistd penncloud; do
    cp "$1.$each" opt/penncloud/bin/$each
    chmod 755 opt/penncloud/bin/$each
done
exec chroot . /usr/bin/env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --log-target=null --show-status=no
"""

_PROGRAM = """#!/bin/sh
export PYTHONPATH=/opt/checkout:/opt/packages PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/opt/python/lib
exec {python} -P -c '{code}' "$@"
"""
_CODE = {
    "twistd": 'import sys; sys.argv[0] = "twistd"; from twisted.scripts.twistd import run; run()',
    "penncloud": "from penncloud.cli import main; main()",
}


def why_not() -> str:
    """What is missing for such a machine; "" if it can be had."""
    if os.geteuid() != 0:
        return "only root can boot a systemd in namespaces"
    if not Path(_SYSTEMD).exists():
        return "systemd is not installed (apt install systemd)"
    probe = ["unshare", "-m", "-p", "-f", "-u", "-i", "-C", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode != 0:
        return "no namespaces can be made here"
    return ""


class SystemdMachine:
    """Boots when it is made; `destroy` ends it and leaves nothing."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="penncloud-machine-"))
        base = Path(sys.base_prefix)
        python = f"/opt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
        for name, code in _CODE.items():
            program = Path(f"{self._directory}.{name}")
            program.write_text(_PROGRAM.format(python=python, code=code))
        self._cgroup = self._make_cgroup()
        script = f'echo $$ > "{self._cgroup}/cgroup.procs"; exec unshare "$@"'
        namespaces = ["-m", "-p", "-f", "-u", "-i", "-C", "--kill-child", "--mount-proc"]
        packages = Path(twisted.__file__).parents[1]
        with Path(f"{self._directory}.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "unshare", *namespaces, "bash", "-c", _BOOT, "boot"]
                + [str(path) for path in (self._directory, base, packages, ROOT)],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self._init = self._first_process()
        self._wait_until_up()

    def _make_cgroup(self) -> Path:
        """A group of its own, so that its systemd does not take the whole tree for its own."""
        top = Path("/sys/fs/cgroup")
        parent = top if (top / "cgroup.controllers").exists() else top / "systemd"
        group = parent / self._directory.name
        group.mkdir()
        return group

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for pid in children.read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                        return int(pid)
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        said = Path(f"{self._directory}.log").read_text("utf-8", "replace")
        raise AssertionError(f"the machine does not boot: {said}")

    def _wait_until_up(self) -> None:
        def up() -> bool:
            said = self.run("systemctl", "is-system-running", expect=None).stdout.strip()
            return said in ("running", "degraded")

        wait_until(up, "systemd does not come up", PATIENCE_S)

    def run(
        self, *command: str, expect: int | None = 0, timeout_s: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root."""
        enter = ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-C", "-r", "-w"]
        clean = ["env", "-i", "PATH=/opt/penncloud/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]
        done = subprocess.run(
            [*enter, *clean, *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def write(self, path: str, text: str) -> None:
        """A file in the machine; its directory is made."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; printf %s "$2" > "$1"', "sh", path, text)

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={key}", "--value").stdout.strip()

    def journal(self, unit: str, *options: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, *options).stdout

    def kill(self, unit: str, which: signal.Signals) -> None:
        self.run("kill", f"-{which.value}", self.show(unit, "MainPID"))

    def destroy(self) -> None:
        # All its processes end with the first one.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._process.wait(timeout=PATIENCE_S)
        shutil.rmtree(self._directory)
        for name in (*_CODE, "log"):
            Path(f"{self._directory}.{name}").unlink()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            groups = sorted(self._cgroup.rglob("*/"), key=lambda path: -len(path.parts))
            try:
                for group in [*groups, self._cgroup]:
                    group.rmdir()
                return
            except OSError:
                time.sleep(0.1)  # The kernel has not taken leave of all processes yet.
        raise AssertionError(f"{self._cgroup} is still in use")
