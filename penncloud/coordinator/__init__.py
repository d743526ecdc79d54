"""The coordinator: which servers there are, whether they live, and who holds which tablet.

`state.py` is what is decided (a deterministic machine), `log.py` keeps its commands on disk, and
`decisions.py` drives the two. `detector.py` tells who lives; that is observed, not decided, and never
written down. `members.py` talks to the servers, `text.py` and `directory.py` answer clients, `node.py`
puts all together. `messages.py` is what others call.
"""
