"""How a member's receiver reaches the scripted source: implements `receiver.Connect`.

The source is the first layer's; here it gets a connection's manners: it answers late, refuses while
it is down, sends a heartbeat when it has nothing else, and reads the dump command from its bytes.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.resume import ResumePoint
from kingbus.mysql.commands import BinlogDump, BinlogDumpGtid, decode_command
from kingbus.mysql.constants import Capability
from kingbus.pb.command_pb2 import TlsOptions
from kingbus.replication.source_connection import HEARTBEAT_SECONDS, SILENCE_SECONDS_MAX
from kingbus.replication.source_facts import SourceFacts, SourceUnreachableError
from kingbus.secrets import Secret
from tests.simulation.source import Connection

if TYPE_CHECKING:
    from tests.simulation.nodes.member import Member

ANSWER_SECONDS = 0.005


class SourceDoor:
    """The way from one member to the source."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    async def connect(
        self, address: str, *, user: str, password: Secret, tls: TlsOptions, compression: str
    ) -> "SourceLink":
        assert address == "source:3306"
        link = SourceLink(self._member)
        await link.wait()
        return link


class SourceLink:
    """One connection; see `source_connection.SourceConnection`."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._world = member.world
        self._generation = self._world.source.generation
        self._connection: Connection | None = None
        self._term = 0
        self._is_closed = False

    async def wait(self) -> None:
        """An answer comes, or the source is gone."""
        rng = self._world.rng("source answers")
        await trio.sleep(ANSWER_SECONDS * rng.expovariate(1))
        self._check()

    def _check(self) -> None:
        world = self._world
        if not world.source_is_up or self._generation != world.source.generation:
            raise SourceUnreachableError("source:3306: connection lost")

    async def ask(self, *, replica_uuid: str, heartbeat_seconds: float) -> SourceFacts:
        await self.wait()
        return replace(self._world.source.facts(), clock=int(trio.current_time()))

    async def gtid_sets(self) -> tuple[GtidSet, GtidSet, GtidSet]:
        await self.wait()
        facts = self._world.source.facts()
        return facts.gtid_executed, facts.gtid_purged, facts.gtid_owned

    async def newest_file(self) -> str:
        raise AssertionError("it has GTIDs")

    async def request_semi_sync(self) -> str:
        await self.wait()
        return ""

    async def register(self, *, server_id: int, port: int) -> None:
        await self.wait()

    async def send(self, data: bytes) -> None:
        raise AssertionError("a source without semi-sync is told nothing")

    async def start_dump(self, command: int, body: bytes) -> None:
        world, member = self._world, self._member
        await trio.lowlevel.checkpoint()
        self._check()
        self._term = member.node.leadership.term
        if self._term:
            with world.watching():
                world.checks.note_pull(self._term, member.id)
        world.note("pull", member.name, f"term {self._term}")
        self._connection = world.source.connect(_point(command, body))
        world.source_changed()

    def read_now(self, room: memoryview) -> int | None:
        world, connection = self._world, self._connection
        assert connection is not None
        with world.watching():
            self._check_leads()
        if not world.source_is_up:
            return 0
        size = min(len(room), world.rng("source chunks").choice(world.options.chunks))
        data = connection.read(size)
        if data is None:
            return 0
        if not data:
            return None
        room[: len(data)] = data
        return len(data)

    def _check_leads(self) -> None:
        """Invariant 19: who leads no more stops pulling at once."""
        member = self._member
        lost = member.lost_leadership.get(self._term)
        assert not self._term or lost is None or lost == trio.current_time(), (
            f"{member.name} pulls in term {self._term}, which it lost at {lost:.3f}"
        )

    async def wait_readable(self) -> None:
        connection, world = self._connection, self._world
        assert connection is not None
        with trio.move_on_after(SILENCE_SECONDS_MAX):
            while True:
                if connection.is_closed or not world.source_is_up:
                    return
                connection._advance()
                if connection._pending:
                    return
                with trio.move_on_after(HEARTBEAT_SECONDS) as silence:
                    await world.wait_source()
                file = connection.file
                if silence.cancelled_caught and file is not None and world.source_is_up:
                    connection._put(file.heartbeat(file.position))
        raise SourceUnreachableError("source:3306: nothing came, not even a heartbeat")

    def close(self) -> None:
        self._is_closed = True


def _point(command: int, body: bytes) -> Any:
    """What the dump command asks for, as the source takes it."""
    payload = bytes((command,)) + body
    found = decode_command(payload, capabilities=Capability(0), charset=45)
    assert isinstance(found, BinlogDump | BinlogDumpGtid), found
    by_position = isinstance(found, BinlogDump)
    executed = GtidSet() if isinstance(found, BinlogDump) else GtidSet.decode(found.gtid_set)
    return ResumePoint(
        channel=0,
        epoch=0,
        session=0,
        by_position=by_position,
        file_name=found.file,
        position=found.position,
        executed=executed,
        file_created=0,
        file_start=None,
        last_transaction=None,
        dump_position=found.position,
    )
