"""What a relay says otherwise than the captured servers, each with its reason, and nothing else.

Each entry changes captured dialogs into what a relay is to say, before they are replayed; the
comparison knows nothing of it. An entry that fits no dialog is an error.
"""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.wire.capture import Dialog, Line

Match = Callable[[Line], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference: in which dialogs (patterns), what is done to them, and why it is right.

    `is_known_defect`: it is not right, only known.
    """

    name: str
    reason: str
    dialogs: Sequence[str] = ("*",)
    change: Callable[[Dialog], tuple[list[Line], int]]
    is_known_defect: bool = False

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


def says(match: Match, *payloads: bytes, ends: bool = False) -> Callable:
    """To a client's packet the server answers this instead; `ends`: and the connection is over."""

    def change(dialog: Dialog) -> tuple[list[Line], int]:
        found: list[Line] = []
        changed = 0
        dropped: set[int] = set()
        over: set[int] = set()
        for line in dialog.lines:
            if line.number in dropped or (
                line.connection in over and line.kind in {"client", "server"}
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


def leaves_out(match: Match) -> Callable:
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


def rewrites(rewrite: Callable[[Line, Dialog], bytes]) -> Callable:
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


DIFFERENCES: tuple[Difference, ...] = ()
