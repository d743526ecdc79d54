"""How long nobody takes mail on a host when the process that has its SMTP port is killed.

`python -m bench.mail_takeover [--kills N]` starts a local cluster whose frontend stands by for the mail
server, and kills (SIGKILL) whichever of the two has the port, again and again, each time when the other
stands by. The time is that from the kill to the greeting of the next connection, which is tried every
`_PAUSE_S`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_PAUSE_S = 0.002
_PATIENCE_S = 120.0
_PORTS = 29


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mail_takeover", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--base-port", type=int, default=26_100, help="and the 29 after it are free"
    )
    arguments = parser.parse_args()
    # Ended by a signal, too, we end what we have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="penncloud-bench-") as directory:
        data = Path(directory) / "data"
        port = arguments.base_port + _PORTS
        ports = [f"--base-port={arguments.base_port}", f"--smtp-port={port}"]
        shared = ["--set=smtp.standby=true", f"--set=http.mail_config={data}/etc/smtp-1.toml"]
        try:
            _penncloud("up", "--detach", "--http=1", *ports, *shared, data=data)
            gaps = [_gap_s(data, port) for _ in range(arguments.kills)]
        finally:
            _penncloud("down", data=data)
    print(
        f"{len(gaps)} kills: median {statistics.median(gaps):.3f} s,"
        f" shortest {min(gaps):.3f} s, longest {max(gaps):.3f} s"
    )


def _penncloud(*arguments: str, data: Path) -> str:
    command = [sys.executable, "-m", "penncloud.cli", *arguments, f"--data={data}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _pair(data: Path) -> list[dict[str, Any]] | None:
    """The mail server and the frontend, the one that has the port first; None unless both are there."""
    nodes = json.loads(_penncloud("status", "--json", data=data))["nodes"]
    found = {node["role"]: node for node in nodes if node["state"] == "live"}
    if not {"smtp", "http"} <= set(found) or not found["http"]["mail"]:
        return None
    pair = [found["smtp"], found["http"]]
    return pair[::-1] if found["http"]["mail"] == "serves mail" else pair


def _gap_s(data: Path, port: int) -> float:
    deadline = time.monotonic() + _PATIENCE_S
    before = None
    # Twice the same: the one that was killed last stands by, and is not taken for alive still.
    while (pair := _pair(data)) is None or pair != before:
        before = pair
        if time.monotonic() > deadline:
            raise SystemExit("the two servers of mail do not come up")
        time.sleep(1)
    os.kill(pair[0]["pid"], signal.SIGKILL)
    killed = time.monotonic()
    while not _greets(port):
        if time.monotonic() > deadline:
            raise SystemExit("nobody takes mail")
        time.sleep(_PAUSE_S)
    return time.monotonic() - killed


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(100).startswith(b"220")
    except OSError:
        return False


if __name__ == "__main__":
    main()
