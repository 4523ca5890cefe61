"""Text of values, as it stands in logs."""

from kingbus.raft.describe import describe_message, describe_ready, quote
from kingbus.raft.ready import ReadState, Ready, Role, SoftState
from kingbus.raft.types import (
    APPEND_THREAD,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageType,
    Snapshot,
)


def test_data_is_quoted_and_cut() -> None:
    """Printable ASCII as it is, all else escaped, long data cut with its length told."""
    assert quote(b'a"b\\\n\x00\xff') == '"a\\"b\\\\\\n\\x00\\xff"'
    assert quote(b"x" * 1025) == '"' + "x" * 1024 + '"...(1025 bytes)'


def test_message_with_everything() -> None:
    """Ids in hexadecimal, inner lines with the indent of their message."""
    message = Message(
        MessageType.STORAGE_APPEND,
        APPEND_THREAD,
        16,
        term=3,
        index=8,
        log_term=2,
        entries=[Entry(3, 9, data=b"a"), Entry(3, 10)],
        commit=7,
        vote=1,
        reject=True,
        reject_hint=5,
        snapshot=Snapshot(8, 2, ConfState((1, 16), (4,), (2,), (2,), auto_leave=True)),
        responses=[Message(MessageType.APP_RESP, 2, 16, term=3, index=10)],
    )
    assert describe_message(message, "  ") == (
        "  10->AppendThread MsgStorageAppend Term:3 Log:2/8 Rejected (Hint: 5) Commit:7 Vote:1 "
        'Entries:[\n    3/9 EntryNormal "a"\n    3/10 EntryNormal ""\n  ]\n'
        "    Snapshot: Index:8 Term:2 ConfState:Voters:[1 16] VotersOutgoing:[2] Learners:[4] "
        "LearnersNext:[2] AutoLeave:true Responses:[\n"
        "    10->2 MsgAppResp Term:3 Log:0/10\n  ]"
    )
    assert describe_message(Message(MessageType.HUP)) == "None->None MsgHup Term:0 Log:0/0"


def test_ready_with_everything() -> None:
    """The parts stand in the order in which they are to be done."""
    ready = Ready(
        soft_state=SoftState(1, Role.LEADER),
        hard_state=HardState(2, 1, 5),
        read_states=[ReadState(5, b"r")],
        entries=[Entry(2, 6)],
        snapshot=Snapshot(5, 2, ConfState((1,))),
        committed_entries=[Entry(2, 5)],
        messages=[Message(MessageType.BEAT)],
        must_sync=True,
    )
    assert [line.split()[0] for line in describe_ready(ready).splitlines()] == [
        "Ready",
        "Lead:1",
        "HardState",
        "ReadStates",
        "Entries:",
        "2/6",
        "Snapshot",
        "CommittedEntries:",
        "2/5",
        "Messages:",
        "None->None",
    ]
    assert describe_ready(Ready()) == "<empty Ready>"
