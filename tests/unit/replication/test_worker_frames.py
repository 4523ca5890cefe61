"""What a worker is told of the state, and what becomes of its copy."""

from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.binlog.relay_state import RelayState
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.pb.worker_pb2 import Answer, Begin, FromWorker, Rows, State
from kingbus.pb.worker_pb2 import DumpProgress as ProgressMessage
from kingbus.pb.worker_pb2 import Place as PlaceMessage
from kingbus.replication.dump_session import DumpProgress, DumpRequest
from kingbus.replication.served_rows import InstallingError, PurgedWhileReadingError
from kingbus.replication.worker_frames import (
    News,
    begin_out,
    places_out,
    progress_in,
    progress_out,
    request_in,
)
from kingbus.replication.worker_relay import NodeAnswerError, WorkerRelay
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import Keyring, RestKey
from kingbus.storage.log import Place
from tests.support.relay_feed import Feed, begun, perform, steps
from tests.support.relay_logs import UUID_A, gtids


class Places:
    """Every entry lies in a segment of its own; without `known` the disk would have to be read."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.keys = Keyring()

    def locate(self, indexes, *, may_read=False):
        if not self.known:
            return None
        return [
            Place(segment=f"{at}", first=at, offset=0, stop=at + 1, large=False) for at in indexes
        ]


async def unasked(_frame: FromWorker) -> None:
    raise AssertionError("nothing is asked")


def told(relay: WorkerRelay, news: News) -> None:
    frame = news()
    if frame is not None:
        relay.told(State.FromString(frame.state.SerializeToString()))


def shown(state: RelayState) -> list[object]:
    """What dumps look at."""
    names = {row.name for row in state.files} | {"binlog.000001", "binlog.000009"}
    return [
        state.visible,
        [
            (row.ordinal, row.epoch, row.name, row.served_name, row.first_index, row.closed)
            for row in state.files
        ],
        [(row.end_position, list(row.gaps), row.start.event_types) for row in state.files],
        [row.last_index for row in state.files[:-1]],
        {
            (epoch, name): state.served_name_of(epoch, name)
            for name in sorted(names)
            for epoch in {row.epoch for row in state.files}
        },
    ]


@settings(deadline=None, max_examples=60)
@given(steps, st.integers(0, 40), st.sampled_from([1, 2, 5]), st.booleans())
def test_a_copy_that_is_told_is_the_state(actions, first: int, every: int, known: bool) -> None:
    """Whenever it is told, by differences or as a whole; and it has the rows at the end."""
    feed: Feed = begun()
    news, copy = News(feed.node.relay, Places(known=known)), WorkerRelay(Path("/log"), unasked)

    async def follow() -> None:
        for number, step in enumerate(actions):
            perform(feed, step)
            if number < first or number % every:
                continue
            before = copy.state.visible
            told(copy, news)
            assert shown(copy.state) == shown(feed.node.relay.state)
            if known and before.index and before != copy.state.visible:
                rows = await copy.read_rows(before.index, 1000)
                assert rows == feed.node.relay.recent_rows(before.index, 1000)
            assert news() is None, "once is enough"

    trio.run(follow)


def test_a_file_is_told_without_its_sets() -> None:
    """They may be megabytes, and decide only where a dump begins, which the node does."""
    feed = begun()
    feed.failover(0)
    feed.session()
    feed.commit(5)
    feed.send(9)
    news = News(feed.node.relay, Places())()
    assert news is not None
    assert [row.ordinal for row in news.state.files] == [1, 2]
    assert any(row.previous_gtids for row in feed.node.relay.state.files)
    assert not any(row.previous_gtids for row in news.state.files)
    assert not any(row.start.previous_gtids for row in news.state.files)


def test_names_of_purged_files_are_known() -> None:
    """To a copy that was told before the purge, and to one that comes after it."""
    feed = begun()
    early, early_news = WorkerRelay(Path("/log"), unasked), News(feed.node.relay, Places())
    told(early, early_news)
    for _ in range(2):
        feed.failover(0)
        feed.session()
        feed.commit(5)
        feed.send_all()
    told(early, early_news)
    feed.node.command(Command(purge=Purge(first_index=feed.node.relay.state.files[2].first_index)))
    late = WorkerRelay(Path("/log"), unasked)
    told(late, News(feed.node.relay, Places()))
    told(early, early_news)
    state = feed.node.relay.state
    assert len(state.files) == 1
    assert shown(early.state) == shown(late.state) == shown(state)
    assert state.served_name_of(9, "binlog.000001") == "e9-binlog.000001"
    for copy in (early, late):
        assert copy.state.served_name_of(9, "binlog.000001") == "e9-binlog.000001"


async def test_another_state_ends_whoever_reads() -> None:
    """Its rows may look as if they went on where the old ones ended."""
    feed = begun()
    copy, news = WorkerRelay(Path("/log"), unasked), News(feed.node.relay, Places())
    told(copy, news)
    ended = []

    async def read() -> None:
        try:
            with copy.reading():
                await trio.sleep_forever()
        except InstallingError:
            ended.append(copy.state.visible)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        state = feed.node.relay.state
        feed.node.relay.install(RelayState.from_record(state.to_record(), state.files))
        told(copy, news)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [feed.node.relay.state.visible]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(purged=True), PurgedWhileReadingError),
        (Answer(installing=True), InstallingError),
        (Answer(failure="no"), NodeAnswerError),
    ],
)
async def test_what_the_node_cannot_answer(answer: Answer, error: type[Exception]) -> None:
    """Each reason ends the dump that asked in its own way; nothing is left of the question."""
    asked = []

    async def send(frame: FromWorker) -> None:
        asked.append(frame.question)
        answer.number = frame.question.number
        copy.answered(answer)

    copy = WorkerRelay(Path("/log"), send)
    copy.told(State(whole=True, first_file=0, visible_index=9))
    with pytest.raises(error):
        await copy.read_rows(2, 77)
    assert asked[0].rows == Rows(after_index=2, limit=77)
    assert not copy._asked


async def test_a_segment_that_is_gone_is_purged(tmp_path: Path) -> None:
    """And the next reader of the same entry does not wait for the one that failed."""

    async def send(frame: FromWorker) -> None:
        place = PlaceMessage(segment="gone.segment", first=1, offset=9, stop=2)
        copy.answered(Answer(number=frame.question.number, places=[place]))

    copy = WorkerRelay(tmp_path, send)
    for _ in range(2):
        with pytest.raises(PurgedWhileReadingError):
            await copy.read_batches(1, 1)


@pytest.mark.parametrize(
    "request_",
    [
        DumpRequest(kind="position", file_name="f", position=1 << 40, checksum="NONE"),
        DumpRequest(
            kind="gtid",
            gtid_set=gtids("a:1-5:7"),
            non_blocking=True,
            heartbeat_v2_accepted=True,
            heartbeat_period_s=0.25,
            server_id=0xFFFFFFFF,
            replica_uuid="u",
            checksum="CRC32",
            semi_sync=True,
        ),
        DumpRequest(kind="gtid", gtid_set=gtids("")),
    ],
)
def test_a_request_arrives_as_it_was(request_: DumpRequest) -> None:
    begin = begin_out(3, request_, file=2, position=99, next_sequence=255, server_id=7)
    begin = Begin.FromString(begin.SerializeToString())
    assert request_in(begin) == request_
    assert (begin.dump, begin.begin_file, begin.begin_position) == (3, 2, 99)
    assert (begin.next_sequence, begin.own_server_id) == (255, 7)


def test_progress_arrives_as_it_was() -> None:
    progress = DumpProgress(
        state="s",
        file="f",
        position=1 << 40,
        bytes_sent=1 << 50,
        last_event_time=9,
        next_sequence=255,
        last_transaction=(UUID_A, "tag", 1 << 60),
    )
    message = ProgressMessage.FromString(progress_out(3, progress).SerializeToString())
    got = DumpProgress()
    progress_in(message, got)
    assert got == progress
    progress_in(progress_out(3, DumpProgress()), got)
    assert got == DumpProgress()


def test_a_worker_is_told_the_keys_of_the_log_and_where_not_to_send_from() -> None:
    """With the whole state, and then no more; a place keeps its mark on the way."""
    key = RestKey.of(ClusterSecret.of(bytes(32)))
    places = Places()
    places.keys = Keyring([key])
    feed = begun()
    news = News(feed.node.relay, places)
    frame = news()
    assert frame is not None
    assert [(each.id, each.key) for each in frame.state.keys] == [(key.key_id, key.key)]
    assert bytes(32) not in frame.SerializeToString(), "passwords are not sealed with what is told"
    feed.commit(5)
    feed.send(9)
    frame = news()
    assert frame is not None
    assert not frame.state.keys, "once is enough"
    made = Place(segment="s", first=1, offset=2, stop=3, large=False, transformed=True)
    assert places_out([made])[0].transformed
