"""Commands are read as real clients send them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.mysql.commands import (
    BinlogDump,
    BinlogDumpGtid,
    CloseStatement,
    Execute,
    InitDb,
    Ping,
    Prepare,
    Query,
    Quit,
    RegisterReplica,
    ResetStatement,
    UnknownCommand,
    decode_command,
    encode_dump,
    encode_dump_gtid,
    encode_query,
    encode_register,
)
from kingbus.mysql.constants import Capability, DumpFlag
from kingbus.mysql.errors import MalformedPacketError, ProtocolError


def decode(payload: bytes, capabilities: Capability = Capability.PROTOCOL_41, charset: int = 255):
    return decode_command(payload, capabilities=capabilities, charset=charset)


REGISTER = bytes.fromhex("1547000000087265702d686f73740000") + bytes.fromhex("2f810000000000000000")


def test_registering_is_read_without_its_password() -> None:
    """The captured registration of a 9.7 replica; user and password are not kept."""
    command = decode(REGISTER)

    assert command == RegisterReplica(server_id=71, host="rep-host", port=33071, source_id=0)
    assert encode_register(command) == REGISTER


def test_dump_by_position_of_a_replica() -> None:
    """The captured command of a 9.7 replica."""
    payload = bytes.fromhex("1201090000020047000000") + b"binlog.000007"
    command = decode(payload)

    assert command == BinlogDump(
        file="binlog.000007",
        position=2305,
        flags=DumpFlag.USE_HEARTBEAT_EVENT_V2,
        server_id=71,
    )
    assert encode_dump(command) == payload


def test_dump_by_gtid_of_a_replica() -> None:
    """The captured command of a 9.7 replica with an empty set."""
    payload = bytes.fromhex("1e02004700000000000000040000000000000008000000" + "0000000000000000")
    command = decode(payload)

    assert command == BinlogDumpGtid(
        file="", position=4, flags=DumpFlag(2), server_id=71, gtid_set=bytes(8)
    )
    assert encode_dump_gtid(command) == payload


@pytest.mark.parametrize(
    ("name", "meant"), [(b"", ""), (b"\0\0\0", ""), (b"a.1\0", "a.1"), (b"a.1\0\0zz", "a.1")]
)
def test_file_names_end_at_their_first_nul(name: bytes, meant: str) -> None:
    """5.6 and tools send names that consist of NULs or end in one."""
    by_position = b"\x12" + bytes(10) + name
    by_gtid = b"\x1e" + bytes(6) + len(name).to_bytes(4, "little") + name + bytes(12)

    assert decode(by_position).file == meant
    assert decode(by_gtid).file == meant


@given(st.integers(0, 2**64 - 1), st.integers(0, 7), st.binary(max_size=80))
def test_gtid_dumps_round_trip(position: int, flags: int, gtid_set: bytes) -> None:
    """Positions are 64 bits wide and the set is carried as it came."""
    command = BinlogDumpGtid(
        file="binlog.000001",
        position=position,
        flags=DumpFlag(flags),
        server_id=2**32 - 1,
        gtid_set=gtid_set,
    )

    assert command == decode(encode_dump_gtid(command))


def test_plain_queries_and_small_commands() -> None:
    """One byte says which."""
    assert decode(encode_query("SELECT 'ä'")) == Query(sql="SELECT 'ä'")
    assert decode(b"\x03SELECT '\xe4'", charset=8) == Query(sql="SELECT 'ä'")
    assert decode(b"\x0e") == Ping()
    assert decode(b"\x01") == Quit()
    assert decode(b"\x02mysql") == InitDb(name="mysql")
    assert decode(b"\x16SELECT ?") == Prepare(sql="SELECT ?")
    assert decode(b"\x17\x07\0\0\0\0\x01\0\0\0") == Execute(statement_id=7)
    assert decode(b"\x19\x07\0\0\0") == CloseStatement(statement_id=7)
    assert decode(b"\x1a\x07\0\0\0") == ResetStatement(statement_id=7)
    assert decode(b"\x1c\x07\0\0\0\x01\0\0\0") == UnknownCommand(code=0x1C)


ATTRIBUTES = Capability.PROTOCOL_41 | Capability.QUERY_ATTRIBUTES


def test_queries_with_attributes() -> None:
    """The attributes that may come before the text are read over, NULLs and all."""
    none = b"\x03\x00\x01SELECT 1"
    three = (
        b"\x03\x03\x01"  # three attributes, one set
        b"\x02\x01"  # the second is NULL; types follow
        b"\xfd\x00\x01a\x08\x00\x01b\x0c\x00\x01c"
        b"\x05value"
        b"\x04\x00\x01\x02\x03"
        b"SELECT 1"
    )

    assert decode(none, ATTRIBUTES) == Query(sql="SELECT 1")
    assert decode(three, ATTRIBUTES) == Query(sql="SELECT 1")
    with pytest.raises(MalformedPacketError):
        decode(b"\x03\xfc\xff\xff\x01", ATTRIBUTES)


def test_query_text_is_not_shown() -> None:
    """A statement may hold a password, and a repr may reach a log."""
    assert "hunter2" not in repr(Query(sql="CHANGE … SOURCE_PASSWORD='hunter2'"))


@pytest.mark.parametrize("payload", [b"", b"\x12\x04", b"\x15\x01\x00", b"\x1e" + b"\xff" * 20])
def test_cut_commands_are_malformed(payload: bytes) -> None:
    """A command whose fields are cut is one error, number 1835."""
    with pytest.raises(MalformedPacketError) as caught:
        decode(payload)

    assert caught.value.code == 1835


@given(st.binary(max_size=60), st.booleans())
def test_garbage_never_raises_anything_else(payload: bytes, attributes: bool) -> None:
    """Any bytes are a command or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        decode(payload, ATTRIBUTES if attributes else Capability.PROTOCOL_41)
