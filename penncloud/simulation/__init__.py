"""A whole cluster in one process, on a simulated clock, network and disks.

Bottom-up: `timeline` (what happens when), `trace` (what happened), `network` and `sockets`, `disk`,
`process` (a reactor of its own), `host`, `world`. Above them `cluster` assembles the real nodes,
`faults` disturbs them, `workloads` uses them, `checkers` judges what the users saw, `scenario` draws all
of that from one seed, and `run` plays it. `docs/simulation.md` is the way in.
"""
