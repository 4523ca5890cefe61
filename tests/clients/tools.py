"""MySQL's and MariaDB's own tools that read a binary log from a server: every remote option.

An option is good when what the tool prints with it of the relay is what it prints of the source,
byte for byte; only the event that a server makes up at a file's start carries the server's id.
"""

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.readers import Say
from tests.clients.scene import LOGIN, Place, Scene
from tests.clients.table import (
    ATTACH,
    COMPRESSION,
    CONTENT,
    GTID,
    POSITION,
    RESUME,
    TLS,
    YES,
    Row,
)
from tests.support import installations, processes
from tests.support.installations import MissingServerError
from tests.support.servers import ADMIN_PASSWORD, ADMIN_USER, assert_same_binlog
from tests.support.waiting import wait_for

TOOL_SECONDS = 120.0
"""How long one call may take."""

BEGUN_AGAIN = "Started again at another node, with the file that it was writing."

_MADE_UP = re.compile(
    rb"#(?:(?:700101|691231) +[\d:]+ server id \d+ |.* server id \d+ +end_log_pos 0 )"
)
"""An event that a server makes up: it has no time, or no position."""
_OWN = re.compile(rb"server id \d+ |CRC32 0x[0-9a-f]+ ")
"""What differs in it: the id of the server that made it, and so its checksum."""


def comparable(printed: bytes) -> list[bytes]:
    """The lines that a tool printed, without what each server says in its own way."""
    kept = []
    is_made_up = False
    for line in printed.splitlines():
        if _MADE_UP.match(line):
            is_made_up = True
            kept.append(_OWN.sub(b"", line))
            continue
        # Its bytes in hexadecimal come behind it.
        is_made_up = is_made_up and line.startswith(b"# ") and not line.startswith(b"# at ")
        if not is_made_up:
            kept.append(line)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What there is to be read, and what the options need to name of it."""

    names: list[str]
    start: Place
    """Somewhere in the middle."""
    stop: Place
    middle_gtids: str
    when: str
    """A moment in the middle, as the tools take it."""

    @property
    def first(self) -> str:
        """The oldest file."""
        return self.names[0]

    @property
    def behind(self) -> list[str]:
        """The files from the place in the middle on."""
        return self.names[self.names.index(self.start.file) :]


Words = Callable[[Log], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One program and its options."""

    name: str
    title: str
    command: Callable[[], Sequence[str]]
    options: Sequence[tuple[str, Words]]
    """What is tried, and its words."""
    by_gtid: Words
    by_position: Words
    plain: Sequence[str] = ()
    """Words for a connection that is not encrypted."""
    secure: Sequence[Sequence[str]] = ()
    """Words for one that is, each by itself; CERTIFICATE stands for the file of the relay's."""
    compressions: Sequence[Sequence[str]] = ()
    apart: dict[str, str] = field(default_factory=dict)


def _whole(*words: str) -> Words:
    return lambda log: [*words, *log.names]


_BY_NAME = ("--host=localhost", "--protocol=tcp")
"""The name that the certificate is for."""

MYSQLBINLOG = Tool(
    name="mysqlbinlog",
    title="mysqlbinlog 9.7",
    command=lambda: installations.tool("mysqlbinlog"),
    plain=("--ssl-mode=DISABLED", "--get-server-public-key"),
    secure=(
        ("--ssl-mode=REQUIRED",),
        ("--ssl-mode=VERIFY_CA", "--ssl-ca=CERTIFICATE"),
        (*_BY_NAME, "--ssl-mode=VERIFY_IDENTITY", "--ssl-ca=CERTIFICATE"),
        ("--ssl-mode=REQUIRED", "--tls-version=TLSv1.2"),
        ("--ssl-mode=REQUIRED", "--tls-version=TLSv1.3"),
    ),
    compressions=(
        ("--compression-algorithms=zlib",),
        ("--compression-algorithms=zstd", "--zstd-compression-level=5"),
        ("--compress",),
    ),
    by_gtid=lambda log: [
        "--read-from-remote-source=BINLOG-DUMP-GTIDS",
        f"--exclude-gtids={log.middle_gtids}",
        "--to-last-log",
        log.first,
    ],
    by_position=lambda log: ["-R", f"--start-position={log.start.position}", *log.behind],
    options=(
        ("--read-from-remote-server", lambda log: ["--read-from-remote-server", log.first]),
        (
            "--read-from-remote-source=BINLOG-DUMP-NON-GTIDS",
            _whole("--read-from-remote-source=BINLOG-DUMP-NON-GTIDS"),
        ),
        (
            "--read-from-remote-source=BINLOG-DUMP-GTIDS",
            _whole("--read-from-remote-source=BINLOG-DUMP-GTIDS"),
        ),
        (
            "--read-from-remote-master=BINLOG-DUMP-GTIDS",
            _whole("--read-from-remote-master=BINLOG-DUMP-GTIDS"),
        ),
        ("--to-last-log", lambda log: ["-R", "--to-last-log", log.first]),
        (
            "--start-position",
            lambda log: ["-R", f"--start-position={log.start.position}", log.start.file],
        ),
        (
            "--stop-position",
            lambda log: ["-R", f"--stop-position={log.start.position}", log.start.file],
        ),
        ("--start-datetime", lambda log: ["-R", f"--start-datetime={log.when}", *log.names]),
        ("--stop-datetime", lambda log: ["-R", f"--stop-datetime={log.when}", *log.names]),
        (
            "--exclude-gtids (at the server)",
            lambda log: [
                "--read-from-remote-source=BINLOG-DUMP-GTIDS",
                f"--exclude-gtids={log.middle_gtids}",
                "--to-last-log",
                log.first,
            ],
        ),
        (
            "--exclude-gtids (in the tool)",
            lambda log: ["-R", f"--exclude-gtids={log.middle_gtids}", *log.names],
        ),
        (
            "--include-gtids",
            lambda log: ["-R", f"--include-gtids={log.middle_gtids}", *log.names],
        ),
        ("--skip-gtids", _whole("-R", "--skip-gtids")),
        ("--database", _whole("-R", "--database=shop")),
        ("--rewrite-db", _whole("-R", "--rewrite-db=shop->other")),
        ("--server-id", _whole("-R", "--server-id=1")),
        ("--server-id-bits", _whole("-R", "--server-id-bits=31")),
        ("--offset", _whole("-R", "--offset=25")),
        ("--verify-binlog-checksum", _whole("-R", "--verify-binlog-checksum")),
        ("--base64-output=DECODE-ROWS -vv", _whole("-R", "--base64-output=DECODE-ROWS", "-vv")),
        ("--print-table-metadata", _whole("-R", "--print-table-metadata", "-v")),
        ("--hexdump", lambda log: ["-R", "--hexdump", log.first]),
        ("--short-form", _whole("-R", "--short-form", "--base64-output=NEVER")),
        ("--require-row-format", _whole("-R", "--require-row-format")),
        ("--binlog-row-event-max-size", _whole("-R", "--binlog-row-event-max-size=1024")),
        ("--disable-log-bin", _whole("-R", "--disable-log-bin")),
        ("--idempotent", _whole("-R", "--idempotent")),
        ("--force-read", _whole("-R", "--force-read")),
        ("--force-if-open", _whole("-R", "--force-if-open")),
        ("--set-charset", _whole("-R", "--set-charset=latin1")),
        ("--connection-server-id", _whole("-R", "--connection-server-id=4711")),
        ("--bind-address", _whole("-R", "--bind-address=127.0.0.1")),
        ("--protocol=tcp", _whole("-R", "--protocol=tcp")),
    ),
)

MARIADB_BINLOG = Tool(
    name="mariadb-binlog",
    title="mariadb-binlog 10.11",
    command=lambda: installations.mariadb_tool("mariadb-binlog"),
    plain=("--skip-ssl",),
    secure=(("--ssl",), (*_BY_NAME, "--ssl-verify-server-cert", "--ssl-ca=CERTIFICATE")),
    by_gtid=lambda log: ["-R", f"--start-position={log.middle_gtids}", *log.names],
    by_position=lambda log: ["-R", f"--start-position={log.start.position}", *log.behind],
    apart={COMPRESSION: "The tool has no compression of the protocol."},
    options=(
        ("--read-from-remote-server", lambda log: ["--read-from-remote-server", log.first]),
        ("--to-last-log", lambda log: ["-R", "--to-last-log", log.first]),
        (
            "--start-position (number)",
            lambda log: ["-R", f"--start-position={log.start.position}", log.start.file],
        ),
        (
            "--start-position (GTID)",
            lambda log: ["-R", f"--start-position={log.middle_gtids}", *log.names],
        ),
        (
            "--stop-position (number)",
            lambda log: ["-R", f"--stop-position={log.start.position}", log.start.file],
        ),
        (
            "--stop-position (GTID)",
            lambda log: ["-R", f"--stop-position={log.middle_gtids}", *log.names],
        ),
        ("--start-datetime", lambda log: ["-R", f"--start-datetime={log.when}", *log.names]),
        ("--stop-datetime", lambda log: ["-R", f"--stop-datetime={log.when}", *log.names]),
        ("--do-domain-ids", _whole("-R", "--do-domain-ids=0")),
        ("--ignore-domain-ids", _whole("-R", "--ignore-domain-ids=7")),
        ("--server-id", _whole("-R", "--server-id=1")),
        ("--database", _whole("-R", "--database=shop")),
        ("--rewrite-db", _whole("-R", "--rewrite-db=shop->other")),
        ("--offset", _whole("-R", "--offset=25")),
        ("--verify-binlog-checksum", _whole("-R", "--verify-binlog-checksum")),
        ("--base64-output=DECODE-ROWS -vv", _whole("-R", "--base64-output=DECODE-ROWS", "-vv")),
        ("--hexdump", lambda log: ["-R", "--hexdump", log.first]),
        ("--short-form", _whole("-R", "--short-form", "--base64-output=DECODE-ROWS")),
        ("--disable-log-bin", _whole("-R", "--disable-log-bin")),
        ("--force-if-open", _whole("-R", "--force-if-open")),
        ("--set-charset", _whole("-R", "--set-charset=latin1")),
        ("--skip-annotate-row-events", _whole("-R", "--skip-annotate-row-events")),
    ),
)


def try_tool(tool: Tool, scene: Scene, say: Say) -> Row:
    """All that is to be known of one tool; what fails is in its row."""
    row = Row(client=tool.title)
    try:
        command = list(tool.command())
    except MissingServerError as error:
        row.missing = str(error)
        return row
    for column, note in tool.apart.items():
        row.apart(note, column)
    row.note(BEGUN_AGAIN)
    say(f"{tool.name}: what it reads")
    trial = _Trial(tool, command, scene, row, say)
    trial.columns()
    trial.options()
    trial.kept_files()
    return row


class _Trial:
    def __init__(self, tool: Tool, command: list[str], scene: Scene, row: Row, say: Say) -> None:
        self._tool = tool
        self._command = command
        self._scene = scene
        self._row = row
        self._say = say
        self._log = _something_to_read(scene)
        scene.all_set()

    def columns(self) -> None:
        """Attach, both ways of saying where, TLS, compression, and the files byte for byte."""
        tool, door = self._tool, self._scene.door
        self._tried(ATTACH, lambda: self._same(_whole("-R")(self._log)))
        self._tried(GTID, lambda: self._same(tool.by_gtid(self._log)))
        self._tried(POSITION, lambda: self._same(tool.by_position(self._log)))
        self._tried(CONTENT, self._same_files)
        self._tried(TLS, lambda: self._encrypted(tool.secure[0]))
        before = door.passed
        self._print(_whole("-R")(self._log), port=door.port, words=tool.plain, **LOGIN)
        plain = door.passed - before
        for words in tool.compressions:
            self._tried(COMPRESSION, lambda words=words: self._smaller(words, plain))

    def options(self) -> None:
        """Each in turn."""
        for name, words in self._tool.options:
            self._say(f"{self._tool.name}: {name}")
            self._option(name, lambda words=words: self._same(words(self._log)))
        for words in self._tool.compressions:
            more = (*self._tool.plain, *words)
            self._option(
                " ".join(words),
                lambda more=more: self._same(_whole("-R")(self._log), relay=more),
            )
        for words in self._tool.secure:
            self._option(" ".join(words), lambda words=words: self._encrypted(words))
        self._option("--raw, --result-file", self._same_files)

    def kept_files(self) -> None:
        """`--stop-never --raw`, over a killed leader: in the end it has the source's files."""
        scene, tool = self._scene, self._tool
        self._say(f"{tool.name}: --stop-never over a killed leader")
        kept = scene.directory / f"{tool.name}-kept"
        kept.mkdir()
        try:
            leader = scene.all_set()
            process = self._keep(kept, self._log.first)
            try:
                scene.write()
                self._wait_kept(kept, scene.here())
                self._row.more.append(("--stop-never", YES))
                with scene.writing() as writer:
                    writer.wait_for_more(100)
                    scene.kill_leader(leader)
                    processes.stop(process)
                    last = max(file.name for file in kept.iterdir())
                    process = self._keep(kept, last)
                    writer.wait_for_more(100)
                    scene.cluster.leader()
                    writer.wait_for_more(100)
                scene.mark()
                scene.all_set()
                self._wait_kept(kept, scene.here())
            finally:
                processes.stop(process)
            self._assert_files(kept)
            self._row.yes(RESUME)
        except Exception as error:  # noqa: BLE001  # whatever goes wrong is a cell of the table
            self._say(f"{tool.name}: {error}")
            self._row.no(error, RESUME)

    def _keep(self, target: Path, file: str) -> "subprocess.Popen[bytes]":
        number = self._scene.server_id()
        words = ["--raw", "--stop-never", f"--stop-never-slave-server-id={number}"]
        words += [f"--result-file={target}/", *self._tool.plain, file]
        command = self._words("-R", *words, port=self._scene.door.port, **LOGIN)
        return processes.start(command, log=self._scene.directory / f"{self._tool.name}.log")

    def _wait_kept(self, kept: Path, end: Place) -> None:
        """The tool writes what it has when it is flushed: the file has at least the events."""
        file = kept / end.file

        def is_there() -> bool:
            return file.exists() and file.stat().st_size >= end.position

        wait_for(
            is_there,
            what=f"{file.name} to have {end.position} bytes",
            seconds=60,
            explain=lambda: [(each.name, each.stat().st_size) for each in kept.iterdir()],
        )

    def _same_files(self) -> None:
        target = self._scene.directory / f"{self._tool.name}-raw-{time.monotonic_ns()}"
        target.mkdir()
        words = ["-R", "--raw", f"--result-file={target}/", *self._log.names]
        self._print(words, port=self._scene.door.port, words=self._tool.plain, **LOGIN)
        self._assert_files(target, self._log.names)

    def _assert_files(self, kept: Path, names: Sequence[str] = ()) -> None:
        source = self._scene.source
        last = source.binlog_files()[-1]
        for name in names or source.binlog_files():
            assert_same_binlog(kept / name, source.binlog_path(name), is_open=name == last)

    def _encrypted(self, words: Sequence[str]) -> None:
        """The node that requires TLS gives it the same."""
        scene = self._scene
        certificate = str(scene.directory / "certificate.pem")
        given = [word.replace("CERTIFICATE", certificate) for word in words]
        scene.door.aim(scene.secure.host, scene.secure.listen_port)
        try:
            self._same(_whole("-R")(self._log), relay=given)
        finally:
            scene.all_set()

    def _smaller(self, words: Sequence[str], plain: int) -> None:
        door = self._scene.door
        before = door.passed
        self._same(_whole("-R")(self._log), relay=(*self._tool.plain, *words))
        passed = door.passed - before
        assert passed < plain / 2, f"{passed} bytes came, {plain} without compression"

    def _same(self, words: Sequence[str], *, relay: Sequence[str] | None = None) -> None:
        """What it prints of the relay is what it prints of the source."""
        plain, door, source = self._tool.plain, self._scene.door, self._scene.source
        more = plain if relay is None else relay
        admin = {"user": ADMIN_USER, "password": ADMIN_PASSWORD}
        ours = self._print(words, port=door.port, words=more, **LOGIN)
        theirs = self._print(words, port=source.port, words=plain, **admin)
        assert theirs, "it prints nothing"
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            more = (f"{len(ours)} lines", f"{len(theirs)}")
            one, other = next((pair for pair in pairs if pair[0] != pair[1]), more)
            raise AssertionError(f"it prints {one[:90]!r}, of the source {other[:90]!r}")

    def _print(
        self, arguments: Sequence[str], *, port: int, words: Sequence[str], **login: str
    ) -> list[bytes]:
        command = self._words(*words, *arguments, port=port, **login)
        answer = subprocess.run(command, capture_output=True, timeout=TOOL_SECONDS, check=False)
        told = answer.stderr.decode(errors="replace").strip().splitlines()
        assert answer.returncode == 0, f"exit {answer.returncode}: {' '.join(told[-2:])}"
        return comparable(answer.stdout)

    def _words(self, *words: str, port: int, user: str, password: str) -> list[str]:
        login = ["--host=127.0.0.1", f"--port={port}", f"--user={user}", f"--password={password}"]
        return [*self._command, *login, *words]

    def _option(self, name: str, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001  # as above
            self._say(f"{self._tool.name}: {name}: {error}")
            self._row.more.append((name, f"no: {str(error).splitlines()[0]}"))
        else:
            self._row.more.append((name, YES))

    def _tried(self, column: str, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001  # as above
            self._say(f"{self._tool.name}: {column}: {error}")
            self._row.no(error, column)
        else:
            self._row.yes(column)


def _something_to_read(scene: Scene) -> Log:
    """Files of a varied load, closed, with places in the middle that options can name."""
    scene.write(giant=True)
    start = scene.here()
    # Times in the log are whole seconds: the halves of it must not share one.
    began = int(time.time())
    wait_for(lambda: time.time() >= began + 1.1, what="the next second")
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    scene.write()
    scene.mark()
    stop = scene.here()
    scene.source.execute("FLUSH BINARY LOGS")
    names = scene.source.binlog_files()[:-1]
    scene.here()
    return Log(names=names, start=start, stop=stop, middle_gtids=start.gtids, when=when)
