"""The web frontend alone, over an in-memory store: for looking at pages while working on them.

    python -m tests.web.demo [PORT]

Everything is forgotten when it ends. There is an account `admin` with the password `password`.
"""

from __future__ import annotations

import random
import secrets
import sys
import time

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner, textFileLogObserver

from penncloud.client.directory import NodeInfo
from penncloud.platform.environment import Environment
from penncloud.platform.threads import BoundedPool
from tests.web.frontend import start_frontend


def main() -> None:
    from twisted.internet import reactor as global_reactor

    reactor: object = global_reactor
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8081
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    pool = BoundedPool(reactor)
    pool.start()
    global_reactor.addSystemEventTrigger("before", "shutdown", pool.stop)
    environment = Environment(
        reactor=reactor,
        now=time.time,
        random=random.Random(),
        entropy=secrets.token_bytes,
        run_in_thread=pool,
    )
    frontend = start_frontend(reactor, port=port, environment=environment)
    frontend.directory.set(
        NodeInfo("storage", "storage-1", "127.0.0.1", 8700, 1001, "live"),
        NodeInfo("storage", "storage-2", "127.0.0.1", 8701, 1002, "suspected"),
        NodeInfo("http", "http-1", "127.0.0.1", port, 1003, "live"),
    )
    accounts = frontend.context.accounts
    Deferred.fromCoroutine(
        accounts.create("admin", "password", reserved_names=True, default_password=True)
    ).addErrback(lambda failure: failure.printTraceback())
    print(f"http://localhost:{frontend.port}/", flush=True)
    global_reactor.run()


if __name__ == "__main__":
    main()
