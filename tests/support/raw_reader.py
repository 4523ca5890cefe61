"""A binlog reader that looks at every packet: what a replica would be sent, and whether it may be.

It logs in with PyMySQL, sends a dump command and then reads the socket itself. Written without
anything of kingbus, so that both cannot be wrong in the same way. Checked on the way: the packets'
sequence numbers, each event's CRC32, that positions continue, that transactions are whole and come
once, and that heartbeats are not sent in the middle of one.
"""

import contextlib
import re
import socket
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import pymysql

_COM_BINLOG_DUMP = 0x12
_COM_BINLOG_DUMP_GTID = 0x1E
_NON_BLOCKING = 0x0001
_MAX_PAYLOAD = 0xFFFFFF

_QUERY = 2
_ROTATE = 4
_FORMAT_DESCRIPTION = 15
_XID = 16
_HEARTBEATS = (27, 41)
_ANONYMOUS_GTID = 34
_GTIDS = (33, 42)
_PREVIOUS_GTIDS = 35
_XA_PREPARE = 38
_TRANSACTION_PAYLOAD = 40
_ARTIFICIAL = 0x0020
_HEADER_BYTES = 19
_CRC_BYTES = 4


def encode_gtid_set(text: str) -> bytes:
    """The binary form of an untagged GTID set, as the dump command carries it."""
    sets = [part.strip() for part in text.split(",") if part.strip()]
    body = [struct.pack("<Q", len(sets))]
    for part in sets:
        name, *intervals = part.split(":")
        body.append(uuid.UUID(name).bytes + struct.pack("<Q", len(intervals)))
        for interval in intervals:
            first, _, last = interval.partition("-")
            body.append(struct.pack("<QQ", int(first), int(last or first) + 1))
    return b"".join(body)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What has been received so far."""

    events: int = 0
    bytes: int = 0
    transactions: list[str] = field(default_factory=list)
    """GTIDs of the transactions received whole, in order."""
    arrived: list[float] = field(default_factory=list, compare=False)
    """When the end of each of them came, by the monotonic clock, in seconds."""
    open_gtid: str | None = None
    """The transaction of which a part, but not the end, has come."""
    file: str = ""
    position: int = 0
    heartbeats: int = 0
    digest: int = 0
    """CRC-32 over all events that were really written by a source, in order."""
    faults: list[str] = field(default_factory=list)
    """What must not happen, and did."""
    end: str | None = None
    """Why the stream ended: `eof`, `closed`, or the error packet's number and text."""


class RawReader:
    """One dump connection, read by a thread of its own until it ends or is closed."""

    def __init__(
        self,
        *,
        port: int,
        user: str,
        password: str,
        host: str = "127.0.0.1",
        gtid_set: str | None = "",
        file: str = "",
        position: int = 4,
        server_id: int = 990,
        replica_uuid: str | None = None,
        non_blocking: bool = False,
        heartbeat_seconds: float = 0.5,
    ) -> None:
        """Log in and ask for the dump; `gtid_set` None asks by file and position.

        Each reader is a replica of its own; with `replica_uuid` it is that one, with "" it never
        says who it is.
        """
        self.seen = Seen()
        self._is_by_gtid = gtid_set is not None
        self._transaction = _Transaction()
        self._checksum = False
        self._closing = False
        self._connection: Any = _log_in(host, port, user, password)
        self.thread_id = int(self._connection.thread_id())
        with self._connection.cursor() as cursor:
            nanoseconds = int(heartbeat_seconds * 1e9)
            cursor.execute(
                f"SET @master_heartbeat_period = {nanoseconds},"
                f" @source_heartbeat_period = {nanoseconds}"
            )
            cursor.execute(
                "SET @master_binlog_checksum = @@global.binlog_checksum,"
                " @source_binlog_checksum = @@global.binlog_checksum"
            )
            replica = replica_uuid
            if replica is None:
                replica = str(uuid.uuid5(uuid.NAMESPACE_OID, f"reader-{server_id}-{id(self)}"))
            if replica:
                cursor.execute(f"SET @slave_uuid = '{replica}', @replica_uuid = '{replica}'")
        flags = _NON_BLOCKING if non_blocking else 0
        name = file.encode()
        if gtid_set is None:
            command = _COM_BINLOG_DUMP
            body = struct.pack("<IHI", position, flags, server_id) + name
        else:
            command = _COM_BINLOG_DUMP_GTID
            encoded = encode_gtid_set(gtid_set)
            body = struct.pack("<HII", flags, server_id, len(name)) + name
            body += struct.pack("<QI", position, len(encoded)) + encoded
        self._connection._execute_command(command, body)
        self._socket: socket.socket = self._connection._sock
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """It reads already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Break the connection and wait for the thread."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        with contextlib.suppress(pymysql.err.Error, OSError):
            self._connection._force_close()

    def join(self, *, seconds: float = 60.0) -> Seen:
        """Wait for the stream's end (of a non-blocking dump) and return what came."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the dump did not end in {seconds:.0f} s: {self.seen}"
        return self.seen

    @property
    def is_alive(self) -> bool:
        """Whether the stream goes on."""
        return self._thread.is_alive()

    # The thread.

    def _run(self) -> None:
        try:
            self._read()
        except (OSError, EOFError) as error:
            self.seen.end = self.seen.end or "closed"
            if not isinstance(error, EOFError) and not self._closing:
                self.seen.end = f"closed: {error}"
        except Exception as error:  # noqa: BLE001  # a fault of any kind must reach the test
            self.seen.faults.append(f"unreadable stream: {error!r} after {self.seen.position}")
            self.seen.end = "fault"

    def _read(self) -> None:
        sequence = 1
        with self._socket.makefile("rb", buffering=1 << 20) as stream:
            while True:
                header = _exactly(stream, 4)
                size = int.from_bytes(header[:3], "little")
                if header[3] != sequence & 0xFF:
                    self._fault(f"packet sequence {header[3]}, expected {sequence & 0xFF}")
                    return
                sequence += 1
                payload = _exactly(stream, size)
                kind = payload[0]
                if kind == 0xFE and size < 9:
                    self.seen.end = "eof"
                    return
                if kind == 0xFF:
                    code = int.from_bytes(payload[1:3], "little")
                    self.seen.end = f"{code} {payload[9:].decode(errors='replace')}"
                    return
                if kind != 0:
                    self._fault(f"packet begins with {kind:#x}")
                    return
                parts = [payload[1:]]
                if size == _MAX_PAYLOAD:
                    # The first byte of a giant event is here, its end is not: it counts as begun.
                    self.seen.open_gtid = self._transaction.gtid
                while size == _MAX_PAYLOAD:
                    header = _exactly(stream, 4)
                    size = int.from_bytes(header[:3], "little")
                    if header[3] != sequence & 0xFF:
                        self._fault(f"packet sequence {header[3]}, expected {sequence & 0xFF}")
                        return
                    sequence += 1
                    parts.append(_exactly(stream, size))
                self._event(parts[0] if len(parts) == 1 else b"".join(parts))

    def _fault(self, text: str) -> None:
        self.seen.faults.append(f"{text} (at {self.seen.file}:{self.seen.position})")

    def _event(self, event: bytes) -> None:
        seen = self.seen
        if len(event) < _HEADER_BYTES:
            self._fault(f"event of {len(event)} bytes")
            return
        _, kind, _, size, end, flags = struct.unpack_from("<IBIIIH", event)
        if size != len(event):
            self._fault(f"event type {kind} says {size} bytes, has {len(event)}")
        if kind == _FORMAT_DESCRIPTION:
            self._checksum = event[-_CRC_BYTES - 1] == 1
        is_first_rotate = kind == _ROTATE and not self._checksum and not seen.file
        has_checksum = self._checksum or is_first_rotate
        body = event[_HEADER_BYTES : -_CRC_BYTES if has_checksum else None]
        if has_checksum:
            sum_there = int.from_bytes(event[-_CRC_BYTES:], "little")
            if zlib.crc32(event[:-_CRC_BYTES]) != sum_there:
                self._fault(f"event type {kind} with a wrong checksum")
        if kind in _HEARTBEATS:
            seen.heartbeats += 1
            if self._transaction.gtid is not None:
                self._fault(f"heartbeat inside transaction {self._transaction.gtid}")
            return
        seen.events += 1
        seen.bytes += len(event)
        if kind == _ROTATE and (flags & _ARTIFICIAL or end == 0):
            name = body[8:].decode()
            position = int.from_bytes(body[:8], "little")
            if self._transaction.gtid is not None:
                self._fault(f"rotate to {name} inside transaction {self._transaction.gtid}")
            seen.file, seen.position = name, position
            return
        if kind == _FORMAT_DESCRIPTION and end == 0:
            return
        if not self._is_by_gtid or self._transaction.gtid is not None:
            # A dump by GTID may leave out transactions, and their bytes, between two others.
            start = (end - size) & 0xFFFFFFFF
            if start != seen.position & 0xFFFFFFFF:
                self._fault(f"event type {kind} starts at {start}, expected {seen.position}")
        seen.position = end
        seen.digest = zlib.crc32(event, seen.digest)
        self._follow(kind, body)

    def _follow(self, kind: int, body: bytes) -> None:
        seen = self.seen
        finished = self._transaction.follow(kind, body)
        if self._transaction.fault is not None:
            self._fault(self._transaction.fault)
            self._transaction.fault = None
        if finished is not None:
            # The time first: who looks from another thread finds one for each transaction.
            seen.arrived.append(time.monotonic())
            seen.transactions.append(finished)
        seen.open_gtid = self._transaction.gtid


class _Transaction:
    """Where transactions begin and end, as MySQL's own parser of their boundaries has it."""

    def __init__(self) -> None:
        self.gtid: str | None = None
        self.fault: str | None = None
        self._is_begun = False

    def follow(self, kind: int, body: bytes) -> str | None:
        """Take one event; the GTID of the transaction that it ends, if it does."""
        if kind in _GTIDS or kind == _ANONYMOUS_GTID:
            if self.gtid is not None:
                self.fault = f"a transaction begins inside {self.gtid}"
            self.gtid = _gtid_of(kind, body)
            self._is_begun = False
            return None
        if self.gtid is None:
            return None
        ends = kind in {_XID, _XA_PREPARE, _TRANSACTION_PAYLOAD}
        if kind in {_ROTATE, _FORMAT_DESCRIPTION, _PREVIOUS_GTIDS}:
            self.fault = f"event type {kind} inside transaction {self.gtid}"
            ends = True
        if kind == _QUERY:
            text = _query_text(body)
            if re.match(rb"BEGIN\b|XA START\b", text, re.IGNORECASE):
                self._is_begun = True
            else:
                ends = not self._is_begun or bool(
                    re.match(rb"(COMMIT|ROLLBACK)\s*$", text, re.IGNORECASE)
                )
        if not ends:
            return None
        finished, self.gtid = self.gtid, None
        return finished


def _gtid_of(kind: int, body: bytes) -> str:
    if kind == 42:
        return f"tagged:{body.hex()}"
    number = int.from_bytes(body[17:25], "little")
    return f"{uuid.UUID(bytes=body[1:17])}:{number}"


def _query_text(body: bytes) -> bytes:
    database = body[8]
    variables = int.from_bytes(body[11:13], "little")
    return body[13 + variables + database + 1 :]


def open_dump(
    *, port: int, user: str, password: str, gtid_set: str, heartbeat_seconds: float
) -> socket.socket:
    """A socket on which a dump begins behind `gtid_set` and does not end: a replica of its own.

    For many at once: nothing reads it but the caller.
    """
    connection = _log_in("127.0.0.1", port, user, password)
    try:
        replica = uuid.uuid4()
        period = int(heartbeat_seconds * 10**9)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period},"
                f" @slave_uuid = '{replica}', @replica_uuid = '{replica}',"
                " @master_binlog_checksum = @@global.binlog_checksum,"
                " @source_binlog_checksum = @@global.binlog_checksum"
            )
        encoded = encode_gtid_set(gtid_set)
        server_id = 10_000 + replica.int % 1_000_000
        body = struct.pack("<HII", 0, server_id, 0) + struct.pack("<QI", 4, len(encoded)) + encoded
        connection._execute_command(_COM_BINLOG_DUMP_GTID, body)
        # The object would close it when it goes.
        return socket.socket(fileno=connection._sock.detach())
    except BaseException:
        connection._force_close()
        raise


def _log_in(host: str, port: int, user: str, password: str) -> Any:
    return pymysql.connect(
        host=host,
        port=port,
        user=user,
        password=password,
        connect_timeout=10,
        # PyMySQL takes TLS wherever it is offered; the raw socket is to be read here.
        ssl_disabled=True,
    )


def _exactly(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """How much one whole dump carried, and in what time."""

    bytes: int
    began: float
    """When the dump was asked for, in seconds of the performance counter."""
    ended: float
    """When the last bytes came."""
    first: float = 0.0
    """When the first bytes came."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


_QUIET_SECONDS = 0.5
"""A stream that had all it should and is silent for this long has ended."""
_HEARTBEAT_SECONDS = 10
"""Long beside that: no heartbeat of the waiting server falls into the silence."""


def drain(
    *,
    port: int,
    user: str,
    password: str,
    host: str = "127.0.0.1",
    seconds: float = 120.0,
    gtid_set: str = "",
    at_least: int | None = None,
    ready: Callable[[], object] = lambda: None,
) -> Drained:
    """Read a whole dump by GTID as fast as bytes come, looking at none but the last.

    For measuring: the reader must not be what limits the speed. What is in `gtid_set` it has
    already. The dump ends by itself, unless `at_least` is given: then it is what a replica asks
    for, with heartbeats and without an end, and is over when that many bytes have come and no more
    follow. `ready` is called before it begins.
    """
    is_endless = at_least is not None
    connection = _log_in(host, port, user, password)
    try:
        with connection.cursor() as cursor:
            if is_endless:
                period = _HEARTBEAT_SECONDS * 10**9
                cursor.execute(
                    f"SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}"
                )
            cursor.execute(
                "SET @master_binlog_checksum = @@global.binlog_checksum,"
                " @source_binlog_checksum = @@global.binlog_checksum"
            )
            # A second dump of the same replica, or of the same server id without a uuid, would
            # replace the first: several may read at once.
            replica = uuid.uuid4()
            cursor.execute(f"SET @slave_uuid = '{replica}', @replica_uuid = '{replica}'")
        encoded = encode_gtid_set(gtid_set)
        flags = 0 if is_endless else _NON_BLOCKING
        server_id = 10_000 + replica.int % 1_000_000
        body = struct.pack("<HII", flags, server_id, 0) + struct.pack("<QI", 4, len(encoded))
        ready()
        began = time.perf_counter()
        connection._execute_command(_COM_BINLOG_DUMP_GTID, body + encoded)
        connection._sock.settimeout(seconds)
        connection._sock.recv(1, socket.MSG_PEEK)
        first = time.perf_counter()
        total, ended = read_to_the_end(connection._sock, seconds=seconds, at_least=at_least)
        return Drained(bytes=total, began=began, ended=ended, first=first)
    finally:
        connection._force_close()


def read_to_the_end(
    sock: socket.socket, *, seconds: float, at_least: int | None = None
) -> tuple[int, float]:
    """Read until an EOF packet, or until `at_least` bytes have come and no more follow.

    The bytes, and when the last of them came, by the performance counter; TimeoutError when nothing
    came for `seconds` before that.
    """
    is_endless = at_least is not None
    enough = max(1, at_least or 0)
    sock.settimeout(seconds)
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    total = 0
    ended = time.perf_counter()
    last = b""
    while True:
        try:
            count = sock.recv_into(view)
        except TimeoutError:
            if is_endless and total >= enough:
                return total, ended
            raise
        if count == 0:
            raise AssertionError(f"the dump was cut after {total} bytes")
        ended = time.perf_counter()
        if is_endless and total < enough <= total + count:
            sock.settimeout(_QUIET_SECONDS)
        total += count
        last = (last + bytes(view[max(0, count - 9) : count]))[-9:]
        # Nothing comes behind the EOF packet, which has 5 bytes behind its header.
        if not is_endless and last[-5:-4] == b"\xfe" and last[-9:-6] == b"\x05\0\0":
            return total, ended
