"""Readers that stay attached, at a source or at a node, and when transactions came to them."""

from scripts.benchmark.figures import number_of
from tests.support import servers
from tests.support.cluster import LISTENER_PASSWORD, LISTENER_USER, KingbusNode
from tests.support.raw_reader import RawReader
from tests.support.servers import MySQLServer
from tests.support.waiting import wait_for


def attach(
    server: MySQLServer | KingbusNode, held: str, *, heartbeat_seconds: float = 0.5
) -> RawReader:
    """A reader that has `held` already and waits for more; it stands at the end when it returns.

    `held` must be what the server has, or less.
    """
    if isinstance(server, MySQLServer):
        port, user, password = (
            server.port,
            servers.REPLICATION_USER,
            servers.REPLICATION_PASSWORD,
        )
    else:
        port, user, password = server.listen_port, LISTENER_USER, LISTENER_PASSWORD
    reader = RawReader(
        host=server.host,
        port=port,
        user=user,
        password=password,
        gtid_set=held,
        heartbeat_seconds=heartbeat_seconds,
        server_id=2000 + port % 1000,
    )
    try:
        # What a dump begins with: the name of the file and its FORMAT_DESCRIPTION.
        wait_for(
            lambda: reader.seen.events >= 2,
            what=f"the dump on port {port} to begin",
            explain=lambda: reader.seen,
        )
    except BaseException:
        reader.close()
        raise
    return reader


def arrivals(reader: RawReader) -> dict[int, float]:
    """When each transaction came, by its number, on the monotonic clock."""
    seen = reader.seen
    came = len(seen.transactions)
    return {
        number_of(gtid): at
        for gtid, at in zip(seen.transactions[:came], seen.arrived[:came], strict=True)
    }
