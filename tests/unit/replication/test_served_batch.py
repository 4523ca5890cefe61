"""A batch as dumps see it: positions, events, cutting by transaction."""

import numpy as np
import pytest

from kingbus.binlog.command import encode
from kingbus.replication.served_batch import ServedBatch, renumbered
from tests.support.relay_logs import (
    UUID_A,
    UUID_B,
    BinlogFile,
    Cutter,
    Packet,
    batch_command,
    gtids,
    packets_of,
)


def served(file: BinlogFile, packets: list[Packet], cutter: Cutter | None = None) -> ServedBatch:
    meta, raw = (cutter or Cutter(session=1, epoch=1)).cut(file, packets)
    return ServedBatch(encode(batch_command(meta), raw))


def file_of(*transactions: int) -> BinlogFile:
    file = BinlogFile("binlog.000001", UUID_A, gtids(""))
    for number in transactions:
        file.transaction(number)
    return file


def test_a_batch_counts_what_is_kept_of_its_meta() -> None:
    """The start of a file tells a set a second time, which is in memory once it is parsed."""
    previous = gtids(",".join(f"b:{number}" for number in range(1, 4001, 2)))
    file = BinlogFile("binlog.000001", UUID_A, previous)
    file.transaction(1)
    batch = served(file, packets_of(file.events))
    assert batch.size >= len(batch.data) + batch.meta.ByteSize() > 3 * len(previous.encode())


def test_every_event_has_its_position() -> None:
    """And its position has its packet; other positions have none."""
    file = file_of(1, 2)
    file.transaction(3, sizes=[17 << 20, 5])
    packets = packets_of(file.events)
    batch = served(file, packets)

    for number, packet in enumerate(packets):
        if packet.is_first:
            assert batch.position_of(number) == packet.event.start
            assert batch.packet_at(packet.event.start) == number
            assert batch.event_type(number) == packet.event.type
        else:
            assert batch.event_type(number) == -1
    assert batch.packet_at(file.events[3].start + 1) is None
    assert batch.event(3) == file.events[3].data


@pytest.mark.parametrize("cut", range(8, 12))
def test_positions_hold_where_an_event_goes_over_the_end(cut: int) -> None:
    """A batch that begins or ends inside an event still knows where the others lie."""
    file = file_of(1)
    file.transaction(3, sizes=[5, 33 << 20, 5])
    packets = packets_of(file.events)
    cutter = Cutter(session=1, epoch=1)
    parts = packets[:cut], packets[cut:]
    for part in parts:
        batch = served(file, part, cutter)
        for number, packet in enumerate(part):
            if packet.is_first:
                assert batch.packet_at(packet.event.start) == number
            else:
                with pytest.raises(AssertionError):
                    batch.position_of(number)


def test_cutting_by_transaction() -> None:
    """Spans alternate, hold whole transactions, and cover what was asked for."""
    file = file_of(1, 2, 3, 4, 5)
    batch = served(file, packets_of(file.events))

    def cut(known: str, first: int = 0, skipping: bool = False) -> list[tuple[int, int, bool]]:
        return batch.cut(first, batch.count, gtids(known), skipping=skipping)

    assert cut("") == [(0, 22, True)]
    assert cut("b:1-9") == [(0, 22, True)]
    assert cut("a:1-5") == [(0, 2, True), (2, 22, False)]
    assert cut("a:1-5", skipping=True) == [(0, 22, False)]
    assert cut("a:2-3") == [(0, 6, True), (6, 14, False), (14, 22, True)]
    assert cut("a:1,a:3,a:5") == [
        (0, 2, True),
        (2, 6, False),
        (6, 10, True),
        (10, 14, False),
        (14, 18, True),
        (18, 22, False),
    ]
    assert cut("a:1-2", first=6) == [(6, 10, False), (10, 22, True)]
    assert cut("a:4", first=10) == [(10, 14, True), (14, 18, False), (18, 22, True)]
    assert batch.cut(0, 10, gtids("a:2-4"), skipping=False) == [(0, 6, True), (6, 10, False)]


def test_runs_of_several_sources_are_told_apart() -> None:
    """Numbers alone say nothing."""
    file = file_of(1, 2)
    file.uuid = UUID_B
    file.transaction(2)
    file.transaction(7)
    batch = served(file, packets_of(file.events))

    spans = batch.cut(0, batch.count, gtids("a:2,b:7"), skipping=False)

    assert spans == [(0, 6, True), (6, 10, False), (10, 14, True), (14, 18, False)]
    found = [batch.transaction_before(packet) for packet in (0, 2, 3, 7, 11, 18)]
    assert found == [
        None,
        None,
        (UUID_A, "", 1),
        (UUID_A, "", 2),
        (UUID_B, "", 2),
        (UUID_B, "", 7),
    ]


def test_renumbering_changes_sequence_numbers_only() -> None:
    """In a copy: the stored packets stay as they are."""
    file = file_of(*range(1, 100))
    packets = packets_of(file.events)
    batch = served(file, packets)
    before = bytes(batch.packets)

    copy = renumbered(batch, 10, 390, 250)

    wanted = b"".join(
        packet.data[:3] + bytes(((250 + at) & 255,)) + packet.data[4:]
        for at, packet in enumerate(packets[10:390])
    )
    assert bytes(copy.data) == wanted
    assert bytes(batch.packets) == before
    assert copy.dtype == np.uint8
