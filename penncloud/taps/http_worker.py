"""The main program of a frontend's worker, started by its front; see `web.workers`.

    python -m penncloud.taps.http_worker FRONT_PID ID NUMBER REACTOR [CONFIGURATION]

What it is to do it hears through its standard input, see `web.workers.process`. Of the arguments it needs the
front's pid and the reactor that `[cluster]` names; the others are for people who look at processes.
"""

from __future__ import annotations

import sys

from penncloud.taps._reactor import choose_reactor

if __name__ == "__main__":
    choose_reactor(sys.argv[4])
    # It imports Klein, which imports the reactor.
    from penncloud.taps._http_worker import main

    main(int(sys.argv[1]))
