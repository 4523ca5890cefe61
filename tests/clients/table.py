"""The table of clients: its rows, how a cell reads, and its form in Markdown.

Pure: text in, text out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

ATTACH = "attach"
GTID = "GTID"
POSITION = "file + position"
TLS = "TLS"
COMPRESSION = "compression"
RESUME = "resume after leader kill"
CONTENT = "content equal"
COLUMNS = (ATTACH, GTID, POSITION, TLS, COMPRESSION, RESUME, CONTENT)

YES = "yes"
APART = "\N{EN DASH}"
"""A cell that does not apply; a note says why."""

REASON_CHARACTERS = 240
"""A cell with more is not read; the log has the rest."""


@dataclass(slots=True, kw_only=True)
class Row:
    """What is known of one client."""

    client: str
    cells: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    more: list[tuple[str, str]] = field(default_factory=list)
    """What else was tried of it, and how each went."""
    missing: str = ""
    """Why it was not run at all."""

    def yes(self, *columns: str) -> None:
        """These were seen to work; a `no` that is there already stays."""
        for column in columns:
            if not self.cells.get(column, YES).startswith("no"):
                self.cells[column] = YES

    def no(self, reason: object, *columns: str) -> None:
        """These do not work, for a reason of which the first line is kept."""
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        for column in columns:
            self.cells[column] = f"no: {lines[0][:REASON_CHARACTERS]}"

    def apart(self, note: str, *columns: str) -> None:
        """These do not apply, for a reason."""
        for column in columns:
            self.cells[column] = APART
        self.note(note)

    def note(self, text: str) -> None:
        """Say something below the table."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong and nothing was left out."""
        return (
            not self.missing
            and all(self.cells.get(column, "") in {YES, APART} for column in COLUMNS)
            and all(outcome == YES for _, outcome in self.more)
        )


def markdown(rows: Iterable[Row], *, header: str) -> str:
    """The whole page: header, table, notes under the numbers that the rows name, and what else."""
    rows = list(rows)
    notes: list[str] = []
    lines = [f"| client | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        for note in row.notes:
            if note not in notes:
                notes.append(note)
        marks = ", ".join(str(notes.index(note) + 1) for note in row.notes)
        name = f"{row.client} [{marks}]" if marks else row.client
        if row.missing:
            cells = [f"not run: {_safe(row.missing)}"] + [""] * (len(COLUMNS) - 1)
        else:
            cells = [_safe(row.cells.get(column, "not reached")) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    for row in rows:
        if row.more:
            lines += ["", f"## Options of {row.client}", "", "| option | works |", "|---|---|"]
            lines += [f"| `{_safe(name)}` | {_safe(outcome)} |" for name, outcome in row.more]
    return header.rstrip() + "\n\n" + "\n".join(lines).rstrip() + "\n"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
