"""Raft, pure: a node is a state machine of messages and ticks; it does no I/O and reads no clock.

The core's contract with its driver is that of etcd's raft: `Ready` names what to persist, then what to send,
then what to apply, in this order. Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm" (the paper), and Ongaro's dissertation for pre-vote, membership changes, ReadIndex and transfer.
"""
