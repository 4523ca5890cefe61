"""The notation of membership operations: v1 (voter) l2 (learner) r3 (remove) u4 (update)."""

from kingbus.raft.types import ConfChangeSingle, ConfChangeType
from tests.interaction.datadriven import DirectiveError

_TYPES = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}


def parse_operations(text: str) -> tuple[ConfChangeSingle, ...]:
    """All operations in the text."""
    operations = []
    for word in text.split():
        if word[0] not in _TYPES or not word[1:].isdecimal():
            raise DirectiveError(f"unknown operation {word!r}")
        operations.append(ConfChangeSingle(_TYPES[word[0]], int(word[1:])))
    return tuple(operations)
