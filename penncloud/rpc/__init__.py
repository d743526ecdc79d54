"""Peer-to-peer messages between PennCloud's own processes: framing, authentication, deadlines."""
