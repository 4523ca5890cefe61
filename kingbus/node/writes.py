"""Group commit: what waits for the disk becomes one write. Pure.

The append messages of the core are taken strictly in order; their responses may go once the write
is durable. A message that only moves the commit index needs no write of its own: that index is
also found from what was applied, so it travels with the next write that there is.
"""

from collections import deque
from dataclasses import dataclass, field

from kingbus.raft.types import Entry, HardState, Message, Snapshot

WRITE_BYTES_MAX = 64 << 20
"""One write holds no more: it bounds the time until the first response in it may go."""


@dataclass(slots=True)
class Gathered:
    """One write, and what may be said once it is durable."""

    entries: list[Entry] = field(default_factory=list)
    hard_state: HardState | None = None
    snapshot: Snapshot | None = None
    must_sync: bool = False
    responses: list[Message] = field(default_factory=list)

    @property
    def needs_write(self) -> bool:
        """False when there is at most a new commit index."""
        return self.must_sync


def gather(queue: deque[Message], saved: HardState) -> Gathered:
    """Take messages off the queue into one write; `saved` is the hard state on the disk.

    Entries that a later message replaces are left out. A snapshot replaces the log, so what came
    before it is written first and by itself.
    """
    assert queue
    gathered = Gathered()
    state = saved
    size = 0
    while queue and size < WRITE_BYTES_MAX:
        message = queue[0]
        if message.snapshot is not None:
            if gathered.responses or gathered.entries or gathered.hard_state is not None:
                break
            gathered.snapshot = message.snapshot
        queue.popleft()
        if message.term or message.vote or message.commit:
            state = HardState(message.term, message.vote, message.commit)
            gathered.hard_state = state
        if message.entries:
            _append(gathered.entries, message.entries)
            size += sum(len(entry.data) for entry in message.entries)
        gathered.responses += message.responses
    gathered.must_sync = bool(
        gathered.entries
        or gathered.snapshot is not None
        or state.term != saved.term
        or state.vote != saved.vote
    )
    return gathered


def _append(held: list[Entry], added: list[Entry]) -> None:
    """Append, after dropping what the added entries replace."""
    if held and added[0].index <= held[-1].index:
        del held[max(0, added[0].index - held[0].index) :]
    assert not held or added[0].index == held[-1].index + 1, (held[-1].index, added[0].index)
    held += added
