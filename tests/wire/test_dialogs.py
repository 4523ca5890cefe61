"""Every captured dialog of real clients and servers, replayed against a relay, answer by answer."""

from dataclasses import replace

import pytest

from tests.wire.capture import Dialog, Line
from tests.wire.differences import DIFFERENCES, expected_of
from tests.wire.replay import Captures, replay

pytestmark = pytest.mark.timeout(60)


def test_a_relay_answers_as_the_captured_server_did(captures: Captures, dialog: str) -> None:
    """Packet for packet, but for what `compare` leaves out and the differences that are meant."""
    report = replay(captures, dialog)
    assert not report.mismatches, "\n".join(report.mismatches)
    due = expected_of(captures.dialogs[dialog])[0]
    assert report.packets == sum(line.kind == "server" for line in due.lines), "all compared"


def test_the_captured_servers_number_packets_as_the_player_counts(
    captures: Captures, dialog: str
) -> None:
    """So that a relay's numbers may be held against the rule where a difference moves them."""
    due: dict[int, int] = {}
    for line in captures.dialogs[dialog].lines:
        if line.kind == "connect":
            due[line.connection] = 0
        elif line.kind == "client":
            due[line.connection] = line.sequence + 1
        elif line.kind == "closed" and line.by == "client":
            del due[line.connection]  # 9.7 counts the last word to a closed socket anew
        elif line.kind == "server" and line.connection in due:
            assert line.sequence == due[line.connection] & 0xFF, line
            due[line.connection] = 1 if line.payload[:3] == b"\0\xef\x01" else line.sequence + 1


def test_every_difference_is_needed(captures: Captures) -> None:
    """An entry that changes nothing has outlived what it was for."""
    used = {name for dialog in captures.dialogs.values() for name in expected_of(dialog)[1]}
    assert [each.name for each in DIFFERENCES if each.name not in used] == []


def _compared_at(payload: bytes) -> int:
    """A byte that is compared: of a greeting's version, of a column's name, else in the middle."""
    if payload[:1] == b"\x0a":
        return 1
    if payload[:4] != b"\x03def":
        return len(payload) // 2
    at = 0
    for _ in range(4):  # catalogue, schema, table, original table
        at += 1 + payload[at]
    return at + 1


def _with_one_wrong_bit(dialog: Dialog, wrong: Line) -> Dialog:
    payload = bytearray(wrong.payload)
    payload[_compared_at(wrong.payload)] ^= 1
    lines = [
        replace(line, payload=bytes(payload)) if line.number == wrong.number else line
        for line in dialog.lines
    ]
    return replace(dialog, lines=lines)


@pytest.mark.parametrize("name", ["m97_payload", "m97_semi_noplugin", "pmrmdb"])
def test_one_wrong_bit_in_any_packet_is_noticed(captures: Captures, name: str) -> None:
    """Of a greeting, a login, results, errors, events: the line that is wrong is named."""
    due = expected_of(captures.dialogs[name])[0]
    for line in due.lines:
        if line.kind == "server":
            report = replay(captures, name, _with_one_wrong_bit(due, line))
            assert report.mismatches, f"line {line.number}: {line.payload!r}"
            assert report.mismatches[0].startswith(f"{name}:{line.number}: ")


@pytest.mark.parametrize("name", ["m97_semi", "mdb_gtid"])
def test_a_packet_too_many_and_one_too_few_are_noticed(captures: Captures, name: str) -> None:
    """A packet that the relay does not send, and one that nobody captured.

    But for a heartbeat that repeats another: how many of those come is a matter of time.
    """
    due = expected_of(captures.dialogs[name])[0]
    answers = [
        line
        for line in due.lines
        if line.kind == "server"
        and (line.number not in due.events or due.events[line.number].is_stored)
    ]
    for line in answers[:: len(answers) // 8]:
        fewer = [each for each in due.lines if each.number != line.number]
        at = due.lines.index(line)
        more = [*due.lines[: at + 1], line, *due.lines[at + 1 :]]
        for lines in (fewer, more):
            assert replay(captures, name, replace(due, lines=lines)).mismatches, line
