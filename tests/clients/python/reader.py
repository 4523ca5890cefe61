"""A reader by python-mysql-replication: one line of JSON per change, as docs/testing.md says.

reader.py OPTIONS     a file of NAME=VALUE lines
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pymysqlreplication import BinLogStreamReader, binlogstream
from pymysqlreplication.event import GtidEvent, MariadbGtidEvent, QueryEvent, XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

LONG = 200
"""Longer values are shown by their digest."""


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201  # what the program is for


def shown(value: Any) -> object:
    """A value as JSON can have it."""
    if isinstance(value, dict):
        return {str(shown(name)): shown(each) for name, each in value.items()}
    raw = value if isinstance(value, bytes) else str(value).encode()
    if len(raw) > LONG:
        return f"{len(raw)} bytes, md5 {hashlib.md5(raw).hexdigest()}"
    return value if value is None or isinstance(value, int) else raw.decode("latin-1")


def main(options: dict[str, str]) -> None:
    settings: dict[str, object] = {
        "host": options["host"],
        "port": int(options["port"]),
        "user": options["user"],
        "passwd": options["password"],
    }
    # PyMySQL takes TLS wherever it is offered, unless it is told not to.
    settings |= {"ssl": {"check_hostname": False}} if options.get("tls") else {"ssl_disabled": True}
    start: dict[str, object] = {"auto_position": options.get("gtids")}
    if options["mode"] == "position":
        start = {"log_file": options["file"], "log_pos": int(options["position"])}
    stream = BinLogStreamReader(
        connection_settings=settings,
        server_id=int(options["server-id"]),
        blocking=True,
        resume_stream=True,
        slave_heartbeat=1,
        # With it the library goes by GTID whatever it is told of file and position.
        is_mariadb=options.get("flavor") == "mariadb" and options["mode"] == "gtid",
        **start,
    )
    # Else it would connect again by itself, and tell once more all since the set it began with:
    # whoever started it decides from where it goes on.
    binlogstream.MYSQL_EXPECTED_ERROR_CODES = []
    changes = {WriteRowsEvent: "insert", UpdateRowsEvent: "update", DeleteRowsEvent: "delete"}
    for event in stream:
        is_end = isinstance(event, XidEvent)
        if isinstance(event, (GtidEvent, MariadbGtidEvent)):
            say(kind="begin", gtid=event.gtid)
        elif isinstance(event, QueryEvent) and event.query != "BEGIN":
            say(kind="query", text=event.query)
            is_end = True
        elif type(event) in changes:
            for row in event.rows:
                say(
                    kind="row",
                    change=changes[type(event)],
                    table=f"{event.schema}.{event.table}",
                    values=shown(row),
                )
        if is_end:
            say(kind="end", file=stream.log_file, position=stream.log_pos)


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines()
    main(dict(line.split("=", 1) for line in lines if line))
