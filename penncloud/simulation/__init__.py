"""A whole cluster in one process, on a simulated clock, network and disks.

Bottom-up: `timeline` (what happens when), `trace` (what happened), `network` and `sockets`, `disk`,
`process` (a reactor of its own), `host`, `world`. Above them `cluster` assembles the real nodes,
`faults` disturbs them, `scenario` draws all of that and the workloads of `penncloud.judge` from one
seed and plays it. `docs/simulation.md` is the way in.
"""
