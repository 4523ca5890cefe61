"""Stable text of what goes in and out of the core, for logs, golden tests and people.

The notation is etcd's: ids in hexadecimal, data quoted.
"""

from kingbus.raft.ready import Ready, SoftState
from kingbus.raft.types import (
    APPEND_THREAD,
    APPLY_THREAD,
    NONE,
    ConfChangeSingle,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    Snapshot,
    decode_conf_change,
)

DATA_SHOWN_MAX = 1024
"""Bytes of an entry's data that are shown: enough for tests, harmless in a log."""

_OPERATIONS = {
    ConfChangeType.ADD_NODE: "v",
    ConfChangeType.ADD_LEARNER_NODE: "l",
    ConfChangeType.REMOVE_NODE: "r",
    ConfChangeType.UPDATE_NODE: "u",
}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def quote(data: bytes) -> str:
    """Data in double quotes, what is not printable ASCII escaped."""
    text = "".join(
        _ESCAPES.get(chr(byte)) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")
        for byte in data[:DATA_SHOWN_MAX]
    )
    more = f"...({len(data)} bytes)" if len(data) > DATA_SHOWN_MAX else ""
    return f'"{text}"{more}'


def describe_id(node_id: int) -> str:
    """An id as sender or receiver of a message."""
    if node_id == NONE:
        return "None"
    if node_id == APPEND_THREAD:
        return "AppendThread"
    if node_id == APPLY_THREAD:
        return "ApplyThread"
    return f"{node_id:x}"


def _ids(ids: tuple[int, ...]) -> str:
    return "[" + " ".join(map(str, ids)) + "]"


def describe_operations(changes: tuple[ConfChangeSingle, ...]) -> str:
    """`v1 l2 r3 u4`: voter, learner, remove, update."""
    return " ".join(f"{_OPERATIONS[change.type]}{change.node_id}" for change in changes)


def describe_conf_change(change: ConfChangeV2) -> str:
    """The long form of a change."""
    return f"transition:{change.transition}" + "".join(
        f" changes:{{type:{single.type} node_id:{single.node_id}}}" for single in change.changes
    )


def describe_entry(entry: Entry) -> str:
    """`term/index type data`."""
    if entry.type is EntryType.NORMAL:
        text = quote(entry.data)
    else:
        text = describe_operations(decode_conf_change(entry).as_v2().changes)
    return f"{entry.term}/{entry.index} {entry.type}" + (f" {text}" if text else "")


def describe_entries(entries: list[Entry]) -> str:
    """One line for each entry."""
    return "".join(f"{describe_entry(entry)}\n" for entry in entries)


def describe_conf_state(conf_state: ConfState) -> str:
    """The configuration of a snapshot."""
    return (
        f"Voters:{_ids(conf_state.voters)} VotersOutgoing:{_ids(conf_state.voters_outgoing)} "
        f"Learners:{_ids(conf_state.learners)} LearnersNext:{_ids(conf_state.learners_next)} "
        f"AutoLeave:{str(conf_state.auto_leave).lower()}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """Where the snapshot stands, and its configuration."""
    return (
        f"Index:{snapshot.index} Term:{snapshot.term} "
        f"ConfState:{describe_conf_state(snapshot.conf_state)}"
    )


def describe_message(message: Message, indent: str = "") -> str:
    """One message, over several lines when it carries more than one entry, or responses."""
    text = (
        f"{indent}{describe_id(message.from_)}->{describe_id(message.to)} {message.type} "
        f"Term:{message.term} Log:{message.log_term}/{message.index}"
    )
    if message.reject:
        text += f" Rejected (Hint: {message.reject_hint})"
    if message.commit:
        text += f" Commit:{message.commit}"
    if message.vote:
        text += f" Vote:{message.vote}"
    if len(message.entries) == 1:
        text += f" Entries:[{describe_entry(message.entries[0])}]"
    elif message.entries:
        lines = [f"\n{indent}  {describe_entry(entry)}" for entry in message.entries]
        text += " Entries:[" + "".join(lines) + f"\n{indent}]"
    if message.snapshot is not None and not message.snapshot.is_empty:
        text += f"\n{indent}  Snapshot: {describe_snapshot(message.snapshot)}"
    if message.responses:
        lines = [f"\n{describe_message(response, indent + '  ')}" for response in message.responses]
        text += " Responses:[" + "".join(lines) + f"\n{indent}]"
    return text


def describe_soft_state(soft_state: SoftState) -> str:
    """Leader and role."""
    return f"Lead:{soft_state.leader_id} State:{soft_state.role}"


def describe_hard_state(hard_state: HardState) -> str:
    """Term, vote if there is one, commit index."""
    vote = f" Vote:{hard_state.vote}" if hard_state.vote else ""
    return f"Term:{hard_state.term}{vote} Commit:{hard_state.commit}"


def describe_ready(ready: Ready) -> str:
    """All parts of a Ready that are there, in the order in which they are to be done."""
    text = ""
    if ready.soft_state is not None:
        text += describe_soft_state(ready.soft_state) + "\n"
    if ready.hard_state is not None:
        text += f"HardState {describe_hard_state(ready.hard_state)}\n"
    if ready.read_states:
        reads = " ".join(f"{{{read.index} {quote(read.context)}}}" for read in ready.read_states)
        text += f"ReadStates [{reads}]\n"
    if ready.entries:
        text += "Entries:\n" + describe_entries(ready.entries)
    if ready.snapshot is not None:
        text += f"Snapshot {describe_snapshot(ready.snapshot)}\n"
    if ready.committed_entries:
        text += "CommittedEntries:\n" + describe_entries(ready.committed_entries)
    if ready.messages:
        text += "Messages:\n" + "".join(f"{describe_message(m)}\n" for m in ready.messages)
    if not text:
        return "<empty Ready>"
    return f"Ready MustSync={str(ready.must_sync).lower()}:\n{text}"
