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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Bound addresses; `peer` does not listen yet, and is None for a standalone node."""

    peer: socket.socket | None
    admin: socket.socket
    metrics: socket.socket


def open_sockets(options: Options, stack: ExitStack) -> Sockets:
    """Closed by `stack`. Raises ListenError: one line that names key and address."""

    def default_or_free(address: Address, what: str) -> socket.socket:
        try:
            return stack.enter_context(listen(address, what=what))
        except ListenError:
            if not options.standalone:
                raise
            return stack.enter_context(listen(Address(host=address.host, port=0), what=what))

    config, peer = options.config, None
    if options.peer_listen is not None:
        peer = stack.enter_context(bind(options.peer_listen, what="peer-url"))
    return Sockets(
        peer=peer,
        admin=default_or_free(config.admin_listen, "admin-url"),
        metrics=default_or_free(config.metrics_addr, "metrics-addr"),
    )
