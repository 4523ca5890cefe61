"""What a source says of itself, whether the relay can pull from it, and from where it goes on.

Owns the decisions before a receiver session, as plain functions: is the source fit, does it have
all that the relay lacks and lack nothing that the relay has, which epoch the session belongs to,
which dump command is right. Must not know how the facts were asked for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError
from kingbus.binlog.header import FIRST_POSITION
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.resume import ResumePoint
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import SourceConfig

COM_BINLOG_DUMP: Final = 0x12
COM_BINLOG_DUMP_GTID: Final = 0x1E
COM_REGISTER_SLAVE: Final = 0x15
FLAG_HEARTBEAT_V2: Final = 0x0002

_EARLIEST: Final = "earliest"
_NOW: Final = "now"
_POSITION_MAX: Final = 0xFFFF_FFFF  # of COM_BINLOG_DUMP
_DUMP: Final = Struct("<IHI")
_DUMP_GTID: Final = Struct("<HII")
_REGISTER: Final = Struct("<HII")


class SourceUnreachableError(KingbusError):
    """No connection, or it broke: worth another try soon, and another candidate."""


class SourceRefusedError(KingbusError):
    """The source answered with an error that an operator must deal with; its own text."""


class SourceUnfitError(KingbusError):
    """The relay cannot pull from this source as it is configured, here or there."""


class SourceMissesError(SourceUnfitError):
    """Source and relay do not fit together: one lacks transactions that the other has."""


class SourceBehindError(SourceMissesError):
    """The source lacks what the relay has. It may only lag: a node of another relay cluster does
    after a restart, or beside the one that was pulled from before, and so does a replica.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Answers of a source, asked for on the connection that will carry the dump."""

    address: str
    version: str
    server_id: int
    server_uuid: str
    gtid_mode: str
    has_binlog: bool
    gtid_executed: GtidSet
    gtid_purged: GtidSet
    checksum: str
    """What was announced: CRC32 or NONE."""
    clock: int
    """Seconds since 1970 by the source's clock."""
    max_binlog_size: int = 0
    """Bytes; 0: the source did not say."""
    read_only: bool = False
    """It takes no writes but from its own source, or from administrators."""


def unfit_config(config: SourceConfig) -> str:
    """What of a configuration is not possible yet; "" if it is all right."""
    if config.flavor not in {"", "mysql"}:
        return "a MariaDB source is not available yet"
    if config.mode not in {"", "gtid"}:
        return "a source without GTIDs is not available yet"
    if not config.addresses:
        return "no source address is configured"
    if config.start_from not in {"", _EARLIEST, _NOW}:
        try:
            GtidSet.parse(config.start_from)
        except MalformedGtidSetError as error:
            return f"start-from: {error}"
    return ""


def unfit_source(facts: SourceFacts, *, own_id: int, own_uuid: str) -> str:
    """What of the source itself makes a pull impossible; "" if nothing does."""
    if "mariadb" in facts.version.lower():
        return f"the source is {facts.version}; a MariaDB source is not available yet"
    if not facts.has_binlog:
        return "the source writes no binary log; start it with log_bin"
    if facts.gtid_mode.upper() != "ON":
        return f"the source has gtid_mode={facts.gtid_mode or 'OFF'}; it must be ON"
    if not facts.server_uuid:
        return "the source has no server uuid"
    if facts.server_uuid.lower() == own_uuid.lower():
        return f"the source has this relay's own server uuid {own_uuid}"
    if facts.server_id == own_id:
        return f"source and relay have equal server ids ({own_id}); they must differ"
    return ""


def start_set(config: SourceConfig, facts: SourceFacts) -> GtidSet:
    """Where an empty relay begins: all in this set counts as had, and purged."""
    if config.start_from in {"", _EARLIEST}:
        return facts.gtid_purged.copy()
    if config.start_from == _NOW:
        return facts.gtid_executed.copy()
    return GtidSet.parse(config.start_from)


def misfit(facts: SourceFacts, executed: GtidSet) -> SourceMissesError | None:
    """Whether one of relay and source lacks what only the other has, with the set named."""
    missing = facts.gtid_purged.subtract(executed)
    if missing:
        return SourceMissesError(
            f"the source has purged transactions that the relay lacks: {missing}",
            hint=(
                "Pull from a source that still has them, or accept that they are lost to every "
                f"replica that lacks them: kingbus source accept-gap {missing}"
            ),
        )
    extra = executed.subtract(facts.gtid_executed)
    if extra:
        return SourceBehindError(
            f"the relay has transactions that the source lacks: {extra}",
            hint=(
                "Unless it only lags, the source lost them or was never their source; compare "
                "gtid_executed of both before pulling from it."
            ),
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What a new ReceiverSession is to say."""

    epoch: int
    start_set: GtidSet
    """Of consequence only while the relay is empty."""


def plan_session(
    state: RelayState, config: SourceConfig, facts: SourceFacts, *, new_epoch: bool
) -> SessionPlan:
    """The epoch rises with another server uuid, when the source shows a different file, and
    behind a gap that was accepted.

    Raises SourceMissesError.
    """
    start = start_set(config, facts)
    error = misfit(facts, start if state.is_empty else state.executed)
    if error is not None:
        raise error
    known = state.source
    is_same = (
        known is not None
        and known.source_uuid.lower() == facts.server_uuid.lower()
        and not state.accepted_gap
    )
    return SessionPlan(
        epoch=state.epoch if is_same and not new_epoch else state.epoch + 1, start_set=start
    )


def by_gtid(point: ResumePoint) -> ResumePoint:
    """The same point for a dump by GTID set: the source no longer has the file by its name."""
    return replace(point, by_position=False, last_transaction=None, dump_position=FIRST_POSITION)


def reachable(point: ResumePoint, version: str) -> ResumePoint:
    """The same point, or its file's beginning where this source cannot begin so far behind.

    COM_BINLOG_DUMP has 32 bits for the position. From 5.7 on the GTID form takes a file and a
    64-bit position; a 5.6 source does not find what follows (measured), so there the file is read
    again from its beginning, and what is held is dropped on arrival. A file grows past 4 GiB only
    by a transaction of that size.
    """
    number = re.match(r"(\d+)\.(\d+)", version)
    is_old = number is not None and (int(number[1]), int(number[2])) < (5, 7)
    if is_old and point.by_position and point.dump_position > _POSITION_MAX:
        return replace(point, dump_position=FIRST_POSITION)
    return point


def dump_command(point: ResumePoint, *, server_id: int) -> tuple[int, bytes]:
    """The command and its body for going on at a resume point.

    By position it is COM_BINLOG_DUMP, and past 4 GiB the GTID form with file name and position
    and an *empty* set: nothing is to be skipped. Otherwise the GTID form without a file name.
    """
    if point.by_position and point.dump_position <= _POSITION_MAX:
        head = _DUMP.pack(point.dump_position, FLAG_HEARTBEAT_V2, server_id)
        return COM_BINLOG_DUMP, head + point.file_name.encode()
    name, position, gtids = b"", FIRST_POSITION, point.executed
    if point.by_position:
        name, position, gtids = point.file_name.encode(), point.dump_position, GtidSet()
    encoded = gtids.encode()
    return COM_BINLOG_DUMP_GTID, b"".join(
        (
            _DUMP_GTID.pack(FLAG_HEARTBEAT_V2, server_id, len(name)),
            name,
            position.to_bytes(8, "little"),
            len(encoded).to_bytes(4, "little"),
            encoded,
        )
    )


def register_command(*, server_id: int, host: str, port: int) -> bytes:
    """The body of COM_REGISTER_SLAVE; user and password stay empty, as real replicas do."""
    name = host.encode()[:60]  # the server's limit for a reported host
    return b"".join(
        (
            server_id.to_bytes(4, "little"),
            bytes((len(name),)),
            name,
            b"\0\0",
            _REGISTER.pack(port & 0xFFFF, 0, 0),
        )
    )


def order_of(addresses: Sequence[str], first: int) -> list[str]:
    """The candidates, beginning with the one whose turn it is."""
    first %= len(addresses)
    return [*addresses[first:], *addresses[:first]]
