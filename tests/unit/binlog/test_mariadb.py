"""MariaDB's GTIDs, events and streams, and what it makes of them for clients that know less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog import artificial
from kingbus.binlog.checksum import is_intact
from kingbus.binlog.errors import (
    BeginsInsideError,
    EncryptedStreamError,
    FatalSourceErrorPacket,
    GapError,
    HeadReceivedError,
    InconsistentTransactionError,
    MalformedEventError,
    MalformedStreamError,
    ReplacedAtSourceError,
    SourceLostTailError,
    error_packet,
)
from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import query_text
from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError, format_gtid
from kingbus.binlog.ingest import IngestStream, ResumePoint
from kingbus.binlog.mariadb import MariaDBGtid, decode_gtid_list, fake_gtid_list
from kingbus.binlog.mariadb_compat import replacement, types_to_change
from kingbus.binlog.mariadb_gtid import MalformedPositionError, Position, key_of
from kingbus.binlog.relay_state import RelayState
from kingbus.crc import crc32
from kingbus.pb.command_pb2 import Command, ReceiverSession
from tests.support.events import packets_of
from tests.support.mariadb_events import MariaDBFile, some_of_everything

NUMBERS = st.integers(1, 60)
SERVERS = st.tuples(st.integers(0, 3), st.integers(1, 3))


def gtids(text):
    return GtidSet.parse(text)


# GTIDs ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(SERVERS, NUMBERS, NUMBERS)))
def test_sets_of_mariadb_survive_text_and_bytes(parts):
    """With holes, and with numbers that do not begin at 1."""
    made = GtidSet()
    for (domain, server), one, other in parts:
        made.add(key_of(domain, server), "", min(one, other), max(one, other))
    assert gtids(str(made)) == made
    assert GtidSet.decode(made.encode()) == made


@given(st.dictionaries(st.integers(0, 3), st.tuples(st.integers(1, 3), NUMBERS)))
def test_a_position_is_the_end_of_each_domain(last):
    """As text, and as the end of a set, whoever of the domain's servers wrote the rest of it."""
    position = Position(last)
    assert Position.parse(str(position)) == position
    made = gtids(str(position))
    for domain, (server, number) in last.items():
        made.add(key_of(domain, server + 1), "", 1, number - 1) if number > 1 else None
    assert Position.of(made) == position
    assert position.contains(made)
    beyond = {domain: (1, number + 1) for domain, (_, number) in last.items()}
    assert Position(beyond).covers(position)
    assert not last or not position.covers(Position(beyond))
    assert Position(beyond).beyond(position) == Position(beyond)


@pytest.mark.parametrize("text", ["0-1", "0-1-0", "0-1-x", "4294967296-1-1", "0-1-5..4", "0-1-5-6"])
def test_what_is_no_gtid_of_mariadb_is_named(text):
    """Both where a set and where a position is read."""
    with pytest.raises(MalformedGtidSetError, match=r"0-1|4294967296"):
        gtids(text)
    with pytest.raises(MalformedPositionError, match="domain-server-sequence"):
        Position.parse(text)


def test_gtids_are_written_as_mariadb_writes_them():
    """In sets, alone, and beside MySQL's, which look alike at their beginning."""
    uuid = "10000000-1111-2222-3333-444444444444:1-5"
    assert str(gtids(f"0-1-5,{uuid}")) in {f"0-1-5,{uuid}", f"{uuid},0-1-5"}
    assert format_gtid(key_of(7, 2101), "", 9) == "7-2101-9"
    assert Position.every_end(gtids("0-1-3..5:8..9,0-2-5,1-1-1")) == "0-1-9,0-2-5,1-1-1"


# Events -----------------------------------------------------------------------------------------


GTID_CAPTURED = bytes.fromhex(
    "4469006b a2 35080000 2a000000 7e010000 0800 0900000000000000 00000000 0c 000000000000 4a942fd5"
)
EMPTY_LIST_CAPTURED = bytes.fromhex(
    "2969006b a3 35080000 1d000000 1d010000 0000 00000000 0000 c1678923"
)
FAKE_LIST_CAPTURED = bytes.fromhex(
    "00000000 a3 35080000 2b000000 28020000 2000 01000000 00000000 35080000 0900000000000000"
    "543e4b21"
)


def test_captured_events_are_read() -> None:
    """From a server of 10.11; what is made up is what it makes, byte for byte."""
    gtid = MariaDBGtid.decode(GTID_CAPTURED)
    assert (gtid.domain, gtid.server, gtid.sequence, gtid.flags) == (0, 2101, 9, 0x0C)
    assert not decode_gtid_list(EMPTY_LIST_CAPTURED, crc_bytes=4)
    assert str(decode_gtid_list(FAKE_LIST_CAPTURED, crc_bytes=4)) == "0-2101-9"
    position = Position.parse("0-2101-9")
    assert fake_gtid_list(position, 552, server_id=2101, crc=True) == FAKE_LIST_CAPTURED
    begin = replacement(GTID_CAPTURED, 0, crc=True)
    assert begin is not None and query_text(begin, crc_bytes=4) == b"BEGIN"
    for size in range(len(EMPTY_LIST_CAPTURED) - 4):
        with pytest.raises(MalformedEventError):
            decode_gtid_list(FAKE_LIST_CAPTURED[:size], crc_bytes=0)


@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("capability", range(5))
@pytest.mark.parametrize("annotate", [True, False])
def test_replacements_have_the_length_of_what_they_replace(crc, capability, annotate):
    """And an intact checksum; what is left out is so only for who tolerates holes."""
    table = types_to_change(capability, annotate=annotate)
    for stored in some_of_everything(crc=crc).events:
        if not table[stored.event[4]]:
            continue
        made = replacement(stored.event, capability, crc=crc)
        if made is None:
            assert capability >= 2
            continue
        assert len(made) == len(stored.event)
        assert made[4] in {EventType.QUERY, EventType.USER_VAR}
        assert not crc or is_intact(made)
        # Size, position and time stay; who reads on finds the next event where it is.
        assert made[:4] + made[5:17] == stored.event[:4] + stored.event[5:17]
        if made[4] == EventType.QUERY:
            text = query_text(made, crc_bytes=4 if crc else 0)
            assert text == b"BEGIN" or b"# Dummy event".startswith(text[:13])
            is_group = stored.event[4] == EventType.GTID_MARIADB and not stored.event[31] & 1
            assert (text == b"BEGIN") == is_group
    assert not types_to_change(4, annotate=True).any()


# Streams ----------------------------------------------------------------------------------------


def fresh(**changed):
    facts = {
        "channel": 0,
        "epoch": 1,
        "session": 1,
        "by_position": False,
        "file_name": "",
        "position": 0,
        "executed": GtidSet(),
        "file_created": 0,
        "file_start": None,
        "last_transaction": None,
        "dump_position": 4,
    }
    return ResumePoint(**{**facts, **changed})


def ingest(resume, events, *, piece=1 << 20, batch_bytes=1 << 20, crc=True):
    data = b"".join(packets_of(events))
    stream = IngestStream(resume, batch_bytes=batch_bytes, first_rotate_has_crc=crc)
    batches = []
    for at in range(0, len(data), piece):
        stream.receive(data[at : at + piece])
        batches += stream.take(idle=True)
    batches += stream.take(idle=True)  # where it raises what went wrong in the end
    return batches


def packets_in(batch):
    """Where each packet of a batch begins and ends."""
    starts = list(memoryview(batch.meta.packet_offsets).cast("I"))
    return zip(starts, [*starts[1:], len(batch.packets)], strict=True)


def visible_ends(batches):
    return {batch.meta.visible_position for batch in batches}


@pytest.mark.parametrize("piece", [7, 61, 400, 1 << 20])
@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("gathered", [True, False])
def test_transactions_end_where_mariadb_ends_them(piece, crc, gathered):
    """However the stream is cut, only ends of transactions are visible, and all GTIDs count;
    whether events inside a group say where they end or not, they are stored as they came."""
    file = some_of_everything(crc=crc, gathered=gathered)
    batches = ingest(fresh(), file.sent_from(4), piece=piece, batch_bytes=200, crc=crc)
    state = applied(batches)
    assert visible_ends(batches) <= set(file.visible_ends()) | {
        batch.meta.start_position for batch in batches
    }
    assert str(state.executed) == "0-1-7"
    assert state.visible.position == file.position
    assert state.flavor == "mariadb"
    assert sum(len(batch.meta.transaction_packets) // 4 for batch in batches) == 7
    kept = b"".join(batch.packets[at + 5 : to] for batch in batches for at, to in packets_in(batch))
    assert kept == b"".join(event.event for event in file.events)


def applied(batches, *, state=None, flavor="mariadb", start_set=None):
    """A relay state that has taken these batches in one session."""
    state = state or RelayState()
    session = ReceiverSession(
        epoch=1,
        source_uuid="mariadb-server-1",
        flavor=flavor,
        start_set=(start_set or GtidSet()).encode(),
    )
    changes = state.apply(state.index + 1, Command(receiver_session=session))
    assert changes.accepted, changes.reason
    number = state.session
    for sequence, batch in enumerate(batches):
        meta = batch.meta
        meta.session, meta.sequence = number, sequence
        changes = state.apply(
            state.index + 1, Command(event_batch=meta), packet_bytes=len(batch.packets)
        )
        assert changes.accepted, changes.reason
    return state


def test_a_resume_by_position_goes_on_in_the_same_file():
    """From every end of a transaction: nothing is missed, and nothing taken twice."""
    file = some_of_everything()
    for end in file.visible_ends()[3:]:
        whole = [event.event for event in file.events if event.end <= end]
        rotate = artificial.fake_rotate(file.name, 4, server_id=1, crc=True)
        state = applied(ingest(fresh(), [rotate, *whole]))
        session = ReceiverSession(epoch=1, source_uuid="mariadb-server-1", flavor="mariadb")
        assert state.apply(state.index + 1, Command(receiver_session=session)).accepted
        point = state.resume_point()
        assert point.by_position
        batches = ingest(point, file.sent_from(point.dump_position))
        state = applied(batches, state=state)
        assert (str(state.executed), state.visible.position) == ("0-1-7", file.position)


def test_a_start_in_the_middle_leaves_a_gap_and_resumes_by_gtid():
    """MariaDB tells the end of what it skips by an artificial GTID_LIST."""
    file = some_of_everything()
    skipped = next(e.start for e in file.events if e.gtid is not None and e.gtid[2] == 4)
    had = gtids("0-1-3")
    told = fake_gtid_list(Position.of(had), skipped, server_id=1, crc=True)
    head = [event.event for event in file.events[:3]]
    tail = [event.event for event in file.events if event.start >= skipped]
    rotate = artificial.fake_rotate(file.name, 4, server_id=1, crc=True)
    batches = ingest(fresh(executed=had.copy()), [rotate, *head, told, *tail])
    state = applied(batches, start_set=had)
    assert [(gap.start, gap.end) for gap in state.files[0].gaps] == [(file.events[2].end, skipped)]
    assert str(state.executed) == "0-1-7"
    assert not state.resume_point().by_position
    # Once more from there: all is known, and the file grows on.
    more = [MariaDBFile(file.name)]
    more[0].position, more[0].events = file.position, []
    more[0].insert(8)
    told = fake_gtid_list(Position.of(state.executed), file.position, server_id=1, crc=True)
    session = ReceiverSession(epoch=1, source_uuid="mariadb-server-1", flavor="mariadb")
    assert state.apply(state.index + 1, Command(receiver_session=session)).accepted
    grown = [event.event for event in more[0].events]
    batches = ingest(state.resume_point(), [rotate, *head, told, *grown])
    state = applied(batches, state=state)
    assert (str(state.executed), state.visible.position) == ("0-1-8", more[0].position)


def test_an_event_that_is_missing_is_noticed_where_positions_are_left_out():
    """At the latest by the end of its group, which says where it is; nothing of it is kept."""
    file = some_of_everything(gathered=True)
    sent = list(file.sent_from(4))
    inside = [at for at, event in enumerate(sent) if at and event[13:17] == bytes(4)]
    assert len(inside) >= 8
    for at in inside:
        with pytest.raises((MalformedStreamError, InconsistentTransactionError)):
            ingest(fresh(), sent[:at] + sent[at + 1 :])
        artificial_one = bytearray(sent[at])
        artificial_one[17] |= 0x20
        with pytest.raises(MalformedStreamError, match="artificial"):
            ingest(fresh(), [*sent[:at], artificial_event(artificial_one), *sent[at + 1 :]])


def artificial_event(event):
    event[-4:] = crc32(event[:-4]).to_bytes(4, "little")
    return bytes(event)


def test_a_file_that_begins_inside_gets_its_head_by_position_first():
    """As sources with a GTID index begin it; what lies between is a gap, or is not missing."""
    file = some_of_everything(gathered=True)
    head = file.events[1].end
    skipped = next(e.start for e in file.events if e.gtid is not None and e.gtid[2] == 4)
    for had, begins in ((gtids("0-1-3"), skipped), (GtidSet(), head)):
        with pytest.raises(BeginsInsideError, match=f"{file.name} at position {begins}") as caught:
            ingest(fresh(executed=had.copy()), file.begun_inside(begins, had))
        assert caught.value.file_name == file.name

        stream = IngestStream(fresh(executed=had.copy()), head_only=True)
        stream.receive(b"".join(packets_of(file.sent_from(4))))
        batches = stream.take(idle=True)
        with pytest.raises(HeadReceivedError):
            stream.take(idle=True)
        state = applied(batches, start_set=had)
        assert state.visible.position == head

        session = ReceiverSession(epoch=1, source_uuid="mariadb-server-1", flavor="mariadb")
        assert state.apply(state.index + 1, Command(receiver_session=session)).accepted
        point = state.resume_point()
        sent = file.sent_from(head) if point.by_position else file.begun_inside(begins, had)
        assert point.by_position == (not had)
        state = applied(ingest(point, sent), state=state)
        assert (str(state.executed), state.visible.position) == ("0-1-7", file.position)
        gaps = [(gap.start, gap.end) for gap in state.files[0].gaps]
        assert gaps == ([(head, skipped)] if had else [])


def test_what_cannot_be_relayed_is_refused_in_one_sentence():
    """Encrypted files, numbers that do not rise in a domain, and what the source purged."""
    file = MariaDBFile().format_description().add(EventType.START_ENCRYPTION, bytes(17))
    with pytest.raises(EncryptedStreamError, match="not available yet"):
        ingest(fresh(), file.sent_from(4))
    file = MariaDBFile().begin().insert(5, server=1).insert(4, server=2)
    with pytest.raises(InconsistentTransactionError, match="0-2-4 behind number 5 of domain 0"):
        ingest(fresh(), file.sent_from(4))
    file = MariaDBFile().begin(gtids("0-1-3,0-2-9"))
    with pytest.raises(GapError, match="0-2-"):
        ingest(fresh(executed=gtids("0-1-3")), file.sent_from(4))
    # A position of the domain is enough, whoever of its servers wrote the last.
    assert ingest(fresh(executed=gtids("0-2-9")), file.sent_from(4))


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (4052, "A slave with the same server_uuid/server_id is already", ReplacedAtSourceError),
        (1236, "start replication from impossible position; the first", SourceLostTailError),
        (1236, "Could not find GTID state requested by slave in any", FatalSourceErrorPacket),
    ],
)
def test_mariadbs_errors_are_understood(code, text, kind):
    """As the same ones of MySQL, which has other numbers and words for them."""
    assert type(error_packet(code, "HY000", text)) is kind


def test_a_second_gtid_list_is_no_part_of_a_file():
    """It would be the beginning of another one."""
    file = some_of_everything().gtid_list()
    with pytest.raises(MalformedStreamError, match="GTID_LIST"):
        ingest(fresh(), file.sent_from(4), batch_bytes=200, piece=100)


def test_the_flavor_is_that_of_the_first_file():
    """A session of the other flavor is ignored by every node alike, with both named."""
    state = applied(ingest(fresh(), some_of_everything().sent_from(4)))
    session = ReceiverSession(epoch=2, source_uuid="x", flavor="mysql")
    changes = state.apply(state.index + 1, Command(receiver_session=session))
    assert changes.reason == ("the log is of a mariadb source, the session of a mysql source")
    # While nothing is held there is nothing that would not fit.
    empty = RelayState()
    assert empty.apply(1, Command(receiver_session=session)).accepted
    session.flavor = "mariadb"
    assert empty.apply(2, Command(receiver_session=session)).accepted
    assert empty.flavor == ""
