"""A real S3-compatible server: rclone's, over a directory. Knows its command line, nothing else."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support import processes
from tests.support.installations import MissingServerError
from tests.support.waiting import wait_for

ACCESS_KEY = "archive-access"
SECRET_KEY = "archive-secret-7Qz"
BUCKET = "binlogs"


def rclone() -> str:
    """`KINGBUS_RCLONE`, the one beside this Python (scripts/install puts it there), or PATH's."""
    given = os.environ.get("KINGBUS_RCLONE")
    beside = Path(sys.executable).parent / "rclone"
    found = given or (str(beside) if beside.exists() else shutil.which("rclone"))
    if not found:
        raise MissingServerError("no rclone; run scripts/install, or name one in KINGBUS_RCLONE")
    return found


class S3Server:
    """Serves the folders of a directory as buckets. May be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "s3"
        self.bucket = self.directory / BUCKET
        self.bucket.mkdir(parents=True)
        self.log = directory / "s3.log"
        self._port = processes.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        command = [
            rclone(),
            *("serve", "s3", "--config", os.devnull),
            *("--addr", f"127.0.0.1:{self._port}"),
            *("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
            *("--vfs-cache-mode", "off"),
            str(self.directory),
        ]
        self._process = processes.start(command, log=self.log)
        wait_for(
            self._answers,
            what="the S3 server",
            seconds=30,
            explain=lambda: processes.tail(self.log),
        )
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            processes.kill(self._process)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
