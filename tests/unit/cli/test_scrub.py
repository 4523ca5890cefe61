"""`kingbus cluster scrub`: what of the nodes' answers is a difference."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from kingbus.admin.client import AdminApiError, AdminClient
from kingbus.cli.cluster import Node, NotComparedError, _scrubbed

LAST = 30
FILES = (3, 12, 21)
"""Where files begin; an answer is about five entries."""


class Member:
    """A member's admin API. At its n-th sum it has purged what lies before an index."""

    def __init__(self, *, purges: tuple[int, int] = (0, 0), other: int = 0) -> None:
        self.first = 1
        self._at, self._before = purges
        self._other = other
        self._asked = 0

    def ask(self, method: str, path: str) -> Any:
        assert method == "GET"
        route, _, query = path.partition("?")
        wanted = {
            key: int(value) for key, _, value in (p.partition("=") for p in query.split("&") if p)
        }
        match route:
            case "/status":
                return {"first_index": self.first, "applied_index": LAST}
            case "/binlog/files":
                return [{"name": f"f{at}", "first_index": at} for at in FILES if at >= self.first]
            case "/storage/state":
                return {"state_hash": "equal"}
        assert route == "/storage/hash"
        return self._sum(wanted["from_index"], wanted["through_index"])

    def _sum(self, begin: int, through: int) -> Any:
        self._asked += 1
        if self._asked == self._at:
            self.first = self._before
        if begin < self.first:
            raise AdminApiError(f"entry {begin} was purged", status=410)
        end = min(begin + 5, through + 1)
        value = f"{begin}-{end}" + "!" * (begin <= self._other < end)
        return {"sha256": value, "next_index": end, "problem": None}


def scrubbed(members: Sequence[Member]) -> dict[str, Any]:
    nodes = [
        Node(name=f"n{number}", api=cast("AdminClient", member))
        for number, member in enumerate(members, 1)
    ]
    with ThreadPoolExecutor(len(nodes)) as pool:
        return _scrubbed(nodes, pool)


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("before", [3, 10, 12, 21, 24])
def test_a_purge_meanwhile_is_no_difference(at: int, before: int) -> None:
    """Whenever one node has done it and the others have not; what all still hold is compared."""
    found = scrubbed([Member(), Member(purges=(at, before)), Member()])

    assert found["differ"] == []
    assert {file["result"] for file in found["files"]} <= {"equal", "purged meanwhile"}
    assert found["files"][-1]["result"] == "equal"
    for file in found["files"]:
        assert file["from_index"] <= file["through_index"]


def test_a_difference_behind_a_purge_is_found() -> None:
    """With the node that has it, in the file where it is."""
    found = scrubbed([Member(purges=(2, 12)), Member(other=25), Member()])

    assert [each.partition(" differs")[0] for each in found["differ"]] == ["f21: n2"]


def test_what_is_gone_without_a_purge_is_not_passed_over() -> None:
    """A node that refuses what it says that it holds is not compared."""

    class Refusing(Member):
        def _sum(self, begin: int, through: int) -> Any:
            raise AdminApiError("gone", status=410)

    with pytest.raises(NotComparedError, match="n2: gone"):
        scrubbed([Member(), Refusing()])
