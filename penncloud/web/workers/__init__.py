"""A frontend as several processes: one that holds the port and looks after the others, which serve.

Theory of operation
    The *front* (`front.py`) binds the port and never accepts. Each *worker* (`worker.py`) inherits the
    listening socket and accepts from it, so the kernel's one queue of connections outlives any worker: while
    none is there to accept, connections wait instead of being refused. What a frontend does once (its
    registration, the first admin, the sweeping, the mail server it may stand by for) the front does.

    `pool.py` keeps the workers alive: one that dies is replaced, with growing pauses; one that stands still
    is killed, which replaces it. Renewing starts for each worker a successor, and only when that serves lets
    the old one *retire*: it accepts no more, finishes what it has begun, within a bound, and ends.

    Front and worker speak in lines of JSON (`words.py`) over two pipes. A worker whose front has died sees
    the pipe end, and ends. What it logs goes through the front, so a frontend has one log.
"""
