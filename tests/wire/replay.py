"""One captured dialog from begin to end: which relay it meets, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trio
import trio.testing

from tests.wire.capture import Dialog, read_all
from tests.wire.differences import expected_of
from tests.wire.history import History, histories, kind_of
from tests.wire.player import Player, Report
from tests.wire.relay import serving

FIRST_FILES: Mapping[str, str] = {
    "m97_purged": "binlog.000008",
    "mb97": "binlog.000008",
    "mb97b": "binlog.000008",
    "node97": "binlog.000008",
    "pmr97": "binlog.000008",
    "pmr97b": "binlog.000008",
    "m97_payload": "binlog.000015",
    "m97_failover": "binlog.000015",
}
"""The oldest file that the server had, where some were purged; of the last two nobody captured what
lies before."""

WHOLE_FILES: Mapping[str, str] = {"m97_purged": "binlog.000010"}
"""The file whose end the log had reached at the begin, where the first dump does not show it."""


@dataclass(frozen=True, slots=True)
class Captures:
    """All dialogs of a directory, and what their servers had."""

    dialogs: Mapping[str, Dialog]
    histories: Mapping[str, History]

    @classmethod
    def read(cls, directory: Path) -> Self:
        dialogs = read_all(directory)
        return cls({dialog.name: dialog for dialog in dialogs}, histories(dialogs))


def replay(captures: Captures, name: str, expected: Dialog | None = None) -> Report:
    """Replay a dialog against a relay of its server.

    `expected` is compared with instead of what is due, and only up to what is unlike first.
    """
    captured = captures.dialogs[name]
    history = captures.histories[kind_of(captured.server_version)]
    due = expected if expected is not None else expected_of(captured)[0]
    clock = trio.testing.MockClock()
    bursts = captured.bursts()
    first = bursts[min(bursts)]

    async def play() -> Report:
        async with serving(history, FIRST_FILES.get(name, history.files[0].name)) as relay:
            relay.grow(*first)
            if name in WHOLE_FILES:
                relay.grow(*history.end_of(WHOLE_FILES[name]))
            player = Player(captured, due, relay, clock)
            return await player.play(to_first=expected is not None)

    return trio.run(play, clock=clock)


COLUMNS = (
    "connections",
    "answers",
    "packets",
    "events",
    "acks",
    "unlike",
    "of captured",
    "differences",
)


def table(captures: Captures) -> list[str]:
    """A line for each dialog: what was compared and unlike, and the differences that are meant.

    `of captured` is how many packets the server had sent: what a difference leaves out is missing
    in `packets`, what one adds is in it.
    """
    lines = [_row("dialog", COLUMNS)]
    total = [0] * len(COLUMNS)
    for name, captured in captures.dialogs.items():
        report, used = replay(captures, name), expected_of(captured)[1]
        numbers = [
            report.connections,
            report.answers,
            report.packets,
            report.events,
            report.acknowledgements,
            len(report.mismatches),
            sum(line.kind == "server" for line in captured.lines),
            len(used),
        ]
        total = [each + more for each, more in zip(total, numbers, strict=True)]
        lines.append(_row(name, numbers))
        lines += [f"    {mismatch}" for mismatch in report.mismatches]
    lines.append(_row("total", total))
    return lines


def _row(name: str, cells: Sequence[object]) -> str:
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells)
