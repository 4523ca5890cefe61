"""Entry data: one command, and raw packets behind an event batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.binlog.command import (
    COMMAND_VERSION,
    MalformedCommandError,
    UnknownCommandVersionError,
    decode,
    encode,
    in_older_words,
    split,
    version_needed,
)
from kingbus.pb.command_pb2 import (
    AcceptGap,
    Command,
    EventBatch,
    Purge,
    ReceiverSession,
    ServerConfig,
    SourceConfig,
    UserChanges,
)


@given(packets=st.binary(max_size=200), sequence=st.integers(0, 2**64 - 1))
def test_what_was_encoded_comes_back(packets: bytes, sequence: int) -> None:
    """Command and packets survive the round trip, and split finds the packets without parsing."""
    data = encode(Command(event_batch=EventBatch(sequence=sequence)), packets)

    command, raw = decode(data)
    body, offset = split(data)

    assert (command.version, command.event_batch.sequence) == (1, sequence)
    assert bytes(raw) == packets == data[offset:]
    assert Command.FromString(bytes(body)) == command


def test_packets_are_a_view_of_the_entry() -> None:
    """The bulk bytes are not copied on the way out."""
    data = bytearray(encode(Command(event_batch=EventBatch(sequence=1)), b"abc"))

    _, raw = decode(data)
    data[-1] = ord("z")

    assert bytes(raw) == b"abz"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00\x00",
        b"\x05\x00\x00\x00abc",
        b"\xff\xff\xff\xffabc",
        b"\x03\x00\x00\x00\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x02\x00\x00\x00\x08\x01",
        encode(Command(purge=Purge(first_index=1))) + b"tail",
    ],
)
def test_what_is_no_command_is_malformed(data: bytes) -> None:
    """Short, oversized, unparsable and kindless data give one clear error."""
    with pytest.raises(MalformedCommandError):
        decode(data)


def test_a_later_version_is_refused_by_name() -> None:
    """A command of a later version is not passed over, even when its kind is unknown here."""
    body = Command(version=COMMAND_VERSION + 1).SerializeToString()

    with pytest.raises(UnknownCommandVersionError, match=f"version {COMMAND_VERSION + 1}"):
        decode(len(body).to_bytes(4, "little") + body)


@given(st.binary(max_size=64))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    """Whatever the bytes are, the answer is a command or one of the two errors."""
    try:
        command, _ = decode(data)
    except (MalformedCommandError, UnknownCommandVersionError):
        return
    assert command.WhichOneof("kind") is not None


OLD = [
    Command(event_batch=EventBatch(sequence=1)),
    Command(purge=Purge(first_index=1)),
    Command(source_config=SourceConfig(addresses=["a:1"], mode="gtid", flavor="mysql")),
    Command(receiver_session=ReceiverSession(source_uuid="u", flavor="mysql")),
    Command(server_config=ServerConfig(member_id=1)),
]
NEW = [
    Command(user_changes=UserChanges(dropped=["u"])),
    Command(accept_gap=AcceptGap(gtids=b"")),
    Command(source_config=SourceConfig(mode="position")),
    Command(source_config=SourceConfig(flavor="mariadb")),
    Command(source_config=SourceConfig(compression="zstd")),
    Command(receiver_session=ReceiverSession(mode="position")),
    Command(receiver_session=ReceiverSession(flavor="mariadb")),
    Command(receiver_session=ReceiverSession(gtid_mode="ON")),
    Command(receiver_session=ReceiverSession(variables={"binlog_format": "ROW"})),
]


@pytest.mark.parametrize(
    ("command", "version"), [(each, 1) for each in OLD] + [(each, 2) for each in NEW], ids=str
)
def test_a_command_bears_the_version_that_it_needs(command: Command, version: int) -> None:
    """So a member of the version before reads what is not new, and refuses what is."""
    fresh = Command.FromString(command.SerializeToString())
    assert decode(encode(fresh))[0].version == version
    assert (version > 1) == (version_needed(command) > 1)


def test_a_session_can_be_told_in_older_words() -> None:
    """What is only shown is left out; by position and of MariaDB it is another thing altogether."""
    session = ReceiverSession(source_uuid="u", mode="gtid", gtid_mode="ON", variables={"a": "b"})
    in_older_words(session)
    assert session == ReceiverSession(source_uuid="u")
    for other in (ReceiverSession(mode="position"), ReceiverSession(flavor="mariadb")):
        in_older_words(other)
        assert version_needed(Command(receiver_session=other)) == 2
