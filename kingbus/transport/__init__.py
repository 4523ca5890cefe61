"""Frames between members: two lanes per peer for Raft messages, and calls.

`Transport` is the door: made for one member of a `Cluster`, given a host that takes what comes
(`TransportEvents`; `SilentEvents` is a base for one that needs only some), and a listener to serve.
`codec` is the wire form; `call` asks a member that is known by its address only.
"""

from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member
from kingbus.transport.connection import open_listener
from kingbus.transport.errors import (
    AddressInUseError,
    CallRefusedError,
    HelloRefusedError,
    PeerUnreachableError,
    TransportError,
)
from kingbus.transport.peer import PeerFacts, SilentEvents, Timings, TransportEvents
from kingbus.transport.transport import CallReply, Transport

__all__ = [
    "AddressInUseError",
    "CallRefusedError",
    "CallReply",
    "Cluster",
    "HelloRefusedError",
    "Member",
    "PeerFacts",
    "PeerUnreachableError",
    "SilentEvents",
    "Timings",
    "Transport",
    "TransportError",
    "TransportEvents",
    "open_listener",
]
