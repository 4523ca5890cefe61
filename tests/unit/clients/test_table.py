"""The table of clients as text."""

from tests.clients.table import ATTACH, COLUMNS, GTID, RESUME, TLS, Row, markdown
from tests.clients.tools import comparable


def test_a_no_is_not_covered_by_a_later_yes() -> None:
    """Nor is a row with one good; and only the first line of a reason is shown."""
    row = Row(client="c")
    row.yes(*COLUMNS)
    assert row.is_good
    row.no("first line\nsecond", RESUME)
    row.yes(RESUME)
    assert row.cells[RESUME] == "no: first line"
    assert not row.is_good


def test_what_was_not_reached_is_not_good() -> None:
    """A cell that nothing was said of, a client that was not run, an option that failed."""
    row = Row(client="c")
    row.yes(*COLUMNS[1:])
    assert not row.is_good
    assert "| c | not reached | yes |" in markdown([row], header="# H")
    row.yes(COLUMNS[0])
    row.more.append(("--raw", "no: other bytes"))
    assert not row.is_good
    missing = Row(client="d", missing="no java on PATH")
    assert not missing.is_good
    assert "| d | not run: no java on PATH |" in markdown([missing], header="# H")


def test_notes_are_numbered_once() -> None:
    """Two clients with the same note share its number."""
    rows = [Row(client="a"), Row(client="b")]
    for row in rows:
        row.yes(ATTACH)
        row.apart("Has none.", TLS)
    rows[1].apart("Other.", GTID)
    text = markdown(rows, header="# H")
    assert "| a [1] |" in text
    assert "| b [1, 2] |" in text
    assert text.count("Has none.") == 1
    assert text.endswith("1. Has none.\n2. Other.\n")


def test_a_bar_in_a_reason_does_not_end_its_cell() -> None:
    """Every line of the table has as many cells as it has columns."""
    row = Row(client="c")
    row.no("a | b", ATTACH)
    lines = markdown([row], header="# H").splitlines()
    line = next(line for line in lines if line.startswith("| c"))
    assert line.replace("\\|", "").count("|") == len(COLUMNS) + 2


def test_only_what_is_a_servers_own_is_not_compared() -> None:
    """The id in an event that it makes up, with its checksum and hexadecimal lines; all else is."""
    written = (
        b"# at 4\n#261121 server id 1  end_log_pos 127 CRC32 0x1 Start\n# 00000004 aa bb\nBINLOG"
    )

    def made_up(server: bytes, name: bytes) -> bytes:
        line = b"#700101  0:00:00 server id " + server + b"  end_log_pos 0 CRC32 0x" + server
        return line + b" \tRotate to " + name + b"\n# Position  Type\n# 00000004 " + server + b"\n"

    one = comparable(made_up(b"77", b"b.1") + written)
    assert one == comparable(made_up(b"1", b"b.1") + written)
    assert one != comparable(made_up(b"1", b"b.2") + written)
    assert one != comparable(made_up(b"77", b"b.1") + written.replace(b"id 1", b"id 2"))
    assert one != comparable(made_up(b"77", b"b.1") + written.replace(b"aa", b"ab"))
