"""The stream of a source made into batches: any cut, any corruption, every way to resume."""

import contextlib
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog import artificial
from kingbus.binlog.errors import (
    AnonymousTransactionError,
    ChecksumMismatchError,
    DifferentFileError,
    EventTooLargeError,
    FatalSourceErrorPacket,
    GapError,
    InconsistentTransactionError,
    MalformedStreamError,
    SourceError,
    SourceLostTailError,
    StreamEndedError,
)
from kingbus.binlog.event_types import EventType
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.ingest import ENTRY_BYTES_MAX, IngestStream, ResumePoint
from kingbus.binlog.relay_state import RelayState
from kingbus.pb.command_pb2 import Command, ReceiverSession
from tests.support.events import MODERN, OLD, BinlogFile, packets_of, query

A = bytes(range(16))
B = bytes(range(100, 116))
BEGIN = (EventType.QUERY, query(b"BEGIN"))
XID = (EventType.XID, bytes(8))
COMMIT = (EventType.QUERY, query(b"COMMIT"))
SHORT_PACKETS = 400  # instead of 16 MiB: an event above it spans several packets


def rows(size):
    return EventType.WRITE_ROWS, bytes(at & 0xFF for at in range(size))


def insert():
    return [BEGIN, (EventType.TABLE_MAP, b"t" * 30), rows(40), XID]


def fresh(**changed):
    facts = {
        "channel": 0,
        "epoch": 3,
        "session": 77,
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


def resume_in(file, position, batches, *, executed=None, dump_position=None):
    """The resume point behind `position` of a file that `batches` were taken from."""
    last = None
    for batch in batches:
        if batch.meta.HasField("last_transaction"):
            last = batch.meta.last_transaction
    start = next(b.meta.file_start for b in batches if b.meta.HasField("file_start"))
    return fresh(
        by_position=True,
        file_name=file.name,
        position=position,
        executed=executed or GtidSet(),
        file_created=start.created,
        file_start=start,
        last_transaction=last,
        dump_position=last.start_position if dump_position is None else dump_position,
    )


def ingest(stream, packets, *, idle=True):
    """Everything at once, then the batches."""
    stream.receive(b"".join(packets))
    return take_all(stream, idle=idle)


def take_all(stream, *, idle=True):
    batches = stream.take(idle=idle)
    more = batches
    while more:
        more = stream.take(idle=idle)
        batches += more
    return batches


def failure_of(stream, packets):
    """What was handed out before the error, and the error."""
    stream.receive(b"".join(packets))
    batches = []
    for _ in range(1000):
        try:
            batches += stream.take(idle=True)
        except SourceError as error:
            return batches, error
    raise AssertionError("the stream goes on")


def events_of(batches, *, length_max=0xFFFFFF):
    """The events in the packets of batches, put together."""
    events, continues = [], False
    for batch in batches:
        offsets = np.frombuffer(batch.meta.packet_offsets, "<u4").tolist()
        assert offsets[:1] == [0]
        at = 0
        for offset in offsets:
            assert at == offset
            length = int.from_bytes(batch.packets[at : at + 3], "little")
            payload = batch.packets[at + 4 : at + 4 + length]
            if continues:
                events[-1] += payload
            else:
                assert payload[0] == 0
                events.append(payload[1:])
            continues = length == length_max
            at += 4 + length
        assert at == len(batch.packets)
    return events


def visible_bytes(batches):
    """Per batch, how many bytes its visible packets have."""
    for batch in batches:
        offsets = np.frombuffer(batch.meta.packet_offsets, "<u4").tolist()
        ends = [*offsets[1:], len(batch.packets)]
        yield ends[batch.meta.visible_packets - 1] if batch.meta.visible_packets else 0


def check_against_relay_state(batches, *, epoch=3, session=77):
    """The replicated state machine takes every batch, and sees what the stream saw."""
    state = RelayState()
    begun = ReceiverSession(epoch=epoch, source_uuid="u", term=1, member_id=1)
    assert state.apply(session, Command(receiver_session=begun)).accepted
    for at, batch in enumerate(batches, session + 1):
        changes = state.apply(at, Command(event_batch=batch.meta), packet_bytes=len(batch.packets))
        assert changes.accepted, changes.reason
    return state


# -- any stream, any cut ------------------------------------------------------------------------

bodies = st.one_of(st.integers(0, 60), st.integers(0, 60), st.integers(350, 1700))


@st.composite
def transactions(draw, version):
    uuid = draw(st.sampled_from([A, A, A, B]))
    tag = draw(st.sampled_from(["", "", "", "tag"])) if version == MODERN else ""
    kind = draw(st.sampled_from(["rows", "rows", "ddl", "myisam", "before"]))
    parts = {
        "rows": [BEGIN, *[rows(draw(bodies)) for _ in range(draw(st.integers(0, 4)))], XID],
        "ddl": [(EventType.QUERY, query(b"CREATE TABLE t (a INT)" + b" " * draw(bodies)))],
        "myisam": [BEGIN, (EventType.QUERY, query(b"INSERT" + b" " * draw(bodies))), COMMIT],
        "before": [(EventType.INTVAR, bytes(9)), (EventType.QUERY, query(b"INSERT"))],
    }[kind]
    return uuid, tag, parts


@st.composite
def logs(draw):
    """Two or three files of transactions, with or without checksums, with or without lengths."""
    version, crc = draw(st.sampled_from([MODERN, OLD])), draw(st.booleans())
    executed, next_number, files = GtidSet(), {}, []
    for which in range(draw(st.integers(1, 3))):
        file = BinlogFile(f"bin.{which:06}", version=version, crc=crc, created=1000 + 100 * which)
        file.begin(executed)
        for uuid, tag, parts in draw(st.lists(transactions(version), max_size=6)):
            number = next_number.get((uuid, tag), 1)
            if draw(st.integers(0, 9)) == 0:
                number += 2
            next_number[uuid, tag] = number + 1
            file.transaction(uuid, number, parts, tag=tag)
            executed.add(uuid, tag, number, number)
        if draw(st.booleans()):
            file.rotate(f"bin.{which + 1:06}")
        else:
            file.stop()
        files.append(file)
    return files, executed


@settings(max_examples=150, deadline=None)
@given(logs(), st.data())
def test_any_cut_gives_the_same_events_and_true_metas(log, data):
    """However the bytes arrive, the packets are the source's and each meta tells the truth."""
    files, executed = log
    sent = [event for file in files for event in file.sent_from(4)]
    packets = packets_of(sent, length_max=SHORT_PACKETS)
    whole = b"".join(packets)
    stream = IngestStream(
        fresh(),
        batch_bytes=data.draw(st.sampled_from([1, 100, 400, 3000, 1 << 20])),
        packet_length_max=SHORT_PACKETS,
        first_rotate_has_crc=files[0].crc,
    )
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    batches, edges = [], sorted({0, *cuts, len(whole)})
    for low, high in pairwise(edges):
        stream.receive(whole[low:high])
        batches += stream.take(idle=data.draw(st.booleans()))
    batches += stream.take(idle=True)

    stored = [event for file in files for event in file.events]
    assert events_of(batches, length_max=SHORT_PACKETS) == [event.event for event in stored]
    rotates = packets_of(sent, length_max=SHORT_PACKETS)
    kept = [p for p, e in zip(rotates, sent, strict=True) if struct.unpack_from("<I", e, 13)[0]]
    assert b"".join(batch.packets for batch in batches) == b"".join(kept)
    assert stream.events == len(stored)
    assert stream.bytes == sum(len(batch.packets) for batch in batches)
    check_metas(files, batches)
    state = check_against_relay_state(batches)
    assert state.executed == executed
    assert state.visible.position == files[-1].position
    assert stream.open_transaction_bytes == 0


def check_metas(files, batches):
    by_name = {file.name: file for file in files}
    numbers = {file.name: [] for file in files}
    before = None
    for sequence, batch in enumerate(batches):
        meta, file = batch.meta, by_name[batch.meta.file_name]
        assert (meta.session, meta.sequence, meta.epoch, meta.channel) == (77, sequence, 3, 0)
        is_first = meta.HasField("file_start")
        if is_first:
            assert meta.start_position == 4
            assert meta.file_start.created == file.created
            assert meta.file_start.server_version == file.version
            assert meta.file_start.checksum_algorithm == file.crc
            assert GtidSet.decode(meta.file_start.previous_gtids).encode() in file.events[1].event
        else:
            assert meta.start_position == before.end_position
            assert meta.file_name == before.file_name
            assert meta.begins_in_event == before.ends_in_event
            assert meta.begins_in_transaction == before.ends_in_transaction
        before = meta
        here = [e for e in file.events if meta.start_position < e.end <= meta.end_position]
        visible = [e.end for e in here if e.transaction is None or e.ends]
        assert meta.visible_position == max(visible, default=meta.start_position)
        assert bool(meta.visible_packets) == bool(visible)
        sequence_ids = [batch.packets[at + 3] for at in offsets_of(meta)]
        assert meta.HasField("first_sequence")
        assert sequence_ids == [(meta.first_sequence + n) & 255 for n in range(len(sequence_ids))]
        starts = np.frombuffer(meta.transaction_packets, "<u4").tolist()
        runs = [(r.uuid, r.tag, n) for r in meta.gtid_runs for n in range(r.first, r.last + 1)]
        assert len(starts) == len(runs)
        offsets = np.frombuffer(meta.packet_offsets, "<u4").tolist()
        for packet in starts:
            assert batch.packets[offsets[packet] + 9] in {EventType.GTID, EventType.GTID_TAGGED}
        numbers[meta.file_name] += runs
        ended = [e for e in here if e.ends]
        carried = bool(ended) and meta.begins_in_transaction
        assert meta.closes_transaction == carried
        assert meta.visible_transactions == len(ended) - carried
        if ended:
            first = next(e for e in file.events if e.transaction == ended[-1].transaction)
            last = meta.last_transaction
            assert (last.start_position, last.end_position) == (first.start, ended[-1].end)
            for crc, event in ((last.first_event_crc, first), (last.last_event_crc, ended[-1])):
                assert crc == crc_of(event.event, crc=file.crc)
        times = [struct.unpack_from("<I", e.event)[0] for e in here]
        if times and not meta.ends_in_event and not meta.begins_in_event:
            assert (meta.first_time, meta.last_time) == (times[0], times[-1])
    for file in files:
        assert numbers[file.name] == [e.gtid for e in file.events if e.begins]


def offsets_of(meta):
    return np.frombuffer(meta.packet_offsets, "<u4").tolist()


def crc_of(event, *, crc):
    return struct.unpack("<I", event[-4:])[0] if crc else zlib.crc32(event)


@settings(max_examples=300, deadline=None)
@given(logs(), st.data())
def test_a_corrupt_byte_is_never_visible(log, data):
    """With checksums a change of any byte stops the stream; what was handed out is the source's."""
    files, _ = log
    if not files[0].crc:
        return
    sent = [event for file in files for event in file.sent_from(4)]
    packets = packets_of(sent, length_max=SHORT_PACKETS)
    kept = b"".join(
        p for p, e in zip(packets, sent, strict=True) if struct.unpack_from("<I", e, 13)[0]
    )
    whole = bytearray(b"".join(packets))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    stream = IngestStream(
        fresh(),
        batch_bytes=data.draw(st.sampled_from([100, 3000])),
        packet_length_max=SHORT_PACKETS,
    )
    batches, failed = [], False
    try:
        stream.receive(bytes(whole))
        for _ in range(100):
            batches += stream.take(idle=True)
    except SourceError:
        failed = True

    place = 0
    for batch, visible in zip(batches, visible_bytes(batches), strict=True):
        assert kept[place : place + visible] == batch.packets[:visible]
        place += len(batch.packets)
    # A changed length may leave the stream waiting for the rest of a packet.
    assert failed or place < len(kept)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_garbage_raises_only_the_streams_errors(garbage, where):
    """Any bytes behind a good beginning are waited on or refused with a SourceError."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    packets = packets_of(file.sent_from(4))[:where]
    stream = IngestStream(fresh())
    stream.receive(b"".join(packets) + garbage)
    with contextlib.suppress(SourceError):
        for _ in range(5):
            stream.take(idle=True)


# -- idle, batches, limits ----------------------------------------------------------------------


def test_an_open_transaction_waits_for_its_end_or_a_full_batch():
    """Idle: what is complete goes out at once, what is open only when it fills a batch."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    file.transaction(A, 2, [BEGIN, rows(500), rows(500), rows(500), XID])
    packets = packets_of(file.sent_from(4))
    stream = IngestStream(fresh(), batch_bytes=1100)

    (first,) = ingest(stream, packets[:10])
    assert first.meta.end_position == file.events[6].end and not first.meta.ends_in_transaction
    assert stream.open_transaction_bytes == file.events[8].end - file.events[7].start
    assert ingest(stream, packets[10:11]) == []
    assert stream.open_transaction_bytes == file.events[9].end - file.events[7].start
    (second,) = ingest(stream, packets[11:12])
    assert second.meta.ends_in_transaction and not second.meta.visible_packets
    (third,) = ingest(stream, packets[12:])
    assert third.meta.closes_transaction and third.meta.visible_packets == 2
    assert stream.open_transaction_bytes == 0
    check_against_relay_state([first, second, third])


def test_nothing_is_handed_out_before_a_batch_is_full_unless_idle():
    """Under load batches have about the size asked for; no packet is cut."""
    file = BinlogFile("bin.1").begin()
    for number in range(1, 200):
        file.transaction(A, number, insert())
    packets = packets_of(file.sent_from(4))
    stream = IngestStream(fresh(), batch_bytes=4000)
    batches = []
    for packet in packets:
        stream.receive(packet)
        batches += stream.take(idle=False)

    assert all(4000 <= len(batch.packets) < 4200 for batch in batches)
    assert events_of(batches + take_all(stream)) == [e.event for e in file.events]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        [16777213],
        [16777214],
        [16777215],
        [20971520],
        [33554429],
        [5000, 16777213, 5000, 16777214, 33554428],
    ],
)
@pytest.mark.parametrize("crc", [True, False])
def test_events_around_the_packet_limit(sizes, crc):
    """Sizes around 16 MiB: the packets are the source's, entries and memory stay within limits."""
    file = BinlogFile("bin.1", crc=crc).begin().transaction(A, 1, insert())
    parts = [(EventType.WRITE_ROWS, bytes(size - 19 - file.crc_bytes)) for size in sizes]
    file.transaction(A, 2, [BEGIN, *parts, XID]).transaction(A, 3, insert())
    whole = b"".join(packets_of(file.sent_from(4)))
    stream, batches, held = IngestStream(fresh(), first_rotate_has_crc=crc), [], 0
    for at in range(0, len(whole), 100_000):
        stream.receive(whole[at : at + 100_000])
        batches += stream.take(idle=at % 3 == 0)
        held = max(held, len(stream._buffer.data))
    batches += take_all(stream)

    assert max(len(batch.packets) for batch in batches) <= ENTRY_BYTES_MAX
    assert held <= (1 << 20) + ENTRY_BYTES_MAX + (1 << 20)
    events = events_of(batches)
    assert [len(event) for event in events] == [len(e.event) for e in file.events]
    assert events == [e.event for e in file.events]
    state = check_against_relay_state(batches)
    assert state.visible.position == file.position
    assert len(stream.free()) < 4 << 20, "the memory of a large packet is given back"


def test_a_failed_stream_takes_no_more_memory():
    """What is still read after an error finds room, however much it is, and is not looked at."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    packets = packets_of(file.sent_from(4))
    stream = IngestStream(fresh())
    stream.receive(b"".join(packets) + b"\1\0\0\x77\0")
    assert events_of(stream.take(idle=True)) == [e.event for e in file.events]
    for _ in range(60):
        room = stream.free()
        stream.wrote(len(room))
        with pytest.raises(MalformedStreamError):
            stream.take(idle=False)


def test_a_gtid_set_of_sixteen_megabytes_is_refused_for_good():
    """PREVIOUS_GTIDS must be read whole; a larger one than a packet stops the receiver."""
    file = BinlogFile("bin.1").format_description()
    file.add(EventType.PREVIOUS_GTIDS, bytes(SHORT_PACKETS * 2))
    packets = packets_of(file.sent_from(4), length_max=SHORT_PACKETS)
    batches, error = failure_of(IngestStream(fresh(), packet_length_max=SHORT_PACKETS), packets)
    assert isinstance(error, EventTooLargeError) and error.fatal and not batches


def test_the_checksum_of_a_large_event_is_checked():
    """A flipped bit in any part of an event of several packets stops the stream."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, [BEGIN, rows(1000), XID])
    packets = packets_of(file.sent_from(4), length_max=SHORT_PACKETS)
    large = packets[5]
    for at in (30, 300, 600, len(large) - 2):
        broken = bytearray(large)
        broken[at] ^= 4
        stream = IngestStream(fresh(), packet_length_max=SHORT_PACKETS)
        _, error = failure_of(stream, [*packets[:5], bytes(broken), *packets[6:]])
        assert isinstance(error, ChecksumMismatchError)


# -- resuming -----------------------------------------------------------------------------------


def three_transactions(**facts):
    file = BinlogFile("bin.7", **facts).begin()
    for number in (1, 2, 3):
        file.transaction(A, number, insert())
    return file


@pytest.mark.parametrize("crc", [True, False])
def test_a_resume_by_position_drops_what_is_held_and_compares_it(crc):
    """The last stored transaction is sent again, compared, and not stored twice."""
    file = three_transactions(crc=crc)
    held = ingest(IngestStream(fresh(), first_rotate_has_crc=crc), packets_of(file.sent_from(4)))
    executed = GtidSet()
    executed.add(A, "", 1, 3)
    point = resume_in(file, file.position, held, executed=executed)
    assert point.dump_position == file.events[12].start
    file.transaction(A, 4, insert()).rotate("bin.8")
    follow = BinlogFile("bin.8", crc=crc).begin(executed.union(GtidSet.parse("")))
    batches = ingest(
        IngestStream(point, first_rotate_has_crc=crc),
        packets_of([*file.sent_from(point.dump_position), *follow.sent_from(4)]),
    )

    assert batches[0].meta.start_position == point.position
    assert not batches[0].meta.gap_before
    assert events_of(batches) == [e.event for e in file.events[17:] + follow.events]
    assert executed.count() == 4


def test_a_resume_from_the_files_beginning_drops_its_first_events():
    """When only the file's beginning is held, its two events come again and are dropped."""
    file = BinlogFile("bin.7").begin()
    held = ingest(IngestStream(fresh()), packets_of(file.sent_from(4)))
    for dump_position in (4, file.position):
        again = BinlogFile("bin.7").begin().transaction(A, 1, insert())
        point = resume_in(file, file.position, held, dump_position=dump_position)
        batches = ingest(IngestStream(point), packets_of(again.sent_from(dump_position)))
        assert events_of(batches) == [e.event for e in again.events[2:]]


def test_a_source_that_lost_its_tail_is_noticed():
    """Other events in place of the last transaction, or none, stop the receiver for good."""
    file = three_transactions()
    held = ingest(IngestStream(fresh()), packets_of(file.sent_from(4)))
    point = resume_in(file, file.position, held)

    other = BinlogFile("bin.7").begin()
    for number in (1, 2, 9):
        other.transaction(A, number, insert())
    shorter = BinlogFile("bin.7").begin()
    for number in (1, 2):
        shorter.transaction(A, number, insert())
    assert shorter.position == point.dump_position
    next_file = BinlogFile("bin.8").begin()
    elsewhere = BinlogFile("bin.7").begin()
    for number in (1, 2):
        elsewhere.transaction(A, number, insert())
    elsewhere.transaction(A, 3, [BEGIN, rows(900), XID])
    for sent in (
        other.sent_from(point.dump_position),
        elsewhere.sent_from(point.dump_position),
        [*shorter.sent_from(point.dump_position), shorter.heartbeat(shorter.position)],
        [*shorter.sent_from(point.dump_position), *next_file.sent_from(4)],
    ):
        stream = IngestStream(point)
        batches, error = failure_of(stream, packets_of(sent))
        assert isinstance(error, SourceLostTailError) and error.fatal
        assert not batches


def test_another_file_under_a_held_name_is_noticed():
    """The time in its FORMAT_DESCRIPTION tells it apart, on resume and when it comes later."""
    file = three_transactions()
    held = ingest(IngestStream(fresh()), packets_of(file.sent_from(4)))
    other = three_transactions(created=1_800_000_000)
    point = resume_in(file, file.position, held)
    _, error = failure_of(IngestStream(point), packets_of(other.sent_from(point.dump_position)))
    assert isinstance(error, DifferentFileError) and not error.fatal

    point = fresh(held_files={"bin.7": file.created})
    _, error = failure_of(IngestStream(point), packets_of(other.sent_from(4)))
    assert isinstance(error, DifferentFileError)
    _, error = failure_of(IngestStream(point), packets_of(file.sent_from(4)))
    assert isinstance(error, MalformedStreamError)


def test_a_gtid_dump_that_starts_inside_a_file_leaves_a_gap():
    """The heartbeat behind a skipped stretch becomes the gap of the batch that follows."""
    file = three_transactions()
    sent = list(file.sent_from(4))
    skipped_to = file.events[12].start
    for v2 in (True, False):
        executed = GtidSet()
        executed.add(A, "", 1, 2)
        stream = IngestStream(fresh(executed=executed))
        packets = packets_of([*sent[:3], file.heartbeat(skipped_to, v2=v2), *sent[13:]])
        batches = ingest(stream, packets)

        assert [b.meta.gap_before for b in batches] == [0, skipped_to - file.events[1].end]
        assert batches[1].meta.start_position == skipped_to
        assert events_of(batches) == [e.event for e in file.events[:2] + file.events[12:]]
        state = check_against_relay_state(batches)
        assert state.visible.position == file.position


def test_a_gtid_dump_into_the_held_file_goes_on_where_it_ends():
    """What is below the known position is dropped; a skipped stretch beyond it is a gap."""
    file = three_transactions()
    known = file.events[6].end
    executed = GtidSet()
    executed.add(A, "", 1, 1)
    point = fresh(file_name="bin.7", position=known, file_created=file.created, executed=executed)
    sent = list(file.sent_from(4))
    (batch,) = ingest(
        IngestStream(point), packets_of([*sent[:3], file.heartbeat(known), *sent[8:]])
    )
    assert (batch.meta.start_position, batch.meta.gap_before) == (known, 0)

    beyond = file.events[12].start
    executed = GtidSet()
    executed.add(A, "", 1, 2)
    point = fresh(file_name="bin.7", position=known, file_created=file.created, executed=executed)
    (batch,) = ingest(
        IngestStream(point), packets_of([*sent[:3], file.heartbeat(beyond), *sent[13:]])
    )
    assert (batch.meta.start_position, batch.meta.gap_before) == (beyond, beyond - known)


@pytest.mark.parametrize("v2", [True, False])
def test_heartbeats_leave_no_trace(v2):
    """Idle heartbeats are neither stored nor a gap, and the sequence goes on over them."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    beat = file.heartbeat(file.position, v2=v2)
    sent = [*file.sent_from(4), beat, beat]
    file.transaction(A, 2, insert())
    sent += [e.event for e in file.events[7:]] + [file.heartbeat(file.position, v2=v2)]
    batches = ingest(IngestStream(fresh()), packets_of(sent))

    assert events_of(batches) == [e.event for e in file.events]
    assert not any(batch.meta.gap_before for batch in batches)
    check_against_relay_state(batches)


@pytest.mark.parametrize("crc", [True, False])
def test_positions_go_on_past_four_gigabytes(crc):
    """The 32 bits in the headers wrap; an event that ends exactly there is no artificial one."""
    file = BinlogFile("bin.7", crc=crc).begin()
    held = ingest(IngestStream(fresh(), first_rotate_has_crc=crc), packets_of(file.sent_from(4)))
    file.position = start = (1 << 32) - 200
    before = len(file.events)
    fill = 200 - 19 - file.crc_bytes
    file.add(EventType.IGNORABLE, bytes(fill)).transaction(A, 1, insert())
    point = resume_in(file, start, held, dump_position=start)
    (batch,) = ingest(
        IngestStream(point, first_rotate_has_crc=crc), packets_of(file.sent_from(start))
    )

    assert file.events[before].end == 1 << 32
    assert (batch.meta.start_position, batch.meta.end_position) == (start, file.position)
    v1 = file.heartbeat(file.position, v2=False)
    point = resume_in(file, start, held, dump_position=start)
    assert ingest(
        IngestStream(point, first_rotate_has_crc=crc), packets_of([*file.sent_from(start), v1])
    ) == [batch]


# -- what stops it ------------------------------------------------------------------------------


def test_a_gap_names_the_missing_transactions():
    """A file that presupposes what the relay lacks stops it; nothing of that file is handed out."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert()).rotate("bin.2")
    executed = GtidSet()
    executed.add(A, "", 1, 5)
    follow = BinlogFile("bin.2").begin(executed)
    stream = IngestStream(fresh())
    batches, error = failure_of(stream, packets_of([*file.sent_from(4), *follow.sent_from(4)]))

    assert isinstance(error, GapError) and error.fatal
    missing = GtidSet()
    missing.add(A, "", 2, 5)
    assert error.missing == missing and str(missing) in str(error)
    assert events_of(batches) == [e.event for e in file.events]


def test_the_ends_of_a_stream():
    """EOF and ERR packets end it behind everything that was complete."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    packets = packets_of(file.sent_from(4))
    eof = bytes((5, 0, 0, len(packets) + 1)) + b"\xfe\0\0\2\0"
    batches, error = failure_of(IngestStream(fresh()), [*packets, eof])
    assert isinstance(error, StreamEndedError) and not error.fatal
    assert events_of(batches) == [e.event for e in file.events]

    text = b"\xff\xd4\x04#HY000the source purged required binary logs"
    err = bytes((len(text), 0, 0, len(packets) + 1)) + text
    batches, error = failure_of(IngestStream(fresh()), [*packets, err])
    assert isinstance(error, FatalSourceErrorPacket) and error.code == 1236
    assert "purged" in str(error) and len(events_of(batches)) == len(file.events)


def test_what_came_before_an_error_is_handed_out():
    """Whole transactions before a corrupt event or a lost packet are kept, in one read with it."""
    file = BinlogFile("bin.1").begin()
    for number in (1, 2, 3):
        file.transaction(A, number, insert())
    packets = packets_of(file.sent_from(4))
    corrupt = packets[15][:30] + bytes((packets[15][30] ^ 1,)) + packets[15][31:]
    for sent, kind in (
        ([*packets[:15], corrupt, *packets[16:]], ChecksumMismatchError),
        ([*packets[:15], *packets[16:]], MalformedStreamError),
    ):
        batches, error = failure_of(IngestStream(fresh()), sent)
        assert isinstance(error, kind)
        assert events_of(batches) == [e.event for e in file.events[:12]]


def test_a_wrong_sequence_number_is_refused():
    """A lost packet is noticed by the sequence numbers, which wrap at 256."""
    file = BinlogFile("bin.1").begin()
    for number in range(1, 120):
        file.transaction(A, number, insert())
    packets = packets_of(file.sent_from(4))
    assert len(events_of(ingest(IngestStream(fresh()), packets))) == len(file.events)

    _, error = failure_of(IngestStream(fresh()), packets[:300] + packets[301:])
    assert isinstance(error, MalformedStreamError) and "sequence" in str(error)


@pytest.mark.parametrize("version", [MODERN, OLD])
def test_anonymous_transactions_are_refused_while_gtids_are_followed(version):
    """With GTIDs an anonymous transaction stops the receiver; by position it is taken."""
    file = BinlogFile("bin.1", version=version).begin().transaction(A, 1, insert())
    file.transaction(b"", 0, insert()).transaction(b"", 0, insert())
    packets = packets_of(file.sent_from(4))
    _, error = failure_of(IngestStream(fresh()), packets)
    assert isinstance(error, AnonymousTransactionError) and error.fatal

    batches = ingest(IngestStream(fresh(gtid_mode=False)), packets)
    assert [(r.uuid, r.first, r.last) for r in batches[0].meta.gtid_runs] == [
        (A, 1, 1),
        (b"", 1, 2),
    ]
    check_against_relay_state(batches)


FUTURE = (200, b"of a later server")


@pytest.mark.parametrize("version", [MODERN, OLD])
@pytest.mark.parametrize("gtid_mode", [True, False])
def test_types_of_later_servers_pass_untouched(version, gtid_mode):
    """Between transactions and inside them, alone in one, and of several packets."""
    large = (201, bytes(range(256)) * 4)
    file = BinlogFile("bin.1", version=version).begin().add(*FUTURE)
    file.transaction(A, 1, [FUTURE, BEGIN, rows(10), FUTURE, large, XID]).add(*FUTURE).add(*large)
    file.transaction(A, 2, [FUTURE, (EventType.QUERY, query(b"CREATE TABLE t (a INT)"))])
    if version == MODERN:  # only its length says where such a one ends
        file.transaction(A, 3, [large, FUTURE]).transaction(A, 4, [])
    file.transaction(A, 5, insert()).add(*FUTURE).rotate("bin.2")
    packets = packets_of(file.sent_from(4), length_max=SHORT_PACKETS)
    for batch_bytes in (1 << 20, 150):
        stream = IngestStream(
            fresh(gtid_mode=gtid_mode), batch_bytes=batch_bytes, packet_length_max=SHORT_PACKETS
        )
        batches = ingest(stream, packets)
        assert events_of(batches, length_max=SHORT_PACKETS) == [e.event for e in file.events]
        numbers = [
            number
            for batch in batches
            for run in batch.meta.gtid_runs
            for number in range(run.first, run.last + 1)
        ]
        assert numbers == ([1, 2, 3, 4, 5] if version == MODERN else [1, 2, 5])
        assert batches[-1].meta.visible_position == file.position


@pytest.mark.parametrize("version", [MODERN, OLD])
def test_what_a_group_writes_beside_rows(version):
    """A view change is a transaction of its own, a transaction's context part of one."""
    view = (EventType.VIEW_CHANGE, bytes(60))
    context = (EventType.TRANSACTION_CONTEXT, bytes(30))
    file = BinlogFile("bin.1", version=version).begin()
    file.transaction(A, 1, [BEGIN, view, (EventType.QUERY, query(b"COMMIT"))])
    file.transaction(A, 2, [context, *insert()]).transaction(A, 3, [view])
    packets = packets_of(file.sent_from(4))
    for batch_bytes in (1 << 20, 100):
        batches = ingest(IngestStream(fresh(), batch_bytes=batch_bytes), packets)
        assert events_of(batches) == [e.event for e in file.events]
        state = check_against_relay_state(batches)
        assert list(state.executed.runs()) == [(A, "", 1, 3)]
        assert state.visible.position == file.position


def test_a_later_servers_kind_of_gtid_is_noticed():
    """What follows it would be a transaction that nobody counts."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert()).add(*FUTURE).add(*BEGIN)
    _, error = failure_of(IngestStream(fresh()), packets_of(file.sent_from(4)))

    assert isinstance(error, AnonymousTransactionError) and error.fatal


def test_a_source_without_any_gtid_events():
    """A 5.6 source without GTIDs: refused with GTIDs, whole transactions by position."""
    file = BinlogFile("bin.1", version=OLD).format_description()
    for part in (*insert(), (EventType.INTVAR, bytes(9)), (EventType.QUERY, query(b"INSERT x"))):
        file.add(*part)
    file.add(EventType.QUERY, query(b"DROP TABLE " + b"t" * 500))
    packets = packets_of(file.sent_from(4), length_max=SHORT_PACKETS)
    _, error = failure_of(IngestStream(fresh(), packet_length_max=SHORT_PACKETS), packets)
    assert isinstance(error, AnonymousTransactionError)

    for batch_bytes in (1, 400, 1 << 20):
        stream = IngestStream(
            fresh(gtid_mode=False), packet_length_max=SHORT_PACKETS, batch_bytes=batch_bytes
        )
        batches = ingest(stream, packets)
        assert events_of(batches, length_max=SHORT_PACKETS) == [e.event for e in file.events]
        starts = sum(len(batch.meta.transaction_packets) // 4 for batch in batches)
        assert starts == 3
        assert check_against_relay_state(batches).visible.position == file.position


def test_a_transaction_sent_twice_is_refused():
    """Each transaction once: a GTID that the relay has already stops the receiver."""
    file = BinlogFile("bin.1").begin().transaction(A, 1, insert())
    executed = GtidSet()
    executed.add(A, "", 1, 1)
    batches, error = failure_of(
        IngestStream(fresh(executed=executed)), packets_of(file.sent_from(4))
    )
    assert isinstance(error, InconsistentTransactionError) and error.fatal and not batches


def test_a_file_that_ends_inside_a_transaction_is_refused():
    """Nothing may follow half a transaction but its rest."""
    file = BinlogFile("bin.1", version=OLD).begin()
    file.transaction(A, 1, [BEGIN, rows(20)], closed=False)
    follow = BinlogFile("bin.2", version=OLD).begin()
    _, error = failure_of(
        IngestStream(fresh()), packets_of([*file.sent_from(4), *follow.sent_from(4)])
    )
    assert isinstance(error, InconsistentTransactionError)


def test_a_wrong_transaction_length_is_refused():
    """A transaction longer or shorter than its GTID event says stops the receiver."""
    for rest in (1, -1, 500):
        file = BinlogFile("bin.1").begin()
        build = file.gtid_event
        file.gtid_event = lambda uuid, number, tag, size, b=build, r=rest: b(
            uuid, number, tag, size + r
        )
        file.transaction(A, 1, insert()).transaction(A, 2, insert())
        stream = IngestStream(fresh())
        _, error = failure_of(
            stream, packets_of([*file.sent_from(4), *file.rotate("x").sent_from(4)])
        )
        assert isinstance(error, InconsistentTransactionError | MalformedStreamError)


def test_a_dump_by_position_must_begin_where_it_was_asked_for():
    """Another file or position in the first rotate event is refused."""
    file = three_transactions()
    held = ingest(IngestStream(fresh()), packets_of(file.sent_from(4)))
    point = resume_in(file, file.position, held)
    for sent in (file.sent_from(4), BinlogFile("bin.8").begin().sent_from(4)):
        _, error = failure_of(IngestStream(point), packets_of(sent))
        assert isinstance(error, MalformedStreamError)


def test_wrong_positions_and_sizes_are_refused():
    """log_pos must be the cumulative position; an unknown artificial event is refused."""
    file = BinlogFile("bin.1").begin()
    file.position += 10
    file.transaction(A, 1, insert())
    _, error = failure_of(IngestStream(fresh()), packets_of(file.sent_from(4)))
    assert isinstance(error, MalformedStreamError) and "says" in str(error)

    file = BinlogFile("bin.1").begin()
    odd = artificial.build_event(EventType.QUERY, query(b"x"), server_id=1, crc=True, flags=0x20)
    _, error = failure_of(IngestStream(fresh()), packets_of([*file.sent_from(4), odd]))
    assert isinstance(error, MalformedStreamError)


def test_a_large_transaction_is_compared_on_a_resume_too():
    """A last transaction that ends in an event of several packets is read again and compared."""
    file = BinlogFile("bin.1").begin()
    file.transaction(A, 1, [(EventType.QUERY, query(b"CREATE" + b" " * 1000))])
    options = {"packet_length_max": SHORT_PACKETS}
    packets = packets_of(file.sent_from(4), length_max=SHORT_PACKETS)
    held = ingest(IngestStream(fresh(), **options), packets)
    point = resume_in(file, file.position, held)
    other = BinlogFile("bin.1").begin()
    other.transaction(A, 1, [(EventType.QUERY, query(b"CREATE" + b"-" * 1000))])
    for sent, is_same in ((file, True), (other, False)):
        sent.transaction(A, 2, insert())
        packets = packets_of(sent.sent_from(point.dump_position), length_max=SHORT_PACKETS)
        stream = IngestStream(point, **options)
        if is_same:
            assert len(events_of(ingest(stream, packets))) == 5
        else:
            assert isinstance(failure_of(stream, packets)[1], SourceLostTailError)
