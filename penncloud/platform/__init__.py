"""Everything that touches the machine: disk, clocks, threads, configuration, logs, metrics.

The only room that may read a clock, start a thread or open a file. All others get what they need
from here as arguments, so that a whole cluster can run in one process on simulated machinery.
"""
