"""A relay's serving side over a log that grows as the captured server's did.

Everything between the socket and the log is the product's: the listener, the answers, the dumps,
the relay state, and the ingest that cuts the server's events into batches. Left out are Raft and
the disk. The relay is given the captured server's own id and uuid, so that neither has to be left
out of any comparison, nor a checksum that follows from them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from kingbus.addresses import Address
from kingbus.binlog.command import encode
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.ingest import IngestStream
from kingbus.mysql import auth
from kingbus.pb.command_pb2 import Command, ReceiverSession, SourceConfig
from kingbus.replication.binlog_server import BinlogServer
from kingbus.replication.dump import DumpProgress, DumpRequest, run_dump
from kingbus.replication.receiver import ReceiverStatus
from kingbus.replication.served_facts import ServedFacts
from kingbus.replication.streams import SendingSink
from kingbus.replication.users import FailedLogins, new_user, stored_user
from tests.support.events import frame
from tests.support.relay_node import RelayNode
from tests.unit.replication.served_facts import MemoryAdministration
from tests.wire.history import History

KEY = auth.PrivateKey.generate()
PASSWORD = "hunter2"
USERS = tuple(
    stored_user(new_user(name, PASSWORD, ("replication", "monitor"))) for name in ("repl", "kb")
)
"""Who logs in, in all captures."""


async def _stopped() -> ReceiverStatus:
    return ReceiverStatus(status="stopped")


async def _no_purge(*, to: str, before: float | None) -> None:
    raise AssertionError((to, before))


class WireRelay:
    """One relay, at first without a log; `grow` adds to it what the server had by then."""

    def __init__(self, history: History, first_file: str) -> None:
        self.node = RelayNode()
        self.now = 0.0
        """Seconds since 1970, by which the relay answers."""
        flavor = "mariadb" if history.kind == "mariadb" else "mysql"
        start = GtidSet.decode(history.previous_of(first_file)) if flavor == "mysql" else GtidSet()
        config = SourceConfig(
            addresses=["source:3306"],
            flavor=flavor,
            server_id=history.server_id,
            server_uuid=history.server_uuid,
        )
        session = ReceiverSession(
            epoch=1,
            source_uuid=history.server_uuid or f"mariadb-server-{history.server_id}",
            source_id=history.server_id,
            source_version=history.version,
            flavor=flavor,
            start_set=start.encode(),
            variables={"binlog_row_metadata": "NO_LOG"} if flavor == "mariadb" else {},
        )
        self.node.command(Command(source_config=config))
        self.node.command(Command(receiver_session=session))
        assert self.node.relay.state.session, "the session was accepted"
        self._stream = IngestStream(self.node.relay.state.resume_point())
        self._rest: Sequence[tuple[str, int, bytes]] = history.stream(first_file)
        self._at = 0
        self._sequence = 1
        self.facts = ServedFacts(
            cluster_id=1,
            relay=self.node.relay,
            receiver=_stopped,
            listening=lambda: self.server.address,
            hostname="relay-1",
            purge=_no_purge,
            administration=MemoryAdministration(),
            until_purge=lambda _index: 1 << 30,
        )
        self.server = BinlogServer(
            facts=self.facts, dumper=self._dump, rsa_key=KEY, clock=lambda: self.now
        )

    async def _dump(
        self, request: DumpRequest, *, sink: SendingSink, progress: DumpProgress
    ) -> None:
        perform = partial(run_dump, self.node.relay, identity=self.facts)
        await perform(request, sink=sink, progress=progress)

    def grow(self, file: str, position: int) -> None:
        """Hold everything up to there; of a transaction in which that is, all.

        In batches as large as they become when all of it comes at once.
        """
        while not self._has(file, position):
            assert self._at < len(self._rest), (file, position)
            while self._at < len(self._rest) and self._rest[self._at][:2] <= (file, position):
                self._receive_next()
            self._commit()
            if not self._has(file, position):
                self._receive_next()  # more of the transaction

    def _has(self, file: str, position: int) -> bool:
        visible = self.node.relay.state.visible
        return (visible.file_name, visible.position) >= (file, position)

    def _receive_next(self) -> None:
        packets, self._sequence = frame(b"\0" + self._rest[self._at][2], self._sequence)
        self._at += 1
        self._stream.receive(packets)

    def _commit(self) -> None:
        for batch in self._stream.take(idle=True):
            self.node.commit(encode(Command(event_batch=batch.meta), batch.packets))

    def users_as(self, *, is_cached: bool, name: str) -> None:
        """Whether a full login went before, which decides which dialog a client has."""
        self.server.users.replace(())
        self.server.users.replace(USERS)
        self.server.failed_logins = FailedLogins()
        account = self.server.users.account(name)
        if is_cached and account.verifier is not None:
            self.server.users.remember(account, PASSWORD.encode())


@asynccontextmanager
async def serving(history: History, first_file: str) -> AsyncIterator[WireRelay]:
    """A relay that listens on a free port of loopback."""
    relay = WireRelay(history, first_file)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.server.run)
        await relay.server.start(Address(host="127.0.0.1", port=0))
        yield relay
        nursery.cancel_scope.cancel()
