"""What MariaDB's replicas are sent: by GTID, by position, and by what they know of its events."""

from typing import Any

import pytest

from kingbus.binlog.checksum import is_intact
from kingbus.binlog.command import encode
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.ingest import IngestStream
from kingbus.binlog.mariadb import decode_gtid_list
from kingbus.binlog.mariadb_gtid import Position
from kingbus.pb.command_pb2 import Command, Purge, ReceiverSession
from kingbus.replication.dump import DumpRequest
from kingbus.replication.dump_session import Begin, DumpSession
from kingbus.replication.served_rows import Row
from kingbus.replication.worker_frames import begin_out, request_in
from tests.support.events import packets_of
from tests.support.mariadb_events import ROWS, TABLE_MAP, XID, MariaDBFile, some_of_everything
from tests.support.relay_node import RelayNode, by_position

FILE = "mdb-bin.000001"
GTID_LIST = str(int(EventType.GTID_LIST))


def holding(*files: MariaDBFile, batch_bytes: int = 300, start: str = "") -> RelayNode:
    """A node that pulled these files, in batches of a few events."""
    node = RelayNode()
    wanted = ReceiverSession(
        epoch=1,
        source_uuid="mariadb-server-1",
        flavor="mariadb",
        start_set=GtidSet.parse(start).encode(),
    )
    node.command(Command(receiver_session=wanted))
    stream = IngestStream(node.relay.state.resume_point(), batch_bytes=batch_bytes)
    events = [event for file in files for event in file.sent_from(4)]
    for packet in packets_of(events):
        stream.receive(packet)
        for batch in stream.take(idle=False):
            node.commit(encode(Command(event_batch=batch.meta), batch.packets))
    for batch in stream.take(idle=True):
        node.commit(encode(Command(event_batch=batch.meta), batch.packets))
    assert node.relay.state.visible.position == files[-1].position
    return node


def at(position: str, **more: Any) -> DumpRequest:
    """As a MariaDB replica that follows GTIDs asks."""
    known = {"mariadb_capability": 4, "wants_annotations": True}
    request = {"checksum": "CRC32", "non_blocking": True, **known, **more}
    return DumpRequest(kind="gtid", gtid_set=Position.parse(position), **request)


KNOWS_ALL = {"mariadb_capability": 4, "wants_annotations": True}


async def test_by_position_the_file_comes_as_it_is() -> None:
    """Byte for byte, ANNOTATE_ROWS, checkpoints and the GTID_LIST with it."""
    file = some_of_everything()
    replica = await holding(file).dump(by_position(FILE, **KNOWS_ALL))
    assert replica.stored == [event.event for event in file.events]
    for stored in file.events[3:]:
        if stored.start in file.visible_ends():
            rest = await holding(file).dump(by_position(FILE, stored.start, **KNOWS_ALL))
            assert rest.stored[1:] == [e.event for e in file.events if e.start >= stored.start]


@pytest.mark.parametrize("number", range(8))
async def test_by_gtid_what_the_replica_has_is_left_out(number: int) -> None:
    """What begins the file comes all the same, then a GTID_LIST with the end of the stretch."""
    file = some_of_everything()
    replica = await holding(file).dump(at(f"0-1-{number}" if number else ""))
    events = [
        event for event in replica.stored if event[4] != EventType.GTID_LIST or event[17] == 0
    ]
    sent = [e for e in file.events if e.gtid is not None and e.gtid[2] > number]
    description, *rest = events[:3]
    assert rest == [event.event for event in file.events[1:3]]
    # A replica drops its temporary tables at a description that was created: not one that is
    # behind it already.
    stored = file.events[0].event
    assert is_intact(description)
    assert description[71:75] == (bytes(4) if number else stored[71:75])
    assert description[:71] + description[75:-4] == stored[:71] + stored[75:-4]
    assert [e for e in events if e[4] == EventType.GTID_MARIADB] == [e.event for e in sent]
    made = [e for e in replica.stored if e[4] == EventType.GTID_LIST and e[17] == 0x20]
    assert len(made) == (number > 0)
    if made:
        assert str(decode_gtid_list(made[0], crc_bytes=4)) == f"0-1-{number}"
        end = sent[0].start if sent else file.position
        assert int.from_bytes(made[0][13:17], "little") == end
    assert not [kind for kind in replica.kinds if kind.startswith("beat")]


async def test_each_domain_is_left_out_up_to_its_own_end() -> None:
    """A replica may be far in one domain and know nothing of another."""
    file = MariaDBFile().begin()
    file.insert(1, domain=0).insert(1, domain=7).insert(2, domain=0, server=2).insert(2, domain=7)
    replica = await holding(file).dump(at("0-1-1,7-1-1"))
    sent = [e for e in replica.stored if e[4] == EventType.GTID_MARIADB]
    assert sent == [e.event for e in file.events if e.gtid is not None and e.gtid[2] == 2]
    replica = await holding(file).dump(at("0-2-2"))
    sent = [e for e in replica.stored if e[4] == EventType.GTID_MARIADB]
    assert [int.from_bytes(e[27:31], "little") for e in sent] == [7, 7]


@pytest.mark.parametrize(("had", "until"), [(0, 3), (2, 3), (2, 7), (3, 3), (5, 2)])
async def test_a_replica_that_wants_to_get_to_a_position_gets_no_further(
    had: int, until: int
) -> None:
    """The last it is sent is a GTID_LIST that says so, and then the dump ends."""
    file = some_of_everything()
    wanted = Position.parse(f"0-1-{until}")
    request = at(f"0-1-{had}" if had else "", until=wanted, non_blocking=False)
    replica = await holding(file).dump(request)
    assert replica.finished
    sent = [e for e in replica.stored if e[4] == EventType.GTID_MARIADB]
    numbers = range(had + 1, until + 1)
    assert [int.from_bytes(e[19:27], "little") for e in sent] == list(numbers)
    last = replica.stored[-1]
    assert last[4] == EventType.GTID_LIST
    assert int.from_bytes(last[19:23], "little") == 1 << 28 | 1


@pytest.mark.parametrize("more", [0, 1])
async def test_what_a_replica_wants_to_get_to_comes_whole(more: int) -> None:
    """Over however many entries the last transaction goes, and whether anything follows it."""
    file = MariaDBFile().begin().insert(1)
    file.group(0, 1, 2, [(TABLE_MAP[0], b"t" * 30), *[(ROWS[0], b"r" * 400)] * 5, XID])
    wanted = [event.event for event in file.events[1:]]
    for number in range(3, 3 + more):
        file.insert(number)
    request = at("", until=Position.parse("0-1-2"), non_blocking=False)
    replica = await holding(file).dump(request)
    assert replica.finished
    assert replica.stored[1:-1] == wanted
    assert replica.stored[-1][4] == EventType.GTID_LIST


async def test_a_position_in_a_hole_of_the_log_is_one_for_who_is_not_strict() -> None:
    """Numbers before and behind it are there."""
    file = MariaDBFile().begin().insert(1).insert(5).insert(6)
    node = holding(file)
    replica = await node.dump(at("0-1-3"))
    sent = [e for e in replica.stored if e[4] == EventType.GTID_MARIADB]
    assert [int.from_bytes(e[19:27], "little") for e in sent] == [5, 6]
    refusal = (await node.dump(at("0-1-3", strict=True))).refusal
    assert refusal is not None and "missing the GTID 0-1-3 requested" in refusal.message


async def test_positions_that_do_not_fit_are_refused_in_mariadbs_words() -> None:
    """Purged, ahead, diverged; a domain that the log does not know is another source's."""
    first = some_of_everything().rotate("mdb-bin.000002")
    second = some_of_everything("mdb-bin.000002", first=8, gtids=GtidSet.parse("0-1-7"))
    node = holding(first, second)
    assert (await node.dump(at("0-1-14,9-9-9"))).refusal is None
    ahead = (await node.dump(at("0-1-15"))).refusal
    assert ahead is not None and ahead.code == 1236
    assert ahead.message == (
        "Error: connecting slave requested to start from GTID 0-1-15, which is not in the "
        "master's binlog"
    )
    diverged = (await node.dump(at("0-5-9"))).refusal
    assert diverged is not None and "diverged due to executing extra" in diverged.message
    assert (await node.dump(at("0-1-3"))).refusal is None
    node.command(Command(purge=Purge(first_index=node.relay.state.files[1].first_index)))
    purged = (await node.dump(at("0-1-3"))).refusal
    assert purged is not None and "Could not find GTID state requested" in purged.message
    assert (await node.dump(at("0-1-7"))).refusal is None


async def test_the_newest_file_that_fits_is_the_one_begun_with() -> None:
    """As for MySQL's replicas; file and position of a replica that comes back do not count."""
    first = some_of_everything().rotate("mdb-bin.000002")
    second = some_of_everything("mdb-bin.000002", first=8, gtids=GtidSet.parse("0-1-7"))
    node = holding(first, second)
    assert (await node.dump(at("0-1-8"))).kinds[0] == "rotate* mdb-bin.000002:4"
    assert (await node.dump(at("0-1-6"))).kinds[0] == "rotate* mdb-bin.000001:4"


@pytest.mark.parametrize("capability", range(5))
@pytest.mark.parametrize("annotate", [True, False])
async def test_older_replicas_get_what_they_know(capability: int, annotate: bool) -> None:
    """Nothing of MariaDB's own that they do not know; positions go on without a hole that they
    could not stand, and every other event is untouched."""
    file = some_of_everything()
    known = {"mariadb_capability": capability, "wants_annotations": annotate}
    for request in (by_position(FILE, **known), at("0-1-2", **known)):
        replica = await holding(file).dump(request)
        types = {event[4] for event in replica.stored}
        if capability < 4:
            assert EventType.GTID_MARIADB not in types
        if capability < 3:
            assert EventType.BINLOG_CHECKPOINT not in types
        if not annotate and capability != 1:
            assert EventType.ANNOTATE_ROWS not in types
        own = range(160, 164)
        untouched = [event for event in replica.stored if event[4] not in own]
        stored = [event.event for event in file.events if event.event[4] not in own]
        if request.kind == "position":
            assert [event for event in untouched if event in stored] == stored
            if capability < 2:
                assert len(replica.stored) == len(file.events)


@pytest.mark.parametrize("size", [0xFFFFFF - 1, 0xFFFFFF + 9, 2 * 0xFFFFFF - 1])
@pytest.mark.parametrize("batch_bytes", [300, 16 << 20])
@pytest.mark.parametrize("capability", [0, 4])
async def test_a_large_annotation_is_left_out_in_all_its_packets(
    size: int, batch_bytes: int, capability: int
) -> None:
    """A statement of 16 MiB has an event as large, which lies in several entries."""
    file = MariaDBFile().begin().insert(1)
    large = (EventType.ANNOTATE_ROWS, b"a" * (size - 19 - 4))
    file.group(0, 1, 2, [large, TABLE_MAP, ROWS, XID]).insert(3)
    node = holding(file, batch_bytes=batch_bytes)
    rows = [e.event for e in file.events if 19 <= e.event[4] < 160]
    for request, expected in (
        (by_position(FILE, mariadb_capability=capability), rows),
        (at("0-1-1", mariadb_capability=capability, wants_annotations=False), rows[2:]),
        (at("0-1-2", mariadb_capability=capability, wants_annotations=False), rows[4:]),
    ):
        replica = await node.dump(request)
        assert replica.refusal is None and replica.finished
        assert [event for event in replica.events if event in rows] == expected
        assert max(map(len, replica.events)) < 1000


async def test_a_client_of_mysql_gets_begin_for_a_gtid() -> None:
    """So that it finds transactions where it knows them; a heartbeat is of the first form."""
    file = some_of_everything()
    request = by_position(FILE, heartbeat_v2_accepted=True)
    replica = await holding(file).dump(request)
    assert not {event[4] for event in replica.stored} & set(range(160, 164))
    assert len(replica.stored) == len(file.events)


def test_a_batch_goes_out_unread_only_to_who_knows_all_of_it() -> None:
    """Else it is looked at, whatever its size."""
    file = MariaDBFile().begin()
    for number in range(1, 1500):
        file.insert(number)
    node = holding(file, batch_bytes=100 << 10)
    state = node.relay.state
    (index, row), *_ = [
        (index, row) for index, row in node.database.rows.items() if row.HasField("first_sequence")
    ]
    for request, is_whole in ((by_position(FILE, **KNOWS_ALL), True), (by_position(FILE), False)):
        session = DumpSession(request, server_id=1)
        begin = session.start(state)
        assert isinstance(begin, Begin)
        session.open(begin, file.events[0].event)
        session.position = row.start_position
        assert session.is_whole(Row(index, row), 0, state.files[0]) is is_whole


def test_a_worker_is_told_what_a_mariadb_replica_said() -> None:
    """Its position, an empty one too, and what it knows."""
    until = Position.parse("0-1-9")
    for request in (
        at("0-1-5,3-1-2", until=until),
        at(""),
        by_position(FILE, mariadb_capability=3),
    ):
        begin = begin_out(1, request, file=1, position=4, next_sequence=1, server_id=9)
        assert request_in(begin) == request
