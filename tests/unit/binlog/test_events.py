"""Events that real 9.7 and 5.6 servers sent, read and, where a source makes them up, rebuilt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog import artificial
from kingbus.binlog.checksum import ChecksumAlgorithm, is_intact, with_crc
from kingbus.binlog.errors import (
    DifferentFileError,
    FatalSourceErrorPacket,
    MalformedEventError,
    ReplacedAtSourceError,
    SourceErrorPacket,
    SourceLostTailError,
    UnknownFileError,
    error_packet,
)
from kingbus.binlog.event_types import EventType
from kingbus.binlog.events import (
    FormatDescription,
    Gtid,
    Heartbeat,
    QueryHead,
    Rotate,
    decode_previous_gtids,
    query_text,
)
from kingbus.binlog.header import EventHeader

FDE_97_START = bytes.fromhex(
    "8c62006b0f0b0000007b0000007f00000000000400392e372e342d32" + "00" * 43 + "8c62006b13000d000800"
    "0000000400040000006300041a08000000000000020000000a0a0a2a2a001234000a28000001fde6b3eb"
)
FDE_97_FROM_MIDDLE = bytes.fromhex(
    "7963006b0f0b0000007b0000000000000000000400392e372e342d32" + "00" * 43 + "0000000013000d000800"
    "0000000400040000006300041a08000000000000020000000a0a0a2a2a001234000a28000001920d1484"
)
FDE_97_SAME_FROM_START = bytes.fromhex(
    "7963006b0f0b0000007b0000007f00000000000400392e372e342d32" + "00" * 43 + "0000000013000d000800"
    "0000000400040000006300041a08000000000000020000000a0a0a2a2a001234000a28000001e93dd9d5"
)
FDE_56_START = bytes.fromhex(
    "6b68006b0f31020000740000007800000000000400352e362e32342d6c6f67" + "00" * 40 + "6b68006b1338"
    "0d0008001200040404041200005c00041a08000000080808020000000a0a0a191900014bfe9be1"
)
ROTATE_97 = bytes.fromhex(
    "00000000040b0000002c00000000000000200004000000000000006269" + "6e6c6f672e303030303032870bcb79"
)
GTID_56 = bytes.fromhex(
    "cd68006b2131020000300000004f090000000001d0f4d74ae4f711f1a29502fc00000001"
    "0f00000000000000f0125e78"
)
TAGGED_97 = bytes.fromhex(
    "4163006b2a0b00000052000000750400000000027600000002a0d502603d029103d10322c503a502c90304f103"
    "000000020404060a6d7974616708040a100c7f68378aaab660061075041283120ba1d04688"
)
LONG_TAG_97 = bytes.fromhex(
    "4163006b2a0b0000006c0000009f080000000002aa00000002a0d502603d029103d10322c503a502c90304f103"
    "000000020404063e615f6d7563685f6c6f6e6765725f7461675f6e616d655f6f665f33325f636808180a200c7f"
    "eb4d8aaab6600610dd041283120ba8cf1c63"
)
HEARTBEAT_56 = bytes.fromhex(
    "000000001b31020000270000006106000000006d7973716c2d62696e2e30303030303247afbad4"
)
HEARTBEAT_97 = bytes.fromhex(
    "00000000290b0000002c0000003a0200000000010d62696e6c6f672e3030303031350203fc3a020078e070d0"
)
PREVIOUS_EMPTY_56 = bytes.fromhex("6b68006b23310200001f000000970000000000000000000000000096364dc7")


def test_format_descriptions_of_real_servers_are_read():
    """Version, start time, number of event types and checksum algorithm come out right."""
    assert FormatDescription.decode(FDE_97_START) == FormatDescription(
        server_version="9.7.4-2",
        created=0x6B00628C,
        event_types=42,
        checksum=ChecksumAlgorithm.CRC32,
    )
    assert FormatDescription.decode(FDE_56_START).event_types == 35
    assert FormatDescription.decode(FDE_56_START).server_version == "5.6.24-log"


def test_an_old_server_without_checksums_is_read():
    """Before 5.6.1 the table goes up to the end of the event."""
    body = b"\4\0" + b"5.5.62".ljust(50, b"\0") + bytes(4) + b"\x13" + bytes(27)
    event = artificial.build_event(EventType.FORMAT_DESCRIPTION, body, server_id=1, crc=False)

    described = FormatDescription.decode(event)
    assert (described.event_types, described.checksum) == (27, ChecksumAlgorithm.NONE)
    assert artificial.format_description_for_dump(event, from_start=True) == event


def test_a_format_description_for_a_dump_from_the_middle_is_the_servers():
    """log_pos and created become 0 and the CRC is right, byte for byte as a 9.7 server does it."""
    assert (
        artificial.format_description_for_dump(FDE_97_SAME_FROM_START, from_start=False)
        == FDE_97_FROM_MIDDLE
    )
    assert artificial.format_description_for_dump(FDE_97_START, from_start=True) == FDE_97_START
    in_use = bytearray(FDE_97_START)
    in_use[17] |= 1
    assert artificial.format_description_for_dump(in_use, from_start=True) == FDE_97_START


def test_made_up_events_are_those_of_real_servers():
    """A fake rotate and both heartbeats are built byte for byte as captured."""
    rotate = Rotate.decode(ROTATE_97, crc_bytes=4)
    assert (rotate.position, rotate.file_name) == (4, "binlog.000002")
    assert artificial.fake_rotate("binlog.000002", 4, server_id=11, crc=True) == ROTATE_97

    assert Heartbeat.decode(HEARTBEAT_56, crc_bytes=4) == Heartbeat(
        file_name="mysql-bin.000002", position=1633, is_whole=False
    )
    assert artificial.heartbeat_v1("mysql-bin.000002", 1633, server_id=561, crc=True) == (
        HEARTBEAT_56
    )
    assert Heartbeat.decode(HEARTBEAT_97, crc_bytes=4) == Heartbeat(
        file_name="binlog.000015", position=570, is_whole=True
    )
    assert artificial.heartbeat_v2("binlog.000015", 570, server_id=11, crc=True) == HEARTBEAT_97


@given(st.integers(4, (1 << 40)), st.text("abc.é", min_size=1, max_size=20), st.booleans())
def test_heartbeats_and_rotates_round_trip(position, name, crc):
    """Name and position survive, whole where the event has room for them, with and without CRC."""
    crc_bytes = 4 if crc else 0
    v1 = artificial.heartbeat_v1(name, position, server_id=1, crc=crc)
    v2 = artificial.heartbeat_v2(name, position, server_id=1, crc=crc)
    rotate = artificial.fake_rotate(name, position, server_id=1, crc=crc)

    assert Heartbeat.decode(v1, crc_bytes=crc_bytes).position == position & 0xFFFFFFFF
    assert Heartbeat.decode(v2, crc_bytes=crc_bytes).position == position
    assert Heartbeat.decode(v2, crc_bytes=crc_bytes).file_name == name
    assert Rotate.decode(rotate, crc_bytes=crc_bytes) == Rotate(position=position, file_name=name)
    for event in (v1, v2, rotate):
        assert EventHeader.decode(event).size == len(event)
        assert is_intact(event) == crc


def test_gtid_events_of_real_servers_are_read():
    """The short form of 5.6 and the tagged form of 9.7 give identity and length."""
    assert Gtid.decode(GTID_56, crc_bytes=4) == Gtid(
        uuid=bytes.fromhex("d0f4d74ae4f711f1a29502fc00000001"),
        tag="",
        number=15,
        transaction_length=0,
    )
    assert Gtid.decode(TAGGED_97, crc_bytes=4) == Gtid(
        uuid=bytes.fromhex("50b5308fe4f411f1a9f202fc00000001"),
        tag="mytag",
        number=1,
        transaction_length=285,
    )
    assert Gtid.decode(LONG_TAG_97, crc_bytes=4).tag == "a_much_longer_tag_name_of_32_ch"


@pytest.mark.parametrize("length", [250, 251, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000, 1 << 40])
@pytest.mark.parametrize("original", [False, True])
def test_transaction_lengths_of_all_widths_are_read(length, original):
    """The length is found behind one or two timestamps, in each of its widths."""
    body = b"\0" + bytes(range(16)) + (7).to_bytes(8, "little") + b"\2" + bytes(16)
    body += b"\1" * 6 + (b"\x81" + b"\2" * 7 if original else b"\1")
    width, lead = {250: (0, 250), 251: (2, 0xFC), 0xFFFF: (2, 0xFC)}.get(
        length, (3, 0xFD) if length <= 0xFFFFFF else (8, 0xFE)
    )
    body += bytes((lead,)) + (length.to_bytes(width, "little") if width else b"")
    event = artificial.build_event(
        EventType.GTID, body + (90704).to_bytes(4, "little"), server_id=1, crc=True
    )

    assert Gtid.decode(event, crc_bytes=4).transaction_length == length


def test_previous_gtids_of_an_empty_server_are_the_empty_set():
    """Eight zero bytes are the empty set."""
    assert not decode_previous_gtids(PREVIOUS_EMPTY_56, crc_bytes=4)


def test_the_statement_of_a_query_event_is_found():
    """It lies behind schema and status variables; a part of the event gives a part of it."""
    body = bytes(8) + b"\4" + bytes(2) + b"\3\0" + b"abc" + b"test\0" + b"INSERT INTO t VALUES (1)"
    event = artificial.build_event(EventType.QUERY, body, server_id=1, crc=True)

    assert query_text(event, crc_bytes=4) == b"INSERT INTO t VALUES (1)"
    assert query_text(event[:50], crc_bytes=4, size=len(event)) == b"INSERT INT"


@given(st.sampled_from(list(EventType)), st.binary(max_size=90), st.booleans())
def test_garbage_bodies_are_refused_with_the_one_error(type_, body, crc):
    """A body of any bytes is read or refused with MalformedEventError, never another exception."""
    event = artificial.build_event(type_, body, server_id=1, crc=crc)
    crc_bytes = 4 if crc else 0
    readers = [
        lambda: FormatDescription.decode(event),
        lambda: Rotate.decode(event, crc_bytes=crc_bytes),
        lambda: Gtid.decode(event, crc_bytes=crc_bytes),
        lambda: decode_previous_gtids(event, crc_bytes=crc_bytes),
        lambda: query_text(event, crc_bytes=crc_bytes),
        lambda: Heartbeat.decode(event, crc_bytes=crc_bytes),
    ]
    for read in readers:
        try:
            read()
        except MalformedEventError:
            continue


@given(st.binary(min_size=1, max_size=200), st.data())
def test_one_flipped_bit_is_noticed(data, draw):
    """The residue check fails for every single flipped bit."""
    event = bytearray(with_crc(data))
    assert is_intact(event)
    bit = draw.draw(st.integers(0, len(event) * 8 - 1))
    event[bit // 8] ^= 1 << (bit % 8)

    assert not is_intact(event)


def test_error_packets_say_what_to_do():
    """Number and text decide between reconnecting, asking otherwise, and an operator."""
    assert type(error_packet(2013, "HY000", "Lost connection")) is SourceErrorPacket
    assert not SourceErrorPacket.fatal and FatalSourceErrorPacket.fatal
    assert isinstance(error_packet(1236, "HY000", "purged"), FatalSourceErrorPacket)
    assert isinstance(error_packet(1045, "28000", "Access denied"), FatalSourceErrorPacket)
    replaced = "A replica with the same server_uuid/server_id as this replica has connected"
    assert isinstance(error_packet(1236, "HY000", replaced), ReplacedAtSourceError)
    tail = "Client requested source to start replication from position > file size"
    assert isinstance(error_packet(1236, "HY000", tail), SourceLostTailError)
    unknown = "Could not find first log file name in binary log index file"
    assert isinstance(error_packet(1236, "HY000", unknown), UnknownFileError)
    assert not DifferentFileError.fatal


_VARIABLES = [
    b"\x00" + bytes(4),
    b"\x01" + bytes(8),
    b"\x02\x03std\0",
    b"\x03" + bytes(4),
    b"\x04" + bytes(6),
    b"\x05\x03UTC",
    b"\x06\x03std",
    b"\x0b\x04root\x00",
    b"\x0c\x02shop\0other\0",
    b"\x0c\xfe",
    b"\x0d" + bytes(3),
    b"\x10\x01",
    b"\x12" + bytes(2),
    b"\x13\x00",
    b"\x14\x00",
]
"""Status variables of a QUERY event as MySQL writes them, none of them the one looked for."""


def query(variables: bytes, schema: bytes = b"shop") -> bytes:
    """A QUERY event without a checksum."""
    head = bytes(8) + bytes((len(schema),)) + bytes(2) + len(variables).to_bytes(2, "little")
    return bytes(19) + head + variables + schema + b"\0CREATE TABLE t (a INT)"


@given(st.permutations(_VARIABLES), st.integers(0, len(_VARIABLES)), st.integers(0, 2**64 - 1))
def test_the_number_of_a_data_definition_is_found(
    variables: list[bytes], at: int, xid: int
) -> None:
    """Between whatever other variables it stands; and its absence is seen."""
    without = b"".join(variables)
    wanted = b"\x11" + xid.to_bytes(8, "little")
    event = query(b"".join([*variables[:at], wanted, *variables[at:]]))
    assert QueryHead.decode(event, crc_bytes=0) == QueryHead(schema=b"shop", ddl_xid=xid)
    assert QueryHead.decode(query(without, b""), crc_bytes=0) == QueryHead(schema=b"", ddl_xid=None)


@given(st.binary(max_size=40))
def test_unknown_status_variables_do_no_harm(variables: bytes) -> None:
    """Whatever stands there, the schema is right, and nothing is read behind the event."""
    assert QueryHead.decode(query(variables), crc_bytes=0).schema == b"shop"
    assert query_text(query(variables), crc_bytes=0) == b"CREATE TABLE t (a INT)"
