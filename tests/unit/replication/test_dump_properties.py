"""Whatever happened to the log: a dump gives what is missing, once, in order, byte for byte."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.gtid import GtidSet
from kingbus.replication import served_rows
from kingbus.replication.dump import DumpRequest
from tests.support.relay_feed import Feed, begun, history, perform, steps
from tests.support.relay_logs import UUID_A, UUID_B
from tests.support.relay_node import Replica

FILE_EVENTS = {3, 4, 15, 35}


def transactions_in(replica: Replica) -> list[bytes]:
    """Events of transactions only, in the order they came."""
    return [event for event in replica.stored if event[4] not in FILE_EVENTS]


def missing(feed: Feed, known: GtidSet) -> list[bytes]:
    """What a replica with that set lacks."""
    return [
        event.data
        for transaction in feed.visible_transactions()
        if transaction[0].gtid and not known.contains_gtid(*transaction[0].gtid)
        for event in transaction
    ]


def conversation(feed: Feed, known: GtidSet) -> list[str]:
    """What a source sends to a replica with that set, by MySQL's rules, event by event."""
    state, shown, said = feed.node.relay.state, feed.visible(), []
    starts = [
        at
        for at, row in enumerate(state.files)
        if known.contains(GtidSet.decode(state.previous_gtids(row)))
    ]
    for (name, events), row in list(zip(shown, state.files, strict=True))[starts[-1] :]:
        said.append(f"rotate* {name}:4")
        position, skipping, owed = 4, False, False
        for event in events:
            owed |= event.start != position
            position = event.end
            if event.gtid is not None:
                skipping = known.contains_gtid(*event.gtid)
            if skipping and event.type != 4:
                owed = True
                continue
            if owed:
                said.append(f"beat1 {name}:{event.start}")
                owed = False
            said.append(str(event.type))
        if owed or row.end_position != position:
            said.append(f"beat1 {name}:{row.end_position}")
    return said


def some_of(feed: Feed, data: st.DataObject) -> GtidSet:
    """A set such as a replica may have: part of what is executed, and things of its own."""
    known = GtidSet()
    for transaction in feed.visible_transactions():
        if data.draw(st.booleans()):
            gtid = transaction[0].gtid
            assert gtid is not None
            known.add(*gtid, gtid[2])
    sources = {bytes.fromhex(text.replace("-", "")) for text in feed.node.relay.state.source_uuids}
    for uuid in {UUID_A, UUID_B, bytes(range(16))} - sources:
        known.add(uuid, "", data.draw(st.integers(1, 3)), 4)
    return known


@given(actions=steps, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_gtid_dump_gives_exactly_what_is_missing(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """For any log and any set; and of each file that it goes through, all that is not skipped."""
    feed = history(actions)
    known = some_of(feed, data)
    request = DumpRequest(kind="gtid", gtid_set=known, non_blocking=True, checksum="CRC32")

    replica = trio.run(feed.node.dump, request)

    assert replica.finished
    assert transactions_in(replica) == missing(feed, known)
    assert replica.kinds == conversation(feed, known)


@given(actions=steps, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_position_dump_gives_everything_from_there(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """For any log and the place of any event in it, the end of each file included."""
    feed = history(actions)
    shown = feed.visible()
    at = data.draw(st.integers(0, len(shown) - 1))
    name, events = shown[at]
    row = feed.node.relay.state.files[at]
    positions = [event.start for event in events] + [row.end_position]
    position = data.draw(st.sampled_from(positions))
    request = DumpRequest(
        kind="position",
        file_name=name,
        position=position,
        non_blocking=True,
        checksum="CRC32",
    )

    replica = trio.run(feed.node.dump, request)

    assert replica.finished, replica.refusal
    rest = [event for event in events if event.start >= position]
    rest += [event for _, following in shown[at + 1 :] for event in following]
    assert _without_renamed(replica.stored[position > 4 :]) == _without_renamed(
        [event.data for event in rest]
    )


@given(actions=steps, data=st.data())
@settings(max_examples=100, deadline=None)
def test_an_attached_replica_sees_whole_transactions_as_they_come(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """Replicas attached at any time; kills in mid-transaction, failovers; never a part of one."""

    async def main() -> None:
        feed = begun()
        attached: list[tuple[Replica, GtidSet]] = []
        async with trio.open_nursery() as nursery:
            for step in actions:
                if len(attached) < 3 and data.draw(st.integers(0, 5)) == 0:
                    known = some_of(feed, data)
                    request = DumpRequest(kind="gtid", gtid_set=known, checksum="CRC32")
                    replica = Replica(request)
                    nursery.start_soon(replica.attach, feed.node)
                    attached.append((replica, known))
                    await trio.testing.wait_all_tasks_blocked()
                perform(feed, step)
                if data.draw(st.booleans()):
                    await trio.testing.wait_all_tasks_blocked()
                    for replica, known in attached:
                        assert transactions_in(replica) == missing(feed, known)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        for replica, known in attached:
            assert replica.refusal is None
            replica.check()
            assert transactions_in(replica) == missing(feed, known)

    trio.run(main)


@given(actions=steps, data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_restarted_node_serves_the_same(
    actions: list[tuple[str, object]], data: st.DataObject
) -> None:
    """From checkpoint and log alone, at any moment, and it goes on from there."""
    feed = begun()
    for step in actions:
        perform(feed, step)
        if data.draw(st.integers(0, 3)) == 0:
            before = feed.node.relay.state
            feed.node.restart()
            assert feed.node.relay.state.digest() == before.digest()
            assert feed.node.relay.state.visible == before.visible
    request = DumpRequest(kind="gtid", gtid_set=GtidSet(), non_blocking=True, checksum="CRC32")

    replica = trio.run(feed.node.dump, request)

    assert transactions_in(replica) == missing(feed, GtidSet())


@pytest.mark.parametrize("recent", [1, 3])
def test_rows_out_of_memory_are_served_alike(recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a row comes from memory or from the database makes no difference."""
    monkeypatch.setattr(served_rows, "RECENT_ROWS", recent)
    test_an_attached_replica_sees_whole_transactions_as_they_come()
    test_a_gtid_dump_gives_exactly_what_is_missing()


def _without_renamed(events: list[bytes]) -> list[bytes]:
    """ROTATE events may carry another file name; what stays of them is compared."""
    return [event[:5] if event[4] == 4 else event for event in events]
