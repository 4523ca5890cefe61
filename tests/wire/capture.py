"""A captured dialog between a real client and a real server, as lines with a meaning.

Owns reading `NAME.jsonl`, and following each dump so far that every event has a file and a
position. Must not know the relay: what is here is what was on the wire.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROTATE, FORMAT_DESCRIPTION, HEARTBEAT_V1, HEARTBEAT_V2 = 4, 15, 27, 41
ARTIFICIAL = 0x20
DUMP_COMMANDS = (0x12, 0x1E)
HEADER_BYTES = 19
BURST_SECONDS = 0.25
"""Packets that follow one another faster than this were in the log when the first was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: a packet of one side, or the begin or end of a connection.

    `kind` is connect, closed, killed, client or server; `by` says of a close whose it was. `length`
    is the payload's, of which `payload` may hold only the begin. Connection 0 is all of them.
    """

    number: int
    time: float
    connection: int
    kind: str
    by: str = ""
    how: str = ""
    length: int = 0
    sequence: int = 0
    payload: bytes = b""

    @property
    def is_cut(self) -> bool:
        return len(self.payload) < self.length

    @property
    def is_command(self) -> bool:
        return self.kind == "client" and self.sequence == 0

    @property
    def statement(self) -> str:
        """The text of a COM_QUERY, whichever form it has; "" for anything else."""
        if not self.is_command or self.payload[:1] != b"\x03":
            return ""
        return self.payload[3 if self.payload[1:3] == b"\0\1" else 1 :].decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """One event of a dump; `mark` is semi-sync's byte, None without semi-sync.

    `start` and `end` are positions in `file`. What is in no file has only an end: how far the log
    goes at least.
    """

    data: bytes
    mark: int | None
    file: str
    start: int
    end: int
    is_stored: bool

    @property
    def type(self) -> int:
        return self.data[4]


class Follower:
    """Follows one dump packet by packet."""

    def __init__(self) -> None:
        self._file = ""

    def take(self, payload: bytes) -> StreamEvent | None:
        """The event in a packet of the stream; None for ERR and EOF."""
        if payload[:1] != b"\0" or len(payload) <= HEADER_BYTES:
            return None
        mark = payload[2] if payload[1:2] == b"\xef" else None
        data = payload[1:] if mark is None else payload[3:]
        size, log_pos = _u32(data, 9), _u32(data, 13)
        is_artificial = bool(int.from_bytes(data[17:19], "little") & ARTIFICIAL)
        if data[4] == ROTATE and is_artificial:
            self._file = _without_crc(data)[HEADER_BYTES + 8 :].decode()
            end = _u32(data, HEADER_BYTES)  # where the next event begins
            return StreamEvent(
                data=data, mark=mark, file=self._file, start=0, end=end, is_stored=False
            )
        is_stored = log_pos > 0 and not is_artificial
        is_stored &= data[4] not in {HEARTBEAT_V1, HEARTBEAT_V2}
        return StreamEvent(
            data=data,
            mark=mark,
            file=self._file,
            start=log_pos - size if is_stored else 0,
            end=log_pos,
            is_stored=is_stored,
        )


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _without_crc(event: bytes) -> bytes:
    """The first ROTATE has a checksum or not, as the client said; the name tells nothing of it."""
    has_crc = zlib.crc32(event[:-4]) == _u32(event, len(event) - 4)
    return event[:-4] if has_crc else event


@dataclass(slots=True, kw_only=True)
class Dialog:
    """All lines of one file; `events` has the dumps' packets by line number."""

    name: str
    lines: Sequence[Line]
    events: dict[int, StreamEvent] = field(default_factory=dict)

    @property
    def server_version(self) -> str:
        """As the first greeting says it."""
        greeting = next(line for line in self.lines if line.kind == "server")
        return greeting.payload[1:].partition(b"\0")[0].decode()

    def of(self, connection: int) -> Iterator[Line]:
        """The lines of one connection."""
        return (line for line in self.lines if line.connection == connection)

    def answers(self, request: Line) -> list[Line]:
        """What the server said to a packet of the client, up to the client's next one."""
        found = []
        for line in self.of(request.connection):
            if line.number > request.number:
                if line.kind != "server":
                    break
                found.append(line)
        return found

    def bursts(self) -> dict[int, tuple[str, int]]:
        """How far the log went when each packet of a dump was sent: file and position.

        That is where the run of packets ends that it belongs to. A semi-sync source sends the
        next transaction only when it was committed, so a run ends where it asks.
        """
        reached: dict[int, tuple[str, int]] = {}
        for connection in {line.connection for line in self.lines}:
            run: list[int] = []
            end, before, last = ("", 0), 0.0, b""
            for line in self.of(connection):
                event = self.events.get(line.number)
                if event is None:
                    continue
                waited = line.time - before >= BURST_SECONDS
                waited |= event.data == last
                last = event.data
                if run and waited:
                    reached.update(dict.fromkeys(run, end))
                    run = []
                run.append(line.number)
                before = line.time
                end = max(end, (event.file, event.end))
                # A heartbeat that was waited for says that nothing came up to then.
                if event.mark == 1 or (waited and event.type in {HEARTBEAT_V1, HEARTBEAT_V2}):
                    reached.update(dict.fromkeys(run, end))
                    run = []
            reached.update(dict.fromkeys(run, end))
        return reached


def read(path: Path) -> Dialog:
    """The dialog in a file."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        record = json.loads(text)
        common = {"number": number, "time": record["t"], "connection": record["c"]}
        match record.get("ev"):
            case "connect":
                lines.append(Line(kind="connect", **common))
            case "closed":
                by, how = record["by"], record["how"]
                lines.append(Line(kind="closed", by=by, how=how, **common))
            case "proxy-kill":
                lines.append(Line(kind="killed", **common))
            case None:
                lines.append(
                    Line(
                        kind="client" if record["d"] == ">" else "server",
                        sequence=record["seq"],
                        length=record["len"],
                        payload=bytes.fromhex(record["hex"]),
                        **common,
                    )
                )
            case other:
                raise ValueError(f"{path}:{number}: unknown event {other!r}")
    dialog = Dialog(name=path.stem, lines=lines)
    dumps: dict[int, Follower] = {}
    for line in lines:
        if line.is_command and line.payload[0] in DUMP_COMMANDS:
            dumps[line.connection] = Follower()
        elif line.kind == "server" and line.connection in dumps:
            event = dumps[line.connection].take(line.payload)
            if event is not None:
                dialog.events[line.number] = event
    return dialog


def read_all(directory: Path) -> list[Dialog]:
    """Every dialog of a directory, by name."""
    return [read(path) for path in sorted(directory.glob("*.jsonl"))]
