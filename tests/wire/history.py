"""What each captured server had in its binary logs, put together from all that it ever sent.

Every event is the server's own, byte for byte; all dialogs with one server together have its files
without a gap. Made up is only what `_completed` and `_filled_up` say.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kingbus.binlog.artificial import build_event, fake_rotate
from kingbus.binlog.gtid import GtidSet
from tests.support.events import BinlogFile, query
from tests.wire.capture import FORMAT_DESCRIPTION, Dialog, StreamEvent

QUERY, STOP, ROTATE, XID, GTID = 2, 3, 4, 16, 33


@dataclass(slots=True)
class SourceFile:
    """One file: its events by position, from 4 on."""

    name: str
    events: dict[int, bytes] = field(default_factory=dict)

    @property
    def end(self) -> int:
        start = max(self.events)
        return start + len(self.events[start])

    def check(self) -> None:
        """Raises AssertionError where an event is missing."""
        at = 4
        for start in sorted(self.events):
            assert start == at, f"{self.name}: nothing is known of {at} to {start}"
            at = start + len(self.events[start])


@dataclass(slots=True)
class History:
    """One server: who it is, and its files in their order."""

    kind: str
    version: str
    server_id: int
    server_uuid: str
    files: list[SourceFile]

    def stream(self, first_file: str) -> Sequence[tuple[str, int, bytes]]:
        """What a dump from the begin of a file sends: file, end position, event."""
        found = []
        for file in self.files:
            if file.name < first_file:
                continue
            rotate = fake_rotate(file.name, 4, server_id=self.server_id, crc=True)
            found.append((file.name, 0, rotate))
            for start in sorted(file.events):
                event = file.events[start]
                found.append((file.name, start + len(event), event))
        return found

    def end_of(self, file_name: str) -> tuple[str, int]:
        """A file and its size."""
        return file_name, next(file.end for file in self.files if file.name == file_name)

    def previous_of(self, file_name: str) -> bytes:
        """What the files before this one had."""
        return _previous(next(file for file in self.files if file.name == file_name))


def kind_of(version: str) -> str:
    """Which of the captured servers a greeting is from."""
    if "MariaDB" in version:
        return "mariadb"
    return ".".join(version.split(".")[:2])


def histories(dialogs: Iterable[Dialog]) -> dict[str, History]:
    """Of all servers, by kind."""
    found: dict[str, History] = {}
    files: dict[tuple[str, str], SourceFile] = {}
    for dialog in dialogs:
        kind = kind_of(dialog.server_version)
        if kind not in found:
            version = dialog.server_version.removeprefix("5.5.5-")
            found[kind] = History(kind, version, 0, "", [])
        history = found[kind]
        history.server_uuid = history.server_uuid or _uuid(dialog)
        for event in dialog.events.values():
            history.server_id = history.server_id or int.from_bytes(event.data[5:9], "little")
            if event.is_stored:
                file = files.setdefault((kind, event.file), SourceFile(event.file))
                _keep(file, event)
    for (kind, _), file in sorted(files.items()):
        file.check()
        found[kind].files.append(file)
    for history in found.values():
        for file, following in pairwise(history.files):
            last = file.events[max(file.events)]
            if last[4] not in {ROTATE, STOP} and _number(following) == _number(file) + 1:
                _filled_up(file, following)
    return found


def _number(file: SourceFile) -> int:
    return int(file.name.rpartition(".")[2])


def _filled_up(file: SourceFile, following: SourceFile) -> None:
    """The end of a file of which nobody captured it: the transactions that the next one counts.

    They have the right GTIDs and made-up content; no dialog that is compared is sent any of them.
    """
    has = GtidSet.decode(_previous(file))
    for event in file.events.values():
        if event[4] == GTID:
            number = int.from_bytes(event[36:44], "little")
            has.add(event[20:36], "", number, number)
    made = BinlogFile(file.name, first_position=file.end)
    for uuid, tag, first, last in GtidSet.decode(_previous(following)).subtract(has).runs():
        for number in range(first, last + 1):
            made.transaction(uuid, number, [(QUERY, query(b"DO 0"))], tag=tag)
    made.rotate(following.name)
    file.events.update({stored.start: stored.event for stored in made.events})


def _previous(file: SourceFile) -> bytes:
    """The body of a file's second event, which says what the files before it had."""
    return file.events[sorted(file.events)[1]][19:-4]


def _keep(file: SourceFile, event: StreamEvent) -> None:
    data = _completed(file, event)
    known = file.events.get(event.start)
    if known is None or known == data:
        file.events[event.start] = data
        return
    # A FORMAT_DESCRIPTION is sent with or without its time of creation; it is the same event.
    assert data[4] == FORMAT_DESCRIPTION, f"two events at {event.start} of {file.name}"
    if int.from_bytes(data[71:75], "little"):
        file.events[event.start] = data


def _completed(file: SourceFile, event: StreamEvent) -> bytes:
    """The event; one of 16 MiB, of which the capture has only the begin, is filled with zeros.

    The end of its transaction was not captured at all, so an XID is put behind it.
    """
    size = int.from_bytes(event.data[9:13], "little")
    if len(event.data) == size:
        return event.data
    data = event.data + bytes(size - 4 - len(event.data))
    data += zlib.crc32(data).to_bytes(4, "little")
    server_id = int.from_bytes(data[5:9], "little")
    end = event.end + 19 + 8 + 4
    file.events[event.end] = build_event(XID, bytes(8), server_id=server_id, crc=True, log_pos=end)
    return data


def _uuid(dialog: Dialog) -> str:
    for line in dialog.lines:
        if "SERVER_UUID" in line.statement:
            return next(
                answer.payload[-36:].decode()
                for answer in dialog.answers(line)
                if answer.length in {37, 49}
            )
    return ""
