"""Replication of one group, pure: machines of messages and local clock readings; no I/O, no clock of
their own.

A server holds one `replica.Replica` per group. It decides what is committed; what an entry means, where
logs lie and how messages travel is its driver's. The contract between the two is `messages.Ready`. The
shape is that of PacificA (Lin et al., "PacificA: Replication in Log-Based Distributed Storage Systems"):
configurations by consensus, data by primary and secondaries. docs/replication.md tells the protocol and
why it holds.
"""
