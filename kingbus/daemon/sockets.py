"""The addresses of a node, bound before anything is written.

So a port in use changes nothing. Must not know what is served there. The replica-facing listener
is not here: it is opened and closed while the node runs.
"""

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from kingbus.addresses import Address
from kingbus.admin.serving import ListenError, bind, listen
from kingbus.daemon.options import Options


@dataclass(slots=True, kw_only=True)
class Sockets:
    """Bound addresses; `peer` does not listen yet, and is None for a standalone node."""

    peer: socket.socket | None
    admin: socket.socket
    metrics: socket.socket

    def close(self) -> None:
        for each in (self.peer, self.admin, self.metrics):
            if each is not None:
                each.close()


def open_sockets(options: Options) -> Sockets:
    """Raises ListenError: one line that names key and address."""
    config = options.config
    with ExitStack() as opened:

        def keep(each: socket.socket) -> socket.socket:
            opened.callback(each.close)
            return each

        def default_or_free(address: Address, what: str) -> socket.socket:
            try:
                return keep(listen(address, what=what))
            except ListenError:
                if not options.standalone:
                    raise
                return keep(listen(Address(host=address.host, port=0), what=what))

        peer = None
        if not options.standalone:
            peer = keep(bind(options.peer_listen or config.peer_url.address, what="peer-url"))
        sockets = Sockets(
            peer=peer,
            admin=default_or_free(config.admin_listen, "admin-url"),
            metrics=default_or_free(config.metrics_addr, "metrics-addr"),
        )
        opened.pop_all()
    return sockets
