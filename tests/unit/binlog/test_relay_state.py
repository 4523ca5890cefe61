"""The relay state: fences, visible end, files and their names, records."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kingbus.binlog import packed_sets, relay_state
from kingbus.binlog.command import version_needed
from kingbus.binlog.gtid import GtidSet, format_gtid
from kingbus.binlog.relay_state import (
    STATE_VERSION,
    Changes,
    RelayState,
    UnknownStateVersionError,
)
from kingbus.pb.command_pb2 import (
    AcceptGap,
    Channel,
    ClusterKey,
    Command,
    EventBatch,
    MemberAttributes,
    Purge,
    ServerConfig,
    SourceConfig,
    User,
    UserChanges,
)
from kingbus.pb.record_pb2 import BatchRow, FileRow
from kingbus.pb.record_pb2 import RelayState as StateRecord
from tests.support.relay_logs import (
    UUID_A,
    UUID_B,
    BinlogFile,
    Cutter,
    Event,
    Packet,
    batch_command,
    gtids,
    numbered,
    packets_of,
    session_command,
)


class Applied:
    """A relay state and the rows that its changes leave, as a database would hold them."""

    def __init__(self) -> None:
        self.state = RelayState()
        self.rows: dict[int, BatchRow] = {}
        self.file_rows: dict[int, FileRow] = {}
        self.entries: dict[int, tuple[EventBatch, bytes]] = {}

    def apply(self, command: Command, packets: bytes = b"") -> Changes:
        index = self.state.index + 1
        before = self.state.digest()
        changes = self.state.apply(index, command, packet_bytes=len(packets))
        if changes.truncated_batch is not None:
            at, row = changes.truncated_batch
            assert at in self.rows
            self.rows[at] = row
        for at in changes.deleted_batches:
            self.rows.pop(at, None)
        for file_row in changes.file_rows:
            self.file_rows[file_row.ordinal] = file_row
        if changes.batch_row is not None:
            self.rows[index] = changes.batch_row
            self.entries[index] = (
                EventBatch.FromString(command.event_batch.SerializeToString()),
                packets,
            )
        if not changes.accepted:
            assert changes.reason
            assert changes.batch_row is None
            record = self.state.to_record()
            record.index = index - 1
            assert RelayState.from_record(record, self.file_rows.values()).digest() == before
        # A second time, and later still, it is nothing.
        digest = self.state.digest()
        assert not self.state.apply(index, command).accepted
        assert self.state.digest() == digest
        return changes

    def batch(
        self, cutter: Cutter, file: BinlogFile, packets: Sequence[Packet], **more: int
    ) -> Changes:
        meta, raw = cutter.cut(file, packets, **more)
        return self.apply(batch_command(meta), raw)

    def session(self, **options: object) -> Cutter:
        changes = self.apply(session_command(**options))
        assert changes.accepted, changes.reason
        return Cutter(session=changes.index, epoch=self.state.epoch)

    def visible(self, ordinal: int) -> bytes:
        """What a reader sees of a file: whole events, in order, up to the visible end."""
        end = self.state.visible
        seen = bytearray()
        partial = bytearray()
        for index in sorted(self.rows):
            row = self.rows[index]
            if row.file != ordinal or index > end.index:
                continue
            meta, raw = self.entries[index]
            count = end.packets if index == end.index else row.packets
            offsets = [
                int.from_bytes(meta.packet_offsets[at : at + 4], "little")
                for at in range(0, len(meta.packet_offsets), 4)
            ]
            for offset in offsets[:count]:
                length = int.from_bytes(raw[offset : offset + 3], "little")
                partial += raw[offset + 4 : offset + 4 + length]
                if length < 0xFFFFFF:
                    seen += partial[1:]
                    partial.clear()
        assert not partial, "a visible event is whole"
        return bytes(seen)


def file_a(name: str = "binlog.000001", previous: str = "") -> BinlogFile:
    return BinlogFile(name, UUID_A, gtids(previous))


def opened(transactions: int = 3) -> tuple[Applied, BinlogFile, list[Packet], Cutter]:
    """A relay that holds a file's head: FORMAT_DESCRIPTION, PREVIOUS_GTIDS."""
    applied, file = Applied(), file_a()
    for number in range(1, transactions + 1):
        file.transaction(number)
    packets = packets_of(file.events)
    cutter = applied.session()
    assert applied.batch(cutter, file, packets[:2]).accepted
    return applied, file, packets[2:], cutter


def test_a_transaction_counts_when_it_ends() -> None:
    """An open transaction moves neither the visible end nor the executed set; its end does."""
    applied, file, packets, cutter = opened()

    applied.batch(cutter, file, packets[:6])  # transaction 1, and half of 2
    assert applied.state.executed == gtids("a:1")
    assert applied.state.visible.position == packets[3].event.end
    assert applied.state.last_gtid.endswith(":1")
    assert applied.state.in_transaction

    applied.batch(cutter, file, packets[6:12])  # the rest of 2, and 3
    assert applied.state.executed == gtids("a:1-3")
    assert applied.state.visible.position == packets[11].event.end
    assert applied.state.last_gtid.endswith(":3")
    assert not applied.state.in_transaction


def test_a_session_abandons_the_open_transaction() -> None:
    """The batch in which it began keeps its visible packets only; later rows of it are deleted."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:5])
    begun = applied.state.index
    applied.batch(cutter, file, packets[5:6])

    changes = applied.apply(session_command())

    assert changes.truncated_batch is not None
    at, row = changes.truncated_batch
    assert at == begun
    assert (row.packets, row.end_position) == (4, packets[3].event.end)
    assert GtidSet.decode(row.gtids) == gtids("a:1")
    assert begun + 1 in changes.deleted_batches
    assert applied.visible(1) == file.bytes(end=packets[3].event.end)
    assert applied.state.executed == gtids("a:1")


def time_of(event: Event) -> int:
    return int.from_bytes(event.data[:4], "little")


def test_a_row_of_a_large_batch_tells_what_goes_out_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If its packets are numbered in a row, and all of them are to be sent."""
    monkeypatch.setattr(relay_state, "UNREAD_BYTES_MIN", 300)
    applied, file, packets, cutter = opened(6)
    packets = numbered(packets, 254)

    assert applied.batch(cutter, file, packets[:1]).batch_row == applied.rows[applied.state.index]
    assert not applied.rows[applied.state.index].HasField("first_sequence"), "small"
    applied.batch(cutter, file, [*packets[1:8], *numbered(packets[8:10], 7)])
    assert not applied.rows[applied.state.index].HasField("first_sequence"), "not in a row"
    applied.batch(cutter, file, packets[10:21])
    row = applied.rows[applied.state.index]
    assert row.bytes >= 300
    assert (row.first_sequence, row.last_time) == ((254 + 10) & 255, time_of(packets[20].event))
    assert (row.last_gtid.uuid, row.last_gtid.last, row.last_gtid.tag) == (UUID_A, 6, "")

    changes = applied.apply(session_command())

    assert changes.truncated_batch is not None
    _, row = changes.truncated_batch
    assert row.packets == 10
    assert not row.HasField("first_sequence")
    assert not row.HasField("last_gtid")
    assert not row.last_time


def test_an_abandoned_transaction_that_began_a_batch_leaves_no_row() -> None:
    """Nothing is truncated when no packet of the first batch was visible."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:2])
    begun = applied.state.index

    changes = applied.apply(session_command())

    assert changes.truncated_batch is None
    assert list(changes.deleted_batches) == [begun]


def test_the_stream_goes_on_behind_a_hole() -> None:
    """After a fence the same transaction, pulled again, is counted once."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:6])
    cutter = applied.session()

    assert applied.batch(cutter, file, packets[4:]).accepted
    assert applied.visible(1) == file.bytes()
    assert applied.state.executed == gtids("a:1-3")


def test_only_the_valid_session_and_the_next_sequence_count() -> None:
    """A batch of a former session, a repeated and a skipped one are ignored with a reason."""
    applied, file, packets, old = opened()
    stale, raw = old.cut(file, packets[:4])
    new = applied.session()

    assert "session" in applied.apply(batch_command(stale), raw).reason

    meta, raw = new.cut(file, packets[:4])
    assert applied.apply(batch_command(meta), raw).accepted
    assert "sequence" in applied.apply(batch_command(meta), raw).reason

    new.sequence += 1
    assert "sequence" in applied.batch(new, file, packets[4:8]).reason


def test_a_stop_or_another_source_ends_the_session() -> None:
    """Only a changed password, or the same source again, leaves the session as it is."""
    config = SourceConfig(started=True, addresses=["h:1"], user="u")
    applied = Applied()
    applied.apply(Command(source_config=config))
    session = applied.session().session

    config.password.ciphertext = b"x"
    applied.apply(Command(source_config=config))
    assert applied.state.session == session

    config.user = "v"
    applied.apply(Command(source_config=config))
    assert applied.state.session == 0

    applied.session()
    config.started = False
    applied.apply(Command(source_config=config))
    assert applied.state.session == 0


def test_a_stop_abandons_the_open_transaction() -> None:
    """No batch can end it any more."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:6])

    applied.apply(Command(source_config=SourceConfig(started=False)))

    assert not applied.state.in_transaction
    assert applied.visible(1) == file.bytes(end=packets[3].event.end)


def test_an_older_epoch_is_over() -> None:
    """A session of a lower epoch, or another source in the same epoch, is refused."""
    applied, _, _, _ = opened()
    assert "epoch" in applied.apply(session_command(epoch=0)).reason
    assert "epoch" in applied.apply(session_command(epoch=1, uuid=UUID_B)).reason
    assert applied.apply(session_command(epoch=2, uuid=UUID_B)).accepted
    assert len(applied.state.source_uuids) == 2


def test_an_empty_relay_starts_at_the_start_set() -> None:
    """The set counts until the first file is held, and not after that."""
    applied = Applied()
    applied.session(start_set=gtids("a:1-5"))
    cutter = applied.session(start_set=gtids("a:1-9"))
    assert applied.state.executed == applied.state.purged == gtids("a:1-9")

    file = file_a()
    applied.batch(cutter, file, packets_of(file.events))
    applied.session(start_set=gtids("b:1"))
    assert applied.state.executed == applied.state.purged == gtids("a:1-9")
    assert GtidSet.decode(applied.state.files[0].previous_gtids) == gtids("a:1-9")


def test_a_malformed_start_set_is_refused_not_raised() -> None:
    """A command that does not fit never raises."""
    command = session_command()
    command.receiver_session.start_set = b"\1"

    assert "GTID set" in Applied().apply(command).reason


def test_a_name_used_in_another_epoch_is_served_with_its_epoch() -> None:
    """Served names are unique among all files ever held, whatever sources call theirs."""
    applied, file, _, _ = opened()
    for epoch in (2, 3):
        cutter = applied.session(epoch=epoch, uuid=UUID_B)
        other = BinlogFile(file.name, UUID_B, GtidSet())
        applied.batch(cutter, other, packets_of(other.events))
    evil = BinlogFile(f"e4-{file.name}", UUID_B, GtidSet())
    applied.batch(cutter, evil, packets_of(evil.events))
    cutter = applied.session(epoch=4)
    other = BinlogFile(file.name, UUID_A, GtidSet())
    applied.batch(cutter, other, packets_of(other.events))

    names = [row.served_name for row in applied.state.files]
    assert names == [
        "binlog.000001",
        "e2-binlog.000001",
        "e3-binlog.000001",
        "e4-binlog.000001",
        "e4-2-binlog.000001",
    ]
    assert applied.state.served_name_of(4, file.name) == "e4-2-binlog.000001"
    assert applied.state.served_name_of(1, file.name) == "binlog.000001"
    assert applied.state.served_name_of(4, "binlog.000002") == "binlog.000002"
    found = applied.state.file_named("e3-binlog.000001")
    assert found is not None and found.ordinal == 3


def test_a_skipped_stretch_is_a_gap_even_if_its_transaction_is_abandoned() -> None:
    """What the source skipped it skips for good: the visible position moves behind the gap."""
    applied, file, packets, cutter = opened()
    skipped_to = packets[4].event.start
    applied.batch(cutter, file, packets[4:6], gap_before=skipped_to - packets[0].event.start)
    assert applied.state.visible.position == skipped_to

    cutter = applied.session()
    assert applied.batch(cutter, file, packets[4:]).accepted
    gap = applied.state.files[0].gaps[0]
    assert (gap.start, gap.end) == (packets[0].event.start, skipped_to)
    assert len(applied.state.files[0].gaps) == 1


def test_files_close_when_the_next_begins() -> None:
    """The closed row carries the visible end; the new one all that was executed before it."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets)
    second = file_a("binlog.000002", "a:1-3")

    changes = applied.batch(cutter, second, packets_of(second.events))

    closed, begun = changes.file_rows
    assert changes.checkpoint
    assert (closed.closed, closed.end_position, closed.last_index) == (
        True,
        file.end,
        changes.index - 1,
    )
    assert not begun.closed
    assert GtidSet.decode(begun.previous_gtids) == gtids("a:1-3")
    before = applied.state.file_before
    assert [before(gtids(s)).ordinal for s in ("", "a:1-2", "a:1-3", "a:1-3,b:1")] == [1, 1, 2, 2]


def test_a_purge_takes_whole_files_and_never_the_open_one() -> None:
    """purged becomes what was executed before the first file that stays."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets)
    second = file_a("binlog.000002", "a:1-3")
    changes = applied.batch(cutter, second, packets_of(second.events))

    middle = applied.apply(Command(purge=Purge(first_index=changes.index - 1)))
    assert not middle.accepted
    done = applied.apply(Command(purge=Purge(first_index=changes.index + 100)))

    assert (done.deleted_files, done.deleted_batches) == ([1], range(2, changes.index))
    assert list(applied.rows) == [changes.index]
    assert applied.state.purged == gtids("a:1-3")
    assert [row.ordinal for row in applied.state.files] == [2]
    assert applied.state.file(1) is None
    assert applied.state.file(2) is applied.state.files[0]


def history() -> tuple[Applied, list[tuple[int, Command, int]], dict[int, StateRecord]]:
    """Sessions, epochs with the same names, configuration, a file left in a transaction."""
    applied = Applied()
    commands: list[tuple[int, Command, int]] = []
    starts: dict[int, StateRecord] = {}
    take = applied.apply

    def apply(command: Command, packets: bytes = b"") -> Changes:
        changes = take(command, packets)
        commands.append((changes.index, command, len(packets)))
        if changes.start is not None:
            ordinal, start = changes.start
            starts[ordinal] = start
        return changes

    applied.apply = apply  # type: ignore[method-assign]
    number = 0
    for epoch, uuid in ((1, UUID_A), (1, UUID_A), (2, UUID_B), (4, UUID_A)):
        for part in range(3):
            apply(Command(source_config=SourceConfig(started=True, user=f"u{epoch}{part}")))
            cutter = applied.session(epoch=epoch, uuid=uuid)
            name = f"binlog.{len(starts) + 1 if epoch == 1 else part + 1:06d}"
            file = BinlogFile(name, uuid, applied.state.executed.copy())
            for _ in range(2):
                number += 1
                file.transaction(number)
            packets = packets_of(file.events)
            if part:
                # Left in the middle of a transaction, which the next session abandons.
                packets = packets[:-2]
                number -= 1
            for at in range(0, len(packets), 3):
                assert applied.batch(cutter, file, packets[at : at + 3]).accepted
            assert applied.state.in_transaction == bool(part)
            apply(Command(server_config=ServerConfig(member_id=part, address=f"h:{number}")))
            apply(Command(user_changes=UserChanges(users=[User(name=f"u{number}")])))
    return applied, commands, starts


@pytest.fixture(params=[False, True], ids=["", "packed"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether sets are packed whatever their size."""
    if request.param:
        monkeypatch.setattr(packed_sets, "PACKED_FROM_BYTES", 0)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("first", range(1, 13))
def test_who_begins_at_a_file_comes_to_the_same_state(first: int) -> None:
    """From the start of any file on the log makes the same of it, once the rest is purged."""
    applied, commands, starts = history()
    assert sorted(starts) == list(range(1, 13))
    state = applied.state
    begins_at = state.file(first).first_index
    if first > 1:
        assert applied.apply(Command(purge=Purge(first_index=begins_at))).accepted
        assert state.files[0].ordinal == first
    whole = state.at_start(starts[first])

    late = RelayState.from_record(whole)
    assert (late.index, late.files) == (begins_at - 1, [])
    assert late.executed == late.purged == state.purged
    for index, command, packets in commands:
        late.apply(index, command, packet_bytes=packets)

    assert late.digest() == state.digest()
    assert late.files == state.files
    assert late.to_record() == state.to_record()
    # Both refuse and name alike what comes then.
    cutter = applied.session(epoch=4)
    late.apply(applied.state.index, session_command(epoch=4))
    for name in ("binlog.000001", "binlog.000009"):
        file = file_a(name)
        meta, raw = cutter.cut(file, packets_of(file.events))
        meta.sequence = applied.state.next_sequence
        mine = applied.apply(batch_command(meta), raw)
        theirs = late.apply(mine.index, batch_command(meta), packet_bytes=len(raw))
        assert (mine.accepted, mine.reason) == (theirs.accepted, theirs.reason)
        assert mine.accepted == (name == "binlog.000009")
    assert late.digest() == state.digest()


@pytest.mark.parametrize("first", range(1, 13))
def test_packed_sets_are_told_as_if_they_were_not(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, hash, where a replica starts, and what a restart, a purge and a cut make of them."""
    bare = history()[0]
    monkeypatch.setattr(packed_sets, "PACKED_FROM_BYTES", 0)
    applied = history()[0]
    begins_at = applied.state.file(first).first_index
    for purge in (
        Purge(first_index=begins_at),
        Purge(description=b"described", first_index=applied.state.index + 9),
    ):
        state, restarted = (
            applied.state,
            RelayState.from_record(applied.state.to_record(), applied.file_rows.values()),
        )
        for each in (state, restarted):
            assert each.digest() == bare.state.digest()
            assert [each.whole_row(row) for row in each.files] == bare.state.files
            for row, as_was in zip(each.files, bare.state.files, strict=True):
                assert each.previous_gtids(row) == as_was.previous_gtids
                assert not row.previous_gtids or row in (each.files[0], each.files[-1])
                had = GtidSet.decode(as_was.previous_gtids)
                assert each.file_before(had).ordinal == bare.state.file_before(had).ordinal
        mine, theirs = (each.apply(Command(purge=purge)) for each in (applied, bare))
        assert (mine.accepted, mine.file_rows) == (theirs.accepted, theirs.file_rows)
        for ordinal in mine.deleted_files:
            del applied.file_rows[ordinal]
    assert applied.state.purged == bare.state.purged
    assert applied.state.digest() == bare.state.digest()


def test_a_row_taken_before_its_sets_were_put_back_still_tells_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who took it may have waited since; the file is the first one by now."""
    monkeypatch.setattr(packed_sets, "PACKED_FROM_BYTES", 0)
    applied, _, _ = history()
    state, row = applied.state, applied.state.file(5)
    assert row is not None and not row.previous_gtids
    before = state.previous_gtids(row)
    assert applied.apply(Command(purge=Purge(first_index=row.first_index))).accepted
    assert state.previous_gtids(row) == before == state.whole_row(row).previous_gtids


def test_large_sets_of_closed_files_take_little() -> None:
    """A relay may hold hundreds of files, each with a set of very many intervals, twice."""
    had = GtidSet()
    for number in range(1, 40_000, 2):
        had.add(UUID_B, "", number, number)
    applied = Applied()
    applied.apply(session_command(start_set=had))
    cutter = Cutter(session=1, epoch=1)
    for number in range(1, 7):
        file = BinlogFile(f"binlog.{number:06}", UUID_A, applied.state.executed.copy())
        file.transaction(number)
        assert applied.batch(cutter, file, packets_of(file.events)).accepted
    between = applied.state.files[1:-1]
    assert max(row.ByteSize() for row in between) < 1000
    for row in between:
        stored = applied.file_rows[row.ordinal]
        assert stored.ByteSize() > 2 * 16 * 20_000
        assert applied.state.whole_row(row) == stored
        packed = applied.state._packed._sets[row.ordinal]
        assert packed[1] is None, "the same bytes are kept once"
        assert len(packed[0]) * 4 < len(stored.previous_gtids)


def test_a_start_tells_nothing_twice() -> None:
    """It is kept for every file, so it has neither sets nor lists that grow with the log."""
    _, _, starts = history()
    for ordinal, start in starts.items():
        assert start.first_file == ordinal
        assert not (start.executed or start.purged or start.names_used or start.name_epochs)
        assert not (start.HasField("file") or start.HasField("open_transaction"))
        assert len(start.SerializeToString()) < 500


def test_a_name_is_not_given_twice_in_an_epoch_even_after_a_purge() -> None:
    """The answer must not depend on which files a node still holds."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets)
    second = file_a("binlog.000002", "a:1-3")
    changes = applied.batch(cutter, second, packets_of(second.events))
    applied.apply(Command(purge=Purge(first_index=changes.index)))
    again = applied.batch(cutter, file_a(), packets_of(file_a().events))
    assert (again.accepted, "was held already" in again.reason) == (False, True)

    cutter = applied.session(epoch=2, uuid=UUID_B)
    assert applied.batch(cutter, file_a(), packets_of(file_a().events)).accepted
    assert applied.state.files[-1].served_name == "e2-binlog.000001"
    again = applied.batch(cutter, file_a(), packets_of(file_a().events))
    assert "was held already" in again.reason


def gap(text: str) -> Command:
    return Command(accept_gap=AcceptGap(gtids=gtids(text).encode()))


def held_whole() -> Applied:
    """Transactions 1-3 of a."""
    applied, file, packets, cutter = opened(3)
    assert applied.batch(cutter, file, packets).accepted
    return applied


def behind_a_gap() -> tuple[Applied, BinlogFile]:
    """Transactions 1-3 of a, a gap of b:1-4, and then the first file of b."""
    applied = held_whole()
    assert applied.apply(gap("b:1-4")).accepted
    cutter = applied.session(epoch=2, uuid=UUID_B)
    file = BinlogFile("binlog.000001", UUID_B, gtids("a:1-3,b:1-4"))
    file.transaction(5)
    changes = applied.batch(cutter, file, packets_of(file.events))
    assert changes.accepted, changes.reason
    return applied, file


def test_an_accepted_gap_ends_the_session_and_counts_as_had() -> None:
    """The stream that runs knows nothing of it; what was held is served until a file begins."""
    applied = held_whole()
    changes = applied.apply(gap("b:1-4,a:1-3"))
    state = applied.state
    assert changes.accepted and changes.checkpoint
    assert state.session == 0
    assert state.executed == gtids("a:1-3,b:1-4") and not state.purged
    assert state.accepted_gap == gtids("b:1-4")
    assert len(state.files) == 1


def test_the_file_behind_a_gap_is_the_first_one() -> None:
    """Everything before it counts as purged, the gap included, and the rows of it are gone."""
    applied, file = behind_a_gap()
    state = applied.state
    assert [row.served_name for row in state.files] == ["e2-binlog.000001"]
    assert state.executed == gtids("a:1-3,b:1-5")
    assert state.purged == gtids("a:1-3,b:1-4")
    assert not state.accepted_gap
    assert sorted(applied.rows) == [state.index]
    assert applied.visible(2) == file.bytes()
    again = RelayState.from_record(state.to_record(), applied.file_rows.values())
    assert again.digest() == state.digest()


def test_a_gap_survives_a_restart_before_the_file() -> None:
    """The record has it: whoever starts from there drops the same files."""
    applied = held_whole()
    applied.apply(gap("b:1-4"))
    again = RelayState.from_record(applied.state.to_record(), applied.file_rows.values())
    assert again.accepted_gap == gtids("b:1-4")
    assert again.digest() == applied.state.digest()


def test_nothing_goes_on_in_the_file_before_an_accepted_gap() -> None:
    """A session that was planned before the gap was known is none: its stream would cross it."""
    applied = held_whole()
    applied.apply(gap("b:1-4"))
    assert "gap" in applied.apply(session_command()).reason
    assert applied.state.session == 0
    applied.session(epoch=2)
    assert not applied.apply(session_command(epoch=2)).accepted
    applied.session(epoch=3)
    assert applied.state.accepted_gap == gtids("b:1-4"), "until a file begins"


def test_a_gap_that_is_none_is_ignored() -> None:
    """What is there, an empty relay, and a set that does not parse."""
    applied = held_whole()
    assert "there" in applied.apply(gap("a:2")).reason
    broken = Command(accept_gap=AcceptGap(gtids=b"x"))
    assert not applied.apply(broken).accepted
    assert "empty" in Applied().apply(gap("a:2")).reason


def test_the_first_cluster_key_counts() -> None:
    """What was sealed with it must stay readable; the same key again is no error."""
    applied = Applied()

    assert applied.apply(Command(cluster_key=ClusterKey(key_id="one"))).accepted
    assert applied.apply(Command(cluster_key=ClusterKey(key_id="one"))).accepted
    assert not applied.apply(Command(cluster_key=ClusterKey(key_id="two"))).accepted
    assert applied.state.cluster_key == ClusterKey(key_id="one")


def test_users_come_and_go() -> None:
    """One command changes several; the rest stay, and the stored state has them all."""
    applied = Applied()
    seen = applied.state.users
    for users, dropped in (("ab", ""), ("b", "a"), ("c", "x")):
        made = [User(name=name, rights=[*users]) for name in users]
        applied.apply(Command(user_changes=UserChanges(users=made, dropped=[*dropped])))
        assert applied.state.users is not seen, "a change is noticed by that"
        seen = applied.state.users

    assert seen == {"b": User(name="b", rights=["b"]), "c": User(name="c", rights=["c"])}
    again = RelayState.from_record(applied.state.to_record())
    assert again.users == seen
    assert again.digest() == applied.state.digest()


def test_the_last_configuration_of_a_member_counts() -> None:
    """Listener and attributes are kept by member."""
    applied = Applied()
    for started in (True, False):
        applied.apply(Command(server_config=ServerConfig(member_id=2**63, started=started)))
    applied.apply(Command(member_attributes=MemberAttributes(member_id=7, version="1")))

    assert applied.state.servers == {2**63: ServerConfig(member_id=2**63, started=False)}
    assert applied.state.members == {7: MemberAttributes(member_id=7, version="1")}


def test_a_record_of_a_later_version_is_refused() -> None:
    """It says which version is known."""
    with pytest.raises(UnknownStateVersionError, match=f"knows version {STATE_VERSION}"):
        RelayState.from_record(StateRecord(version=STATE_VERSION + 1))


@pytest.mark.parametrize(
    ("command", "version"),
    [
        (Command(source_config=SourceConfig(user="u", mode="gtid")), 1),
        (Command(source_config=SourceConfig(user="u", mode="position")), 2),
        (Command(user_changes=UserChanges(users=[User(name="u")])), 2),
        (Command(user_changes=UserChanges(users=[User(name="u", channel=1)])), 3),
        (Command(channel=Channel(number=1, name="one")), 3),
    ],
    ids=["as ever", "by position", "users", "of a channel", "channels"],
)
def test_a_record_bears_the_version_that_it_needs(command: Command, version: int) -> None:
    """A program of the version before reads what holds nothing new, and refuses the rest."""
    applied = Applied()
    applied.apply(command)
    record = applied.state.to_record()
    assert record.version == version
    assert RelayState.from_record(record).to_record() == record


@pytest.mark.parametrize("mark", [False, True], ids=["cut", "mark"])
def test_an_older_program_is_not_given_what_was_cut(mark: bool) -> None:
    """It would take the file for whole: each record that tells of it says so, and no other does."""
    applied = held_whole()
    assert applied.state.to_record().version == 1
    purge = Purge(first_index=applied.state.index + 1, description=b"described", mark=mark)
    command = Command(purge=purge)
    changes = applied.apply(command)
    assert changes.accepted, changes.reason
    assert applied.state.to_record().version == version_needed(command)
    if changes.start is not None:
        assert changes.start[1].version == version_needed(command)

    cutter = applied.session()
    file = BinlogFile("binlog.000002", UUID_A, gtids("a:1-3"))
    started = applied.batch(cutter, file, packets_of(file.events)).start
    assert started is not None
    assert started[1].version == 1, "the cut file is no part of it"
    assert applied.state.to_record().version == (1 if mark else version_needed(command))
    applied.apply(Command(purge=Purge(first_index=applied.state.index)))
    assert applied.state.to_record().version == 1


def test_a_session_resumes_by_position_behind_the_last_transaction() -> None:
    """The dump begins at the last stored transaction, which is read again and compared."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:6])
    session = applied.session().session

    point = applied.state.resume_point()

    assert (point.by_position, point.session, point.epoch) == (True, session, 1)
    assert (point.file_name, point.position) == (file.name, packets[3].event.end)
    assert point.dump_position == packets[0].event.start
    assert point.executed == gtids("a:1")
    assert point.file_created == file.created
    assert point.held_files == {file.name: file.created}
    point.executed.add(UUID_B, "", 1, 1)
    assert applied.state.executed == gtids("a:1"), "the stream owns a copy"


def test_an_empty_relay_or_a_new_epoch_resumes_by_gtid() -> None:
    """There is no file of the epoch to go on in."""
    applied, file, packets, cutter = opened()
    assert applied.state.resume_point().dump_position == file.events[1].end
    applied.batch(cutter, file, packets)
    applied.session(epoch=2, uuid=UUID_B)

    point = applied.state.resume_point()

    assert (point.by_position, point.file_name, point.held_files) == (False, "", {})
    assert point.last_transaction is None
    assert point.executed == gtids("a:1-3")


def test_a_file_that_repeats_what_is_held_is_resumed_by_gtid() -> None:
    """By position the source would send what it skipped, or was yet to skip."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets)
    cutter = applied.session(epoch=2, uuid=UUID_B)
    other = BinlogFile("b.000001", UUID_B, gtids("a:1-2"))
    applied.batch(cutter, other, packets_of(other.events))
    assert not applied.state.resume_point().by_position

    third = BinlogFile("b.000002", UUID_B, gtids("a:1-3"))
    applied.batch(cutter, third, packets_of(third.events))
    assert applied.state.resume_point().by_position


def u32s(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


@pytest.mark.parametrize(
    "change",
    [
        {"packet_offsets": b""},
        {"packet_offsets": b"abc"},
        {"packet_offsets": u32s(0, 50, 40, 60)},
        {"packet_offsets": u32s(9, 50, 60, 70)},
        {"packet_offsets": u32s(0, 50, 60, 2**31)},
        {"packet_offsets": u32s(0, 2**32 - 2, 5, 60)},
        {"transaction_packets": u32s(4)},
        {"transaction_packets": b"abc"},
        {"transaction_packets": b""},
        {"transaction_packets": u32s(0, 0)},
        {"visible_packets": 5},
        {"visible_packets": 3},
        {"visible_packets": 0},
        {"visible_position": 5},
        {"visible_transactions": 0},
        {"visible_transactions": 2},
        {"start_position": 3},
        {"end_position": 1 << 60},
        {"gap_before": 7},
        {"begins_in_transaction": True},
        {"begins_in_event": True},
        {"ends_in_transaction": True},
        {"ends_in_event": True},
        {"closes_transaction": True},
        {"file_name": "binlog.000009"},
        {"epoch": 2},
        {"channel": 1},
    ],
    ids=str,
)
def test_a_batch_that_cannot_be_is_ignored(change: dict[str, object]) -> None:
    """Whatever is wrong with a batch: a reason, no exception, and nothing changed."""
    applied, file, packets, cutter = opened()
    meta, raw = cutter.cut(file, packets[:4])
    for key, value in change.items():
        setattr(meta, key, value)

    changes = applied.apply(batch_command(meta), raw)

    assert not changes.accepted, meta


@pytest.mark.parametrize(
    ("uuid", "first", "last"),
    [(UUID_A[:5], 1, 1), (UUID_A, 0, 0), (UUID_A, 2, 1), (UUID_A, 1, 9), (UUID_A, 2**63, 2**63)],
)
def test_impossible_gtids_are_ignored(uuid: bytes, first: int, last: int) -> None:
    """Uuids have 16 bytes, numbers are between 1 and the server's limit."""
    applied, file, packets, cutter = opened()
    meta, raw = cutter.cut(file, packets[:4])
    meta.gtid_runs[0].uuid, meta.gtid_runs[0].first, meta.gtid_runs[0].last = uuid, first, last

    assert not applied.apply(batch_command(meta), raw).accepted


@pytest.mark.parametrize("tag", ["\ufffd", "Upper", "9", "a" * 33, "a b"])
def test_impossible_tags_are_ignored(tag: str) -> None:
    """A set with one could be neither written nor read again."""
    applied, file, packets, cutter = opened()
    meta, raw = cutter.cut(file, packets[:4])
    meta.gtid_runs[0].tag = tag

    assert not applied.apply(batch_command(meta), raw).accepted


def test_a_transaction_is_held_once() -> None:
    """One that is held already is refused, wherever it stands in the batch."""
    for numbers in ((1,), (1, 1), (2, 1)):
        applied, file, packets, cutter = opened(1)
        if len(numbers) == 1:
            applied.batch(cutter, file, packets)
        again = file_a()
        again.events = file.events[:] if len(numbers) == 1 else file.events[:2]
        for number in numbers:
            again.transaction(number)
        start = len(file.events) if len(numbers) == 1 else 2
        if numbers == (2, 1):
            applied.state.executed.add(UUID_A, "", 1, 1)

        changes = applied.batch(cutter, again, packets_of(again.events[start:]))

        assert not changes.accepted


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), min_size=1, max_size=6))
def test_a_batch_holds_each_transaction_once(numbers: list[tuple[str, int]]) -> None:
    """In any order of sources and numbers; what is in it twice makes it no part of the log."""
    applied, file, _, cutter = opened(0)
    before = len(file.events)
    for name, number in numbers:
        file.uuid = UUID_A if name == "a" else UUID_B
        file.transaction(number)

    changes = applied.batch(cutter, file, packets_of(file.events[before:]))

    assert changes.accepted == (len(set(numbers)) == len(numbers)), changes.reason
    if changes.accepted:
        together = ",".join(f"{name}:{number}" for name, number in numbers)
        assert applied.state.executed == gtids(together)


def test_a_file_that_cannot_be_is_ignored() -> None:
    """Held already, nameless, of another epoch, or beginning elsewhere than at its beginning."""
    applied, file, _, cutter = opened()
    meta, raw = cutter.cut(file, packets_of(file.events[:2]))
    assert "held already" in applied.apply(batch_command(meta), raw).reason
    for name in ("", "a\0b", "x" * 513):
        meta.file_name = name
        assert "name" in applied.apply(batch_command(meta), raw).reason
    meta.file_name = "binlog.000002"
    for epoch in (0, 2):
        meta.epoch = epoch
        assert "epoch" in applied.apply(batch_command(meta), raw).reason
    meta.epoch = 1
    meta.start_position += 4
    assert "begins" in applied.apply(batch_command(meta), raw).reason


def test_a_file_cannot_begin_inside_a_transaction() -> None:
    """No source does that."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets[:2])
    second = file_a("binlog.000002")
    cutter.in_transaction = False

    assert "open" in applied.batch(cutter, second, packets_of(second.events)).reason


def test_an_event_over_several_batches_is_visible_when_it_is_whole() -> None:
    """A transaction with an event of more than 16 MiB, one packet a batch."""
    applied, file, _, cutter = opened(0)
    file.transaction(1, sizes=[20 << 20])
    packets = packets_of(file.events[2:])
    assert len(packets) == 5

    for packet in packets:
        assert applied.state.visible.position == file.events[1].end
        assert applied.batch(cutter, file, [packet]).accepted
        record = applied.state.to_record()
        applied.state = RelayState.from_record(record, applied.file_rows.values())

    assert applied.visible(1) == file.bytes()


def test_a_fence_inside_an_event_begins_with_whole_events_again() -> None:
    """What the former session had of the event is not waited for."""
    applied, file, _, cutter = opened(0)
    file.transaction(1, sizes=[20 << 20])
    packets = packets_of(file.events[2:])
    applied.batch(cutter, file, packets[:3])

    cutter = applied.session()

    assert applied.batch(cutter, file, packets).accepted


def test_skipped_stretches_that_touch_are_one_gap() -> None:
    """Also when an abandoned transaction lay between the notes of them."""
    applied, file, packets, cutter = opened()
    applied.batch(
        cutter, file, packets[4:6], gap_before=packets[4].event.start - file.events[2].start
    )
    cutter = applied.session()
    hole = packets[8].event.start - packets[4].event.start
    assert applied.batch(cutter, file, packets[8:], gap_before=hole).accepted

    (gap,) = applied.state.files[0].gaps
    assert (gap.start, gap.end) == (file.events[2].start, packets[8].event.start)


def test_a_file_knows_its_times_and_its_last_transaction() -> None:
    """The first time stays; the last transaction is one of the open file or none."""
    applied, file, packets, cutter = opened()
    applied.batch(cutter, file, packets)
    row = applied.state.files[0]
    assert row.first_time == int.from_bytes(file.events[0].data[:4], "little")
    assert row.last_time == applied.state.last_event_time == file.time
    assert applied.state.last_transaction is not None
    assert applied.state.last_transaction.end_position == file.end

    second = file_a("binlog.000002", "a:1-3")
    applied.batch(cutter, second, packets_of(second.events))
    assert applied.state.last_transaction is None


def test_an_unknown_kind_changes_nothing() -> None:
    """A command without a kind is ignored, and its index counts as applied."""
    applied = Applied()
    assert not applied.apply(Command(version=1)).accepted
    applied.state.skip(7)
    assert applied.state.index == 7


class Histories(RuleBasedStateMachine):
    """Sources, sessions, kills in mid-transaction, repeated and stale batches, restarts.

    The model is what the sources hold: a relay shows whole transactions of it, each once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.applied = Applied()
        self.epoch = 0
        self.numbers = {UUID_A: 0, UUID_B: 0}
        self.uuid = UUID_B
        self.history: list[Event] = []
        self.files: dict[tuple[int, str], BinlogFile] = {}
        self.source: list[BinlogFile] = []
        self.cutter: Cutter | None = None
        self.queue: list[tuple[BinlogFile, Packet, int]] = []
        self.sent: list[tuple[Command, bytes]] = []
        self.failover(copied=0)

    def remember(self, file: BinlogFile) -> None:
        self.source.append(file)
        self.files[self.epoch, file.name] = file

    @rule(copied=st.integers(0, 3))
    def failover(self, copied: int) -> None:
        """Another source, which has what the relay has; some of it in its first file."""
        self.epoch += 1
        self.uuid = UUID_A if self.uuid == UUID_B else UUID_B
        state = self.applied.state
        self.numbers = {UUID_A: 0, UUID_B: 0}
        for uuid, _, _, last in state.executed.runs():
            self.numbers[uuid] = last
        self.source = []
        previous = state.executed.copy()
        shown = [
            event
            for event in self.history
            if event.gtid and state.executed.contains_gtid(*event.gtid)
        ]
        again = shown[len(shown) - copied :] if copied else []
        taken = GtidSet()
        for event in again:
            assert event.gtid is not None
            taken.add(*event.gtid[:2], event.gtid[2], event.gtid[2])
        file = BinlogFile("binlog.000001", self.uuid, previous.subtract(taken))
        for event in again:
            assert event.gtid is not None
            file.uuid = event.gtid[0]
            file.transaction(event.gtid[2])
        file.uuid = self.uuid
        self.remember(file)
        self.cutter = None

    @rule(sizes=st.lists(st.integers(0, 30), max_size=4), count=st.integers(1, 3))
    def commit(self, sizes: list[int], count: int) -> None:
        for _ in range(count):
            self.numbers[self.uuid] += 1
            file = self.source[-1]
            file.transaction(self.numbers[self.uuid], sizes)
            self.history.append(file.events[-3 - len(sizes)])
        self.refill()

    @rule(rotate=st.booleans())
    def next_file(self, rotate: bool) -> None:
        name = f"binlog.{len(self.source) + 1:06}"
        if rotate:
            self.source[-1].rotate(name)
        else:
            self.source[-1].stop()
        previous = self.source[-1].previous.copy()
        for event in self.source[-1].events:
            if event.gtid:
                previous.add(*event.gtid[:2], event.gtid[2], event.gtid[2])
        self.remember(BinlogFile(name, self.uuid, previous))
        self.refill()

    @rule()
    def new_session(self) -> None:
        """The receiver dies wherever it is, and another one begins."""
        self.cutter = self.applied.session(epoch=self.epoch, uuid=self.uuid)
        self.position: tuple[str, int] = ("", 0)
        state = self.applied.state
        if state.files and state.files[-1].epoch == self.epoch:
            self.position = (state.visible.file_name, state.visible.position)
        self.skip = state.executed.copy()
        self.queue = []
        self.refill()

    def refill(self) -> None:
        """What the source would send from where the receiver is; known transactions it skips."""
        if self.cutter is None:
            return
        name, position = self.position
        if self.queue:
            name, position = self.queue[-1][0].name, self.queue[-1][1].event.end
        self.skipping, gap = False, 0
        for file in self.source:
            if file.name < name:
                continue
            gap = 0
            self.skipping = False
            for event in file.events:
                if file.name == name and event.start < position:
                    continue
                if event.gtid is not None:
                    self.skipping = self.skip.contains_gtid(*event.gtid)
                if self.skipping and event.in_transaction:
                    gap += len(event.data)
                    continue
                for packet in packets_of([event]):
                    self.queue.append((file, packet, gap))
                    gap = 0
        # A gap at the end is known once something follows; nothing is queued for it yet.

    @precondition(lambda self: self.cutter is not None and self.queue)
    @rule(count=st.integers(1, 12))
    def send(self, count: int) -> None:
        assert self.cutter is not None
        file, _, gap = self.queue[0]
        chunk = [self.queue[0][1]]
        for other, packet, hole in self.queue[1:count]:
            if other is not file or hole:
                break
            chunk.append(packet)
        del self.queue[: len(chunk)]
        self.position = (file.name, chunk[-1].event.end)
        meta, raw = self.cutter.cut(file, chunk, gap_before=gap)
        changes = self.applied.apply(batch_command(meta), raw)
        self.sent.append((batch_command(meta), raw))
        assert changes.accepted, changes.reason

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        command, raw = data.draw(st.sampled_from(self.sent))
        assert not self.applied.apply(command, raw).accepted

    @rule()
    def stop(self) -> None:
        self.applied.apply(Command(source_config=SourceConfig(started=False)))
        self.cutter = None

    @rule()
    def restart(self) -> None:
        """A node that comes back from its record is the node that went."""
        state = self.applied.state
        record = StateRecord.FromString(state.to_record().SerializeToString())
        self.applied.state = RelayState.from_record(record, self.applied.file_rows.values())
        assert self.applied.state.digest() == state.digest()
        assert self.applied.state.visible == state.visible

    @invariant()
    def readers_see_the_source(self) -> None:
        state = self.applied.state
        shown = GtidSet()
        last = None
        for row in state.files:
            file = self.files[row.epoch, row.name]
            held = [
                event
                for event in file.events
                if event.end <= row.end_position
                and not any(gap.start <= event.start < gap.end for gap in row.gaps)
            ]
            assert self.applied.visible(row.ordinal) == b"".join(event.data for event in held)
            assert not held or not held[-1].in_transaction or held[-1].ends
            for event in held:
                if event.gtid:
                    last = event.gtid
                    assert not shown.contains_gtid(*event.gtid)
                    shown.add(event.gtid[0], event.gtid[1], event.gtid[2], event.gtid[2])
        assert shown == state.executed
        if last is not None:
            assert state.last_gtid == format_gtid(*last)
        names = [row.served_name for row in state.files]
        assert len(set(names)) == len(names)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
