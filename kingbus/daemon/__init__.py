"""One node as a process: options in, an exit code out.

    process     `main`: the event loop, and what is said of an error that ends it
    options     what a process is started with, secrets included
    signals     SIGTERM and SIGINT as the wish to stop
    sockets     addresses, bound before anything is written
    start       from the directory to what a node is built on: identity, log, relay state
    member      the object graph, the tree of tasks and the order in which they stop
    endpoints   the admin API and the metrics over HTTP
    keeper      the task that takes the steps by which configured and stored come together,
    configured  of which these are those for source and listener,
    attributes  and for what the other members are told of this one
    disk        what log and index take of the reserve
    newness     the proof that a new voter is new
    watched     the relay as the node's state machine, which tells when configuration changed
    room        what a full disk makes the node wait for
    recover     a stopped member becomes the only voter of a new cluster
    repair      a stopped member's damaged files are put right with what a peer holds
    turns       how long one turn of the event loop takes
    worker      threads for calls that block

`process` knows `start` and `member`, and `member` the rest; these are given what they need.
"""

from kingbus.daemon.options import NO_PEER_URL, Options, RefusedError, options_of
from kingbus.daemon.process import main

__all__ = ["NO_PEER_URL", "Options", "RefusedError", "main", "options_of"]
