"""A reader's process: started with its options, its lines taken as they come, started again.

Knows processes and lines; what is written and who serves it is told from outside.
"""

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.clients.reading import Reading, UnreadableError
from tests.support import processes
from tests.support.waiting import wait_for

LINE_SECONDS = 90.0
"""How long something that was written may take to be printed; a Java client needs ten to start."""


class Attached:
    """One reader while its context lasts."""

    def __init__(
        self, name: str, command: Sequence[str], options: Mapping[str, object], directory: Path
    ) -> None:
        """Nothing is started before the context is entered."""
        self._command = list(command)
        self._options = dict(options)
        self._file = directory / f"{name}.properties"
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread()
        self._lock = threading.Lock()
        self._reading = Reading()
        self._fault = ""
        self._options.setdefault("state", str(directory / name))

    def __enter__(self) -> Self:
        """Start it."""
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self._end()

    def wait_for_mark(self, mark: str, *, seconds: float = LINE_SECONDS) -> None:
        """Wait until it has told the transaction that carries this text; its end fails."""

        def told() -> bool:
            with self._lock:
                if self._reading.has(mark):
                    return True
                assert not self._fault, self._fault
            assert self._process is not None
            assert self._process.poll() is None, f"it ended: {self._last_words()}"
            return False

        wait_for(
            told,
            what=f"the client to tell {mark}",
            seconds=seconds,
            explain=lambda: f"{self._told()}\n{processes.tail(self._log)}",
        )

    def restart(self, **options: object) -> None:
        """End it, and start it again with other options."""
        self._end()
        self._options |= options
        self._start()

    def stopped(self) -> Reading:
        """End it, and give what it told in transactions that were whole."""
        self._end()
        assert not self._fault, self._fault
        self._reading.drop_unfinished()
        return self._reading

    def _start(self) -> None:
        text = "".join(f"{name}={value}\n" for name, value in self._options.items())
        self._file.write_text(text)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                env={**processes.clean_environment(), "PYTHONUNBUFFERED": "1"},
                preexec_fn=processes._die_with_parent,  # noqa: PLW1509
            )
        self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._thread.start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                # It was killed in the middle of it.
                break
            with self._lock:
                try:
                    self._reading.take(line)
                except UnreadableError as error:
                    self._fault = self._fault or str(error)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        self._thread.join(10)
        if process.stdout is not None:
            process.stdout.close()
        with self._lock:
            self._reading.drop_unfinished()

    def ended(self) -> Reading:
        """End it and look at what it told, to start it again from there."""
        self._end()
        return self._reading

    def _told(self) -> str:
        with self._lock:
            number = len(self._reading.transactions)
            last = self._reading.transactions[-1:]
        return f"{number} transactions, the last {[each.gtid for each in last]}"

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-200:] if lines else "without a word"
