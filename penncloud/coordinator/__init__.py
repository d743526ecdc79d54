"""The coordinators: which servers there are, whether they live, and who holds which tablet.

`state.py` is what is decided (a deterministic machine). `decisions.py` drives it and the Raft node below it,
`raft_store.py` keeps that node's log on disk, `peers.py` talks to the other coordinators, `founding.py` and
`group.py` make them a group. `detector.py` tells who lives; that is observed, not decided, and never
written down. `members.py` talks to the servers, `text.py` and `directory.py` answer clients, `node.py`
puts all together. `messages.py` is what others call, `group_messages.py` what coordinators tell each other.
"""
