"""The replicated store beside etcd and Redis: the same load on each, in turns, on one machine.

    python -m bench.kv                          # everything, about half an hour
    python -m bench.kv --quick                  # a few points, about two minutes
    python -m bench.kv --systems penncloud,etcd --sizes 100 --clients 16,64 --loads put

It starts each cluster itself (three storage servers and three coordinators; three etcd members; a Redis
primary with two replicas) from Debian's packages etcd-server and redis-server; one that is not
installed is left out with a word. All of them keep their data in one directory, on one disk.

A *client* is one connection with one request under way (PennCloud: one to each server, as each is primary
of some rows). Clients run in child processes, all on the same asyncio loop with a protocol of the same
kind, that writes ready-made bytes and looks for the end of a reply: RESP for Redis, the text protocol for
PennCloud, and for etcd gRPC over HTTP/2 with frames made by hand, because grpcio's own cost would be
most of what is measured. Requests to etcd go to its leader, which spares it the hop from a follower.

Writes are durable on a majority or more: PennCloud answers when every member has synced (`2pc`), etcd when
a majority has, Redis (`appendfsync always`) is asked to `WAIT 1` for one replica. PennCloud's mutations carry
a request id, as its own client sends them. Reads are linearizable at PennCloud and etcd, plain at Redis.

`load` and `wires` are the clients, `systems` starts the servers, `failover` kills a leader under load.
"""
