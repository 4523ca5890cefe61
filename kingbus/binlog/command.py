"""The data of a normal log entry: a command and, for event batches, raw packets behind it.

    length of the Command (u32, little-endian) | Command | raw MySQL packets

The bulk bytes stay outside protobuf so that they are never copied through it: `decode` hands them
out as a view of the entry. An empty entry is a new leader's and is not a command; callers leave
it out before they come here. Knows nothing of Raft, of storage or of what a command does.
"""

from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, ReceiverSession

BytesLike: TypeAlias = bytes | bytearray | memoryview

COMMAND_VERSION: Final = 3
"""What this program understands. 2 came with users of all listeners, accepted gaps, sources by
position and of MariaDB, compressed connections, and what a session tells of the source's settings;
3 with named channels.
"""
LENGTH_BYTES: Final = 4
# The meta of a 16 MiB batch of the smallest events (about 30 bytes) is a little over 2 MiB of
# packet offsets; a GTID run is at most about 80 bytes. Anything larger is damage, not a command.
COMMAND_BYTES_MAX: Final = 16 << 20


class MalformedCommandError(KingbusError):
    """An entry's data is not a command; the log of this member is not to be trusted."""

    hint = "Run `kingbus storage verify` on this member; replace it if records are damaged."


class UnknownCommandVersionError(KingbusError):
    """The log holds a command that this program is too old for."""

    hint = "Upgrade this member to the version that the other members run."


def version_needed(command: Command) -> int:
    """The version that a member must know so that it does not pass over a part of the command.

    What an older member has to know is told in older words where that is possible: then a cluster
    whose members are of two versions goes on as it did.
    """
    if channel_of(command):
        return 3
    match command.WhichOneof("kind"):
        case "channel":
            return 3
        case "purge":
            return 3 if command.purge.description else 1
        case "user_changes":
            return 3 if any(user.channel for user in command.user_changes.users) else 2
        case "accept_gap":
            return 2
        case "source_config":
            config = command.source_config
            is_plain = config.mode in {"", "gtid"} and config.flavor in {"", "mysql"}
            return 1 if is_plain and not config.compression else 2
        case "receiver_session":
            session = command.receiver_session
            is_plain = not (session.mode or session.gtid_mode or session.variables)
            return 1 if is_plain and session.flavor in {"", "mysql"} else 2
    return 1


def in_older_words(session: ReceiverSession) -> None:
    """Leaves out of a session what members of version 1 do not know, where nothing hangs on it."""
    session.ClearField("variables")
    session.ClearField("gtid_mode")
    if session.mode == "gtid":
        session.ClearField("mode")


def encode(command: Command, packets: BytesLike = b"") -> bytes:
    """The data of the entry; sets the command's version when it has none."""
    assert command.WhichOneof("kind") is not None, "a command says what it is"
    if not command.version:
        command.version = version_needed(command)
    assert version_needed(command) <= command.version <= COMMAND_VERSION
    body = command.SerializeToString(deterministic=True)
    assert len(body) <= COMMAND_BYTES_MAX
    return b"".join((len(body).to_bytes(LENGTH_BYTES, "little"), body, packets))


def channel_of(command: Command) -> int:
    """The number of the channel that a command concerns; 0: the default one, or the cluster."""
    match command.WhichOneof("kind"):
        case "event_batch":
            return command.event_batch.channel
        case "receiver_session":
            return command.receiver_session.channel
        case "source_config":
            return command.source_config.channel
        case "server_config":
            return command.server_config.channel
        case "purge":
            return command.purge.channel
        case "accept_gap":
            return command.accept_gap.channel
        case _:
            return 0


def split(data: BytesLike) -> tuple[memoryview, int]:
    """The encoded Command, and where the packets begin; nothing is parsed or copied.

    Raises MalformedCommandError when the data is too short for the length that it names.
    """
    view = memoryview(data)
    if len(view) < LENGTH_BYTES:
        raise MalformedCommandError(f"an entry of {len(view)} bytes is too short for a command")
    length = int.from_bytes(view[:LENGTH_BYTES], "little")
    end = LENGTH_BYTES + length
    if length > COMMAND_BYTES_MAX or end > len(view):
        raise MalformedCommandError(
            f"an entry of {len(view)} bytes names a command of {length} bytes"
        )
    return view[LENGTH_BYTES:end], end


def decode(data: BytesLike) -> tuple[Command, memoryview]:
    """The command, and a view of the packets behind it.

    Raises MalformedCommandError for what is no command, UnknownCommandVersionError for one of a
    later version: its meaning is not known here, so it must not be passed over.
    """
    body, packets_offset = split(data)
    command = Command()
    try:
        command.ParseFromString(bytes(body))
    except DecodeError as error:
        raise MalformedCommandError("an entry's command does not parse") from error
    if command.version > COMMAND_VERSION:
        raise UnknownCommandVersionError(
            f"the log holds a command of version {command.version}; "
            f"this program knows version {COMMAND_VERSION}"
        )
    if command.version == 0 or command.WhichOneof("kind") is None:
        raise MalformedCommandError("an entry's command does not say what it is")
    packets = memoryview(data)[packets_offset:]
    if len(packets) and command.WhichOneof("kind") != "event_batch":
        raise MalformedCommandError(
            f"{len(packets)} bytes of packets follow a {command.WhichOneof('kind')} command"
        )
    return command, packets
