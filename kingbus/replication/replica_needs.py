"""What replicas still need of the log: who was last seen where, on whichever node.

Owns one small table by replica uuid, and how tables of several nodes become one: the newest sight
counts. It lives in memory only; every node has all of it, because the leader gathers it and hands
it round, so a restart of some nodes, or another leader, loses nothing. It must not know how it
travels, nor what is decided from it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kingbus.binlog.retention import Need

REPLICAS_MAX: Final = 1000
"""Beyond, who was not seen for the longest is forgotten: made-up uuids must not fill a node."""


@dataclass(slots=True)
class _Sight:
    index: int  # the first of the file that it has yet to read to its end
    seen_at: float


class ReplicaNeeds:
    """See the module. `clock` gives seconds that only rise; ages, not times, go between nodes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sights: dict[tuple[str, int], _Sight] = {}  # by replica, and channel that it reads

    def see(self, replica: str, index: int, channel: int = 0) -> None:
        """It is attached here, and reads the file that begins at that index."""
        self._note((replica, channel), index, self._clock())

    def merge(self, told: Iterable[Need]) -> None:
        """What another node has seen."""
        now = self._clock()
        for need in told:
            key = need.replica, need.channel
            known = self._sights.get(key)
            seen_at = now - max(0.0, need.seen_seconds_ago)
            if known is None or seen_at > known.seen_at:
                self._note(key, need.index, seen_at)

    def _note(self, key: tuple[str, int], index: int, seen_at: float) -> None:
        self._sights[key] = _Sight(index, seen_at)
        if len(self._sights) > REPLICAS_MAX:
            del self._sights[min(self._sights, key=lambda each: self._sights[each].seen_at)]

    def forget(self, *, unseen_seconds: float) -> None:
        """Those that were not seen for so long are waited for no more."""
        oldest = self._clock() - unseen_seconds
        for key in [each for each, sight in self._sights.items() if sight.seen_at < oldest]:
            del self._sights[key]

    def all(self) -> list[Need]:
        """Everybody, by uuid."""
        now = self._clock()
        return [
            Need(
                replica=replica,
                index=sight.index,
                seen_seconds_ago=now - sight.seen_at,
                channel=channel,
            )
            for (replica, channel), sight in sorted(self._sights.items())
        ]


def encode_needs(needs: Sequence[Need]) -> list[list[Any]]:
    """As JSON takes it; a channel comes last, and not at all where it is the default one."""
    return [
        [
            each.replica,
            each.index,
            round(each.seen_seconds_ago, 3),
            *([each.channel] if each.channel else []),
        ]
        for each in needs
    ]


def decode_needs(told: Any) -> list[Need]:
    """The reverse. ValueError when it is not what `encode_needs` makes."""
    try:
        return [
            Need(
                replica=str(replica),
                index=int(index),
                seen_seconds_ago=float(seconds),
                channel=int(rest[0]) if rest else 0,
            )
            for replica, index, seconds, *rest in told[:REPLICAS_MAX]
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a table of replicas: {error}") from None
