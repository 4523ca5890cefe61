"""What others may ask of this node's log, and how much at a time."""

import base64

import pytest
import trio
import trio.testing

from kingbus.admin.errors import GoneError, NotFoundError, UnavailableError
from kingbus.admin.storage import HASH_BYTES_MAX, WAIT_SECONDS_MAX, StorageQuestions
from kingbus.raft.types import Entry
from kingbus.storage.errors import CorruptRecordError
from tests.support.relay_node import MemoryLog, RelayNode, run_inline


def log_of(*data):
    log = MemoryLog()
    log.entries = [Entry(1, index, data=each) for index, each in enumerate(data, 1)]
    return log


def questions(log, *, applied=None, digest_at=None):
    return StorageQuestions(
        log=log,
        applied=lambda: log.last_index() if applied is None else applied,
        digest_at=digest_at,
        runner=run_inline,
    )


async def test_equal_logs_have_equal_sums():
    """Of any stretch; one other byte, term or length is another sum."""
    first = await questions(log_of(b"a", b"b", b"c")).hash(1, 3)
    again = await questions(log_of(b"a", b"b", b"c", b"more")).hash(1, 3)
    assert first == again
    assert (first.from_index, first.next_index, first.bytes, first.problem) == (1, 4, 3, None)
    for other in (log_of(b"a", b"b", b"d"), log_of(b"a", b"bc", b""), log_of(b"", b"ab", b"c")):
        assert (await questions(other).hash(1, 3)).sha256 != first.sha256
    later = log_of(b"a", b"b", b"c")
    later.entries[2] = Entry(2, 3, data=b"c")
    assert (await questions(later).hash(1, 3)).sha256 != first.sha256


async def test_one_question_is_bounded():
    """A long stretch takes several; together they have all of it."""
    data = [bytes([number]) * (HASH_BYTES_MAX // 4) for number in range(6)]
    asked = questions(log_of(*data))
    at, ends = 1, []
    while at <= 6:
        at = (await asked.hash(at, 6)).next_index
        ends.append(at)
    assert ends == [5, 7]


async def test_damage_is_an_answer():
    """With the place, and not an error of the request."""

    class Damaged(MemoryLog):
        def read(self, lo, hi, max_bytes):
            raise CorruptRecordError("/log/1.segment", 77, "it does not verify")

    log = Damaged()
    log.entries = [Entry(1, 1)]
    answer = await questions(log).hash(1, 1)
    assert "corrupt at byte 77" in answer.problem
    assert answer.next_index == 1


async def test_what_is_not_here_is_told():
    """Purged, not applied yet, or never there."""
    log = log_of(b"a", b"b", b"c")
    log.first = 2
    asked = questions(log, applied=2)
    with pytest.raises(GoneError):
        await asked.hash(1, 2)
    with pytest.raises(NotFoundError):
        await asked.hash(2, 3)
    with pytest.raises(GoneError):
        await asked.entries(1, 3)
    with pytest.raises(NotFoundError):
        await asked.entries(3, 5)
    (entry,) = await asked.entries(3, 4)
    assert (entry.index, entry.term, base64.b64decode(entry.data)) == (3, 1, b"c")


async def test_the_state_at_an_index(autojump_clock):
    """Exactly there: waited for, or gone when it was passed without being asked for."""
    node = RelayNode()
    node.session()
    index = node.relay.applied_index
    asked = questions(node.log, digest_at=node.relay.digest_at)
    assert (await asked.state(index)).state_hash == node.relay.state.digest()

    found = []
    async with trio.open_nursery() as nursery:

        async def wait():
            found.append(await asked.state(index + 2))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        node.commit(b"", b"", b"")
    assert len(found) == 1
    other = RelayNode()
    other.session()
    other.commit(b"", b"")
    assert found[0].state_hash == other.relay.state.digest()
    with pytest.raises(GoneError):
        await asked.state(index + 1)
    began = trio.current_time()
    with pytest.raises(UnavailableError):
        await asked.state(index + 100)
    assert trio.current_time() - began == WAIT_SECONDS_MAX
