"""What a relay says otherwise than the captured servers, each with its reason, and nothing else.

Each entry changes captured dialogs into what a relay is to say, before they are replayed; the
comparison knows nothing of it. An entry that fits no dialog is an error.
"""

import fnmatch
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kingbus.mysql.constants import Capability
from kingbus.mysql.messages import Greeting
from tests.wire.capture import BURST_SECONDS, HEARTBEAT_V1, Dialog, Line

QUERY, XID, BINLOG_CHECKPOINT, GTID_LIST = 2, 16, 161, 163
OK = bytes.fromhex("00000002000000")
RESPONSE_HEAD = 32

Match = Callable[[Line], bool]
Change = Callable[[Dialog], tuple[list[Line], int]]
"""The lines as they are to be, and how many of them are new, other or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference: in which dialogs (patterns), what is done to them, and why it is right."""

    name: str
    reason: str
    dialogs: Sequence[str] = ("*",)
    change: Change

    def fits(self, dialog: Dialog) -> bool:
        return any(fnmatch.fnmatch(dialog.name, pattern) for pattern in self.dialogs)


def expected_of(dialog: Dialog) -> tuple[Dialog, list[str]]:
    """The dialog as a relay is to have it, and the names of the differences in it."""
    used = []
    for each in DIFFERENCES:
        if each.fits(dialog):
            lines, changes = each.change(dialog)
            if changes:
                dialog = replace(dialog, lines=lines)
                used.append(each.name)
    return dialog, used


def says(match: Match, *payloads: bytes, ends: bool = False) -> Change:
    """To a client's packet the server answers this instead; `ends`: and the connection is over."""

    def change(dialog: Dialog) -> tuple[list[Line], int]:
        found: list[Line] = []
        changed = 0
        dropped: set[int] = set()
        over: set[int] = set()
        for line in dialog.lines:
            if line.number in dropped or (
                line.connection in over and line.kind in {"client", "server", "closed"}
            ):
                continue
            found.append(line)
            if line.kind != "client" or not match(line):
                continue
            answers = dialog.answers(line)
            if not answers or [each.payload for each in answers] == list(payloads):
                continue
            changed += 1
            dropped.update(each.number for each in answers)
            number = answers[0].number
            found += [
                replace(answers[0], number=number, payload=payload, length=len(payload))
                for payload in payloads
            ]
            if ends:
                over.add(line.connection)
        return found, changed

    return change


def leaves_out(match: Match) -> Change:
    """What a client would not say to a relay, with its answer; or what a relay does not say."""

    def change(dialog: Dialog) -> tuple[list[Line], int]:
        dropped: set[int] = set()
        for line in dialog.lines:
            if line.kind in {"client", "server"} and match(line):
                dropped.add(line.number)
                if line.kind == "client":
                    dropped.update(each.number for each in dialog.answers(line))
        return [line for line in dialog.lines if line.number not in dropped], len(dropped)

    return change


def rewrites(rewrite: Callable[[Line, Dialog], bytes]) -> Change:
    """Packets of the server are replaced one by one."""

    def change(dialog: Dialog) -> tuple[list[Line], int]:
        found, changed = [], 0
        for line in dialog.lines:
            payload = rewrite(line, dialog) if line.kind == "server" else line.payload
            if payload != line.payload:
                changed += 1
                line = replace(line, payload=payload, length=len(payload))  # noqa: PLW2901
            found.append(line)
        return found, changed

    return change


# What fits which packet ----------------------------------------------------------------------


def text(pattern: str) -> Match:
    """A statement, of which all fits the pattern."""
    return lambda line: bool(re.fullmatch(pattern, line.statement))


def command(number: int) -> Match:
    return lambda line: line.is_command and line.payload[0] == number


def login_of(*names: str) -> Match:
    """The first packet of clients with these names."""
    users = [name.encode() for name in names]
    return lambda line: (
        line.kind == "client"
        and line.sequence == 1
        and len(line.payload) > RESPONSE_HEAD
        and line.payload[RESPONSE_HEAD:].partition(b"\0")[0] in users
    )


def error(code: int, sqlstate: str, message: str) -> bytes:
    return b"\xff" + code.to_bytes(2, "little") + f"#{sqlstate}{message}".encode()


# What is rewritten ---------------------------------------------------------------------------


def _greeting(line: Line, _: Dialog) -> bytes:
    if line.sequence or line.payload[:1] != b"\x0a":
        return line.payload
    captured = Greeting.decode(line.payload)
    is_mariadb = "MariaDB" in captured.server_version
    plugin = "mysql_native_password" if is_mariadb else "caching_sha2_password"
    said = replace(captured, capabilities=Capability(RELAY_OFFERS), charset=255, auth_plugin=plugin)
    return said.encode()


def _without_tracking(line: Line, dialog: Dialog) -> bytes:
    is_tracking = line.payload[:1] == b"\0" and line.payload[3:5] == b"\x02\x40"
    return OK if is_tracking and line.number not in dialog.events else line.payload


def _without_warning(line: Line, dialog: Dialog) -> bytes:
    is_ok = line.payload[:1] == b"\0" and line.length == len(OK)
    return line.payload[:5] + b"\0\0" if is_ok else line.payload


def _is_dead(line: Line, dialog: Dialog) -> bool:
    """Whether the client had closed before."""
    return any(
        each.kind == "closed" and each.by == "client" and each.number < line.number
        for each in dialog.of(line.connection)
    )


def _without_farewell(dialog: Dialog) -> tuple[list[Line], int]:
    gone = error(1158, "08S01", "Got an error reading communication packets")
    lines = [
        line
        for line in dialog.lines
        if not (line.kind == "server" and line.payload == gone and _is_dead(line, dialog))
    ]
    return lines, len(dialog.lines) - len(lines)


def _heartbeats_gathered(dialog: Dialog) -> tuple[list[Line], int]:
    """Of heartbeats that follow one another at once, the last."""
    lines: list[Line] = []
    changed = 0
    before: dict[int, Line] = {}
    for line in dialog.lines:
        event = dialog.events.get(line.number)
        last = before.get(line.connection)
        if event is not None and event.type == HEARTBEAT_V1:
            if last is not None and line.time - last.time < BURST_SECONDS and event.end > 0:
                moved = dialog.events[last.number].end < event.end
                if moved:
                    lines.remove(last)
                    changed += 1
            before[line.connection] = line
        elif line.kind == "server":
            before.pop(line.connection, None)
        lines.append(line)
    return lines, changed


def _checkpoints_skipped(dialog: Dialog) -> tuple[list[Line], int]:
    """A checkpoint behind a made-up GTID_LIST goes, and the list names the position behind it."""
    lines: list[Line] = []
    changed = 0
    listed: dict[int, int] = {}
    for line in dialog.lines:
        event = dialog.events.get(line.number)
        at = listed.pop(line.connection, None) if event is not None else None
        if event is not None and event.type == BINLOG_CHECKPOINT and at is not None:
            made = dialog.events[lines[at].number]
            data = made.data[:13] + event.end.to_bytes(4, "little") + made.data[17:-4]
            data += zlib.crc32(data).to_bytes(4, "little")
            mark = b"" if made.mark is None else bytes((0xEF, made.mark))
            lines[at] = replace(lines[at], payload=b"\0" + mark + data)
            changed += 1
            continue
        if event is not None and event.type == GTID_LIST and not event.is_stored:
            listed[line.connection] = len(lines)
        lines.append(line)
    return lines, changed


def _asks(dialog: Dialog) -> tuple[list[Line], int]:
    """At the end of the log an acknowledgement is asked for, of whatever ends there."""
    lines, changed = [], 0
    reached = dialog.bursts()
    for line in dialog.lines:
        event = dialog.events.get(line.number)
        ends = event is not None and event.mark == 0 and event.type in {QUERY, XID}
        if ends and event is not None and reached[line.number] == (event.file, event.end):
            lines.append(replace(line, payload=b"\0\xef\x01" + line.payload[3:]))
            changed += 1
        else:
            lines.append(line)
    return lines, changed


RELAY_OFFERS = 0x0D38B76F
"""Not offered of a 9.7 server's: LOCAL_FILES, SSL without a certificate, MULTI_STATEMENTS,
MULTI_RESULTS, PS_MULTI_RESULTS, SESSION_TRACK, expired passwords, MULTI_FACTOR, optional metadata,
REMEMBER_OPTIONS."""


def packet(connection: int, sequence: int) -> Match:
    """One packet of one client within its login."""
    wanted = ("client", connection, sequence)
    return lambda line: (line.kind, line.connection, line.sequence) == wanted


def _switched(dialog: Dialog) -> tuple[list[Line], int]:
    """The client leaves its answer to the greeting empty, and gives it when it is asked again."""
    lines: list[Line] = []
    changed = 0
    for line in dialog.lines:
        is_response = line.kind == "client" and line.sequence == 1
        if not is_response:
            lines.append(line)
            continue
        at = line.payload.index(b"\0", RESPONSE_HEAD) + 1
        size = line.payload[at]
        scramble = line.payload[at + 1 : at + 1 + size]
        silent = line.payload[:at] + b"\0" + line.payload[at + 1 + size :]
        switch = b"\xfemysql_native_password\0" + bytes(21)
        lines += [
            replace(line, payload=silent, length=len(silent)),
            replace(line, kind="server", sequence=2, payload=switch, length=len(switch)),
            replace(line, sequence=3, payload=scramble, length=size),
        ]
        changed += 1
    return lines, changed


def _no_state_of_accounts(line: Line, _: Dialog) -> bytes:
    for code, user in ((3118, "locked"), (1862, "exp")):
        if line.payload[:3] == b"\xff" + code.to_bytes(2, "little"):
            return _denied(user, "YES")
    return line.payload


def _denied(user: str, word: str) -> bytes:
    message = f"Access denied for user '{user}'@'localhost' (using password: {word})"
    return error(1045, "28000", message)


def _new_word_for_status(dialog: Dialog) -> tuple[list[Line], int]:
    """What was answered to the old statement is the answer to the new one."""
    lines = list(dialog.lines)
    changed = 0
    for line in dialog.lines:
        if line.statement != "SHOW BINARY LOG STATUS":
            continue
        refusal = dialog.answers(line)
        old = next(
            each
            for each in dialog.of(line.connection)
            if each.statement == "SHOW MASTER STATUS" and each.number > line.number
        )
        assert [each.payload[:3] for each in refusal] == [b"\xff\x28\x04"]
        lines.remove(refusal[0])
        lines.remove(old)
        changed += 1
    return lines, changed


def _with_row_metadata(dialog: Dialog) -> tuple[list[Line], int]:
    """A row where 5.6 has none."""
    lines = list(dialog.lines)
    changed = 0
    for line in dialog.lines:
        if "BINLOG_ROW_METADATA" not in line.statement:
            continue
        end = dialog.answers(line)[-1]
        row = b"\x13binlog_row_metadata\x07MINIMAL"
        lines.insert(lines.index(end), replace(end, payload=row, length=len(row)))
        changed += 1
    return lines, changed


def _semi_sync_is_on(line: Line, dialog: Dialog) -> bytes:
    before = [each for each in dialog.of(line.connection) if each.number < line.number]
    asked = [each.statement for each in before if each.statement]
    if line.payload == b"\x010" and "rpl_semi_sync_source_enabled" in asked[-1]:
        return b"\x011"
    return line.payload.replace(b"_enabled\x03OFF", b"_enabled\x02ON")


def _by_server_id(dialog: Dialog) -> tuple[list[Line], int]:
    """The older dump ends with an error where the server went on with heartbeats."""
    lines = []
    changed = 0
    told = replaced = error(
        1236,
        "HY000",
        "A replica with the same server_uuid/server_id as this replica has connected to the "
        "source; the first event '' at 4, the last event read from './mysql-bin.000002' at 3655, "
        "the last byte read from './mysql-bin.000002' at 3655.",
    )
    for line in dialog.lines:
        if line.connection == 1 and line.kind == "server" and _is_dead(line, dialog):
            changed += 1
            if replaced:
                lines.append(replace(line, payload=told, length=len(told)))
            replaced = b""
            continue
        lines.append(line)
    return lines, changed


def _where_it_stood(line: Line, _: Dialog) -> bytes:
    payload = line.payload
    payload = payload.replace(b"at 127, the last byte", b"at 158, the last byte")
    payload = payload.replace(b"binlog.000011' at 1071.", b"binlog.000011' at 158.")
    return payload.replace(b"at 256, the last byte", b"at 1017, the last byte")


def _substitutes(old: bytes, new: bytes) -> Change:
    return rewrites(lambda line, _: line.payload.replace(old, new))


REFUSED = error(
    1235,
    "42000",
    "This version of MySQL doesn't yet support 'a prepared statement with parameters'",
)

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        name="greeting",
        reason="A relay offers only what it does, has one character set, and names the login "
        "plugin that the clients of the source's newest kind have; the others switch.",
        change=rewrites(_greeting),
    ),
    Difference(
        name="old replicas are asked to log in by their own plugin",
        reason="Follows: they know no other one, answer a greeting that names it with nothing, and "
        "wait.",
        dialogs=("m56_*", "mdb_from56"),
        change=_switched,
    ),
    Difference(
        name="no session tracking",
        reason="OK has its plain form: SESSION_TRACK is not offered.",
        dialogs=("m97_*",),
        change=rewrites(_without_tracking),
    ),
    Difference(
        name="no warnings",
        reason="A relay has no deprecations to warn of.",
        dialogs=("pmr97*", "mdb_from56"),
        change=rewrites(_without_warning),
    ),
    Difference(
        name="no parameters of prepared statements",
        reason="A relay has no tables, so zongji's question for their columns is refused. It does "
        "not ask where the source has binlog_row_metadata=FULL, and gets no rows otherwise.",
        dialogs=("node*",),
        change=says(command(0x16), REFUSED),
    ),
    Difference(
        name="nothing to execute",
        reason="Follows: a client does not execute what was not prepared.",
        dialogs=("node*",),
        change=leaves_out(command(0x17)),
    ),
    Difference(
        name="nothing to a closed socket",
        reason="9.7 writes 1158 to a client that left without COM_QUIT, which cannot read it.",
        dialogs=("node97", "pmr97*"),
        change=_without_farewell,
    ),
    Difference(
        name="no account without password",
        reason="A relay never makes one.",
        dialogs=("m97_auth",),
        change=says(packet(5, 1), _denied("emp", "NO"), ends=True),
    ),
    Difference(
        name="no locked or expired accounts",
        reason="A relay's users are there or not; these are not.",
        dialogs=("m97_auth",),
        change=rewrites(_no_state_of_accounts),
    ),
    Difference(
        name="native login without a switch",
        reason="A client that says mysql_native_password at once is checked at once; 9.7 has that "
        "plugin no more and asks for the other.",
        dialogs=("m97_auth",),
        change=says(packet(9, 1), OK),
    ),
    Difference(
        name="no second scramble",
        reason="Follows: the client is not asked for it.",
        dialogs=("m97_auth",),
        change=leaves_out(packet(9, 3)),
    ),
    Difference(
        name="no sha256_password",
        reason="An unknown user is asked as every other is.",
        dialogs=("m97_auth",),
        change=says(packet(10, 1), b"\x01\x04", ends=True),
    ),
    Difference(
        name="new words for every source",
        reason="SHOW BINARY LOG STATUS is understood whatever the source's version is.",
        dialogs=("pmr56",),
        change=_new_word_for_status,
    ),
    Difference(
        name="a variable that 5.6 does not have",
        reason="binlog_row_metadata has MySQL's default where the source did not say; the client "
        "asks whether it is FULL.",
        dialogs=("pmr56",),
        change=_with_row_metadata,
    ),
    Difference(
        name="one heartbeat for a skipped stretch",
        reason="As 9.7 does; 5.6 sends one for each event to a client without a heartbeat period.",
        dialogs=("node56", "pmr56"),
        change=_heartbeats_gathered,
    ),
    Difference(
        name="no checkpoint in a skipped stretch",
        reason="BINLOG_CHECKPOINT is for the recovery of the server that wrote it. Batches that a "
        "replica has are passed without being read, with the checkpoints in them.",
        dialogs=("mdb*", "nodemdb", "pmrmdb"),
        change=_checkpoints_skipped,
    ),
    Difference(
        name="no metadata to cache",
        reason="MariaDB's own capabilities are not offered, so the number of columns comes alone.",
        dialogs=("mdbb_onmdb",),
        change=rewrites(lambda line, _: b"\x01" if line.payload == b"\x01\x01" else line.payload),
    ),
    Difference(
        name="semi-sync is on",
        reason="Where it may be had at all; a relay has no switch for asking and not waiting.",
        dialogs=("m97_semi", "mdb_semi"),
        change=rewrites(_semi_sync_is_on),
    ),
    Difference(
        name="acknowledgements are asked for",
        reason="Follows: of the source that was switched off, and at the end of a log that is "
        "older than the connection.",
        dialogs=("m97_semi", "mdb_semi"),
        change=_asks,
    ),
    Difference(
        name="a replica without uuid is known by its server id",
        reason="As 9.7 does it; 5.6 lets both go on.",
        dialogs=("mdb_from56",),
        change=_by_server_id,
    ),
    Difference(
        name="binlog_gtid_pos within a file",
        reason="A relay knows it where a file begins and ends; the replica goes on with the error.",
        dialogs=("mdb_filepos",),
        change=says(
            text(r"SELECT binlog_gtid_pos\('mdb-bin.000002',599\)"),
            error(1305, "42000", "FUNCTION binlog_gtid_pos does not exist"),
        ),
    ),
    Difference(
        name="how far an error says that was read",
        reason="The captured servers say where their buffers stood: behind the description, and "
        "at the end of the file. A relay names where the dump stood.",
        dialogs=("mb97", "mdb_filepos"),
        change=rewrites(_where_it_stood),
    ),
    Difference(
        name="a file that was captured in part",
        reason="The 104 MB of binlog.000010 are not in the captures; see `history`.",
        dialogs=("node97",),
        change=_substitutes(b"\x09104879812", b"\x0816788142"),
    ),
)
