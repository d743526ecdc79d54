"""The main program of a supervised role: twistd, bound to the agent that started it.

    python -m penncloud.cluster.child AGENT_PID LOGFILE penncloud-ROLE --config FILE

It is `twistd -n --pidfile= penncloud-ROLE --config FILE` with three differences, all of them about not
being a nuisance: it ends when its agent has died, it is not in the terminal's process group (so that
Ctrl-C reaches the agent alone, which stops all in order), and its log is rotated and bounded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from twisted.logger import ILogObserver, textFileLogObserver
from twisted.python.logfile import LogFile
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions
from twisted.scripts.twistd import runApp

from penncloud.platform.json_log import JsonLog
from penncloud.platform.parent import end_with

# A log is one file of at most so many bytes, and so many older ones.
LOG_BYTES: Final = 8 * 1024 * 1024
LOG_FILES: Final = 4


def bounded_log(path: str, log_format: str) -> ILogObserver:
    """A log observer that writes to `path`, in the format that `[cluster]` says."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file: Any = LogFile.fromFullPath(
        path, rotateLength=LOG_BYTES, maxRotatedFiles=LOG_FILES, defaultMode=0o600
    )
    return JsonLog(file) if log_format == "json" else textFileLogObserver(file)


def main(arguments: Sequence[str]) -> None:
    parent, log, *role = arguments
    os.setsid()
    end_with(int(parent))
    options = ServerOptions()
    try:
        options.parseOptions(["-n", "--pidfile=", *role])
    except UsageError as error:
        raise SystemExit(str(error)) from error
    log_format = options.subOptions.cluster.log_format
    options["logger"] = lambda: bounded_log(log, log_format)
    runApp(options)


if __name__ == "__main__":
    main(sys.argv[1:])
