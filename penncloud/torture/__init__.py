"""A real cluster, real processes, real faults: what users saw is judged as in the simulation.

Bottom-up: `lan` (an address and a network for each host), `bed` (the cluster's processes and disks, and what
can be done to them), `faults` (what is done, and when), `messages` and `member` (users, in processes of
their own), `crew` (those processes, as the run sees them), `evidence` (what was seen, put together and
judged), `picture` (the same, drawn), `run` (from the first process to the verdict). `docs/torture.md`
is the way in.
"""
