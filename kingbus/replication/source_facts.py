"""What a source says of itself, whether the relay can pull from it, and from where it goes on.

Owns the decisions before a receiver session, as plain functions: is the source fit, does it have
all that the relay lacks and lack nothing that the relay has, which epoch the session belongs to,
which dump command is right. Must not know how the facts were asked for.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Final

from kingbus.binlog.errors import DifferentFileError, SourceError, UnknownFileError
from kingbus.binlog.gtid import GtidSet, MalformedGtidSetError
from kingbus.binlog.header import FIRST_POSITION
from kingbus.binlog.mariadb_gtid import MARIADB, MYSQL, Position, is_key, key_of
from kingbus.binlog.relay_state import RelayState
from kingbus.binlog.resume import ResumePoint
from kingbus.errors import KingbusError
from kingbus.mysql.compression import Algorithm
from kingbus.pb.command_pb2 import ReceiverSession, SourceConfig

COM_BINLOG_DUMP: Final = 0x12
COM_BINLOG_DUMP_GTID: Final = 0x1E
COM_REGISTER_SLAVE: Final = 0x15
FLAG_HEARTBEAT_V2: Final = 0x0002

GTID: Final = "gtid"
POSITION: Final = "position"
"""Modes: what a relay goes by. It is fixed when the relay gets its first file."""

_FILE_NAME: Final = re.compile(r"[^\0/\\:]{1,500}\.\d{6,20}")
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
    gtid_owned: GtidSet = field(default_factory=GtidSet)
    """Committing at the source: in its binary log, it may be, and not yet in `gtid_executed`."""
    checksum: str
    """What was announced: CRC32 or NONE."""
    clock: int
    """Seconds since 1970 by the source's clock."""
    max_binlog_size: int = 0
    """Bytes; 0: the source did not say."""
    read_only: bool = False
    """It takes no writes but from its own source, or from administrators."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The source's values of the variables that a relay shows as the source's."""

    @property
    def flavor(self) -> str:
        """`mysql` or `mariadb`."""
        return flavor_of(self.version)


def flavor_of(version: str) -> str:
    """Whose server greets with this version: `mysql` or `mariadb`."""
    return MARIADB if "mariadb" in version.lower() else MYSQL


def mariadb_uuid(server_id: int) -> str:
    """What stands for the server uuid of a MariaDB server, which has none."""
    return f"mariadb-server-{server_id}"


def unfit_config(config: SourceConfig) -> str:
    """What of a configuration is not possible yet; "" if it is all right."""
    if config.flavor not in {"", MYSQL, MARIADB}:
        return f"unknown flavor {config.flavor!r} of a source; it is mysql or mariadb"
    if config.semi_sync and config.compression:
        # Each begins to number packets again in its own way, which no real pair was seen to do.
        return "semi-sync over a compressed connection is not available yet"
    if config.mode not in {"", GTID, POSITION}:
        return f"mode {config.mode!r} is neither {GTID} nor {POSITION}"
    if config.compression not in {"", *(each.value for each in Algorithm)}:
        return f"compression {config.compression!r} is neither zlib nor zstd"
    if not config.addresses:
        return "no source address is configured"
    if config.start_from in {"", _EARLIEST, _NOW}:
        return ""
    if config.mode == POSITION:
        if _FILE_NAME.fullmatch(config.start_from) is None:
            return f"start-from: {config.start_from[:80]!r} is not the name of a binary log file"
    else:
        try:
            start = GtidSet.parse(config.start_from)
        except MalformedGtidSetError as error:
            return f"start-from: {error}"
        wants_mariadb = config.flavor == MARIADB
        if any(is_key(uuid) != wants_mariadb for uuid in start.uuids()):
            return f"start-from: {start} is no GTID set of a {config.flavor or MYSQL} source"
    return ""


def other_mode(state: RelayState, config: SourceConfig) -> str:
    """That the relay was begun in another mode; "" if it was not. What it holds fits one only."""
    mode, begun = config.mode or GTID, (state.source.mode if state.source is not None else "")
    if state.is_empty or mode == (begun or GTID):
        return ""
    return f"the relay was begun in mode {begun or GTID} and cannot go on in mode {mode}"


def unfit_flavor(log_flavor: str, config: SourceConfig) -> str:
    """Whether a configured source is of another flavor than the log; "" if not."""
    flavor = config.flavor or MYSQL
    if log_flavor in {"", flavor}:
        return ""
    return (
        f"this cluster relays a {log_flavor} source and cannot go on with a {flavor} source; "
        "the flavor is fixed by a cluster's first source"
    )


def unfit_source(
    facts: SourceFacts, *, own_id: int, own_uuid: str, mode: str = GTID, flavor: str = MYSQL
) -> str:
    """What of the source itself makes a pull impossible; "" if nothing does.

    `mode` and `flavor` are those configured.
    """
    if facts.flavor != (flavor or MYSQL):
        return (
            f"the source is a {facts.flavor} server ({facts.version}), "
            f"and a {flavor or MYSQL} source is configured"
        )
    if not facts.has_binlog:
        return "the source writes no binary log; start it with log_bin"
    if mode != POSITION and facts.gtid_mode.upper() != "ON":
        return (
            f"the source has gtid_mode={facts.gtid_mode or 'OFF'}; it must be ON, "
            "or the relay begun with source.mode: position"
        )
    if not facts.server_uuid:
        return "the source has no server uuid"
    if facts.server_uuid.lower() == own_uuid.lower():
        return f"the source has this relay's own server uuid {own_uuid}"
    if facts.server_id == own_id:
        return f"source and relay have equal server ids ({own_id}); they must differ"
    return ""


def start_set(config: SourceConfig, facts: SourceFacts) -> GtidSet:
    """Where an empty relay begins: all in this set counts as had, and purged."""
    if config.mode == POSITION:
        return GtidSet()
    if config.start_from in {"", _EARLIEST}:
        return facts.gtid_purged.copy()
    if config.start_from == _NOW:
        return facts.gtid_executed.copy()
    return GtidSet.parse(config.start_from)


async def start_file(config: SourceConfig, ask_newest: Callable[[], Awaitable[str]]) -> str:
    """The file in which an empty relay begins without GTIDs; "" for the source's oldest.

    A file is always begun at its beginning, so `now` is that of the one that is being written.
    """
    if config.start_from in {"", _EARLIEST}:
        return ""
    return await ask_newest() if config.start_from == _NOW else config.start_from


def lost_way(error: SourceError) -> SourceError | SourceMissesError:
    """An error of the stream as it is without GTIDs, where some leave no way to go on."""
    if not isinstance(error, (UnknownFileError, DifferentFileError)):
        return error
    return SourceMissesError(
        f"{error}; without GTIDs nobody can tell where to go on",
        hint="Begin again with an empty relay.",
    )


def owned_set(text: str) -> GtidSet:
    """The set in a `gtid_owned`, which has `#` and a thread behind each number.

    Empty where it cannot be read: then a source that waits for the relay is taken to lag.
    """
    try:
        return GtidSet.parse(re.sub(r"#\d+", "", text))
    except MalformedGtidSetError:
        return GtidSet()


def is_present(facts: SourceFacts, known: ReceiverSession | None) -> bool:
    """Whether it is the server that the relay has been pulling from."""
    return known is not None and known.source_uuid.lower() == facts.server_uuid.lower()


def misfit(
    facts: SourceFacts, executed: GtidSet, *, known: ReceiverSession | None
) -> SourceMissesError | None:
    """Whether one of relay and source lacks what only the other has, with the set named.

    `known` is the relay's source so far. With AFTER_SYNC it counts no transaction as executed
    before a replica has acknowledged it: what the relay got from it, and it waits to be told so,
    is no more than it has. Another server may yet roll back what it is about to commit.
    """
    if facts.flavor == MARIADB:
        return _mariadb_misfit(facts, Position.of(executed))
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
    if is_present(facts, known):
        extra = extra.subtract(facts.gtid_owned)
    if extra:
        return SourceBehindError(
            f"the relay has transactions that the source lacks: {extra}",
            hint=(
                "Unless it only lags, the source lost them or was never their source; compare "
                "gtid_executed of both before pulling from it."
            ),
        )
    return None


def _mariadb_misfit(facts: SourceFacts, had: Position) -> SourceMissesError | None:
    """The same by positions: what lies between two numbers of a domain nobody needs to have."""
    missing = Position.of(facts.gtid_purged).beyond(had)
    if missing.last:
        return SourceMissesError(
            f"the source has purged transactions up to {missing}, which the relay lacks: "
            f"it has up to {str(had) or 'nothing'}",
            hint="Get them from elsewhere, or begin again with an empty relay.",
        )
    # The source asks the same of a replica: that its position is one of the source's own.
    source = facts.gtid_executed
    extra = Position(
        {
            domain: (server, sequence)
            for domain, (server, sequence) in had.last.items()
            if not source.contains_gtid(key_of(domain, server), "", sequence)
        }
    )
    if extra.last:
        return SourceBehindError(
            f"the relay is at {extra}, which the source does not have in its binary log",
            hint=(
                "Unless it only lags, the source lost it or was never its source; compare "
                "gtid_binlog_state of the source with the relay before pulling from it."
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

    Raises SourceUnfitError, also as SourceMissesError.
    """
    reason = other_mode(state, config)
    if reason:
        raise SourceUnfitError(reason)
    start = start_set(config, facts)
    is_same = is_present(facts, state.source)
    if config.mode == POSITION:
        if not is_same and not state.is_empty:
            raise SourceMissesError(
                f"{facts.address} is not the server that the relay was pulling from; without "
                "GTIDs nobody can tell where to go on",
                hint="Begin again with an empty relay.",
            )
    else:
        error = misfit(facts, start if state.is_empty else state.executed, known=state.source)
        if error is not None:
            raise error
    goes_on = is_same and not new_epoch and not state.accepted_gap
    return SessionPlan(epoch=state.epoch if goes_on else state.epoch + 1, start_set=start)


def by_gtid(point: ResumePoint) -> ResumePoint:
    """The same point for a dump by GTID set: the source no longer has the file by its name."""
    return replace(point, by_position=False, last_transaction=None, dump_position=FIRST_POSITION)


def for_head(point: ResumePoint) -> ResumePoint:
    """The same point for receiving the head of a file that the relay does not hold."""
    return replace(by_gtid(point), file_name="")


def head_command(file_name: str, *, server_id: int) -> tuple[int, bytes]:
    """COM_BINLOG_DUMP of a file from its beginning, as MariaDB knows it too."""
    head = _DUMP.pack(FIRST_POSITION, FLAG_HEARTBEAT_V2, server_id)
    return COM_BINLOG_DUMP, head + file_name.encode()


def reachable(point: ResumePoint, version: str, flavor: str = MYSQL) -> ResumePoint:
    """The same point, or its file's beginning where this source cannot begin so far behind.

    COM_BINLOG_DUMP has 32 bits for the position. From 5.7 on the GTID form takes a file and a
    64-bit position; a 5.6 source does not find what follows (measured), so there the file is read
    again from its beginning, and what is held is dropped on arrival; MariaDB has no such form. So
    it is where the source has no GTIDs, and refuses that form altogether. A file grows past 4 GiB
    only by a transaction of that size.
    """
    number = re.match(r"(\d+)\.(\d+)", version)
    is_old = flavor == MARIADB or (number is not None and (int(number[1]), int(number[2])) < (5, 7))
    if (
        (is_old or not point.gtid_mode)
        and point.by_position
        and point.dump_position > _POSITION_MAX
    ):
        return replace(point, dump_position=FIRST_POSITION)
    return point


def mariadb_position(point: ResumePoint) -> str | None:
    """What MariaDB is told before a dump by GTID; None for a dump by position, where it is not."""
    return None if point.by_position else str(Position.of(point.executed))


def dump_command(
    point: ResumePoint, *, server_id: int, flavor: str = MYSQL, first_file: str = ""
) -> tuple[int, bytes]:
    """The command and its body for going on at a resume point.

    Without GTIDs, where nothing is held, it is COM_BINLOG_DUMP of `first_file`, see `start_file`.

    By position it is COM_BINLOG_DUMP, and past 4 GiB the GTID form with file name and position
    and an *empty* set: nothing is to be skipped. Otherwise the GTID form without a file name.
    MariaDB knows the first command only; the flag says there that ANNOTATE_ROWS are wanted, too.
    """
    if flavor == MARIADB and not point.by_position:
        return COM_BINLOG_DUMP, _DUMP.pack(FIRST_POSITION, FLAG_HEARTBEAT_V2, server_id)
    if point.by_position and point.dump_position <= _POSITION_MAX:
        head = _DUMP.pack(point.dump_position, FLAG_HEARTBEAT_V2, server_id)
        return COM_BINLOG_DUMP, head + point.file_name.encode()
    if not point.gtid_mode:
        assert not point.by_position, "see `reachable`"
        return head_command(first_file, server_id=server_id)
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
