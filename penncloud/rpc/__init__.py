"""Calls between PennCloud's own processes: framing, authentication, deadlines, connections that return.

`protocol.py` is one connection, `server.py` accepts them, `client.py` keeps one alive, `switch.py` lets
the rpc and the text protocol share a port, `registration.py` is what every role tells the coordinators.
"""
