"""Sources that come and go in front of a relay: what a receiver would propose, at random moments.

Each step is one thing that happens; the files are kept, so that what the relay shows can be
compared with what the sources hold.
"""

from collections.abc import Sequence

from hypothesis import strategies as st

from kingbus.binlog.gtid import GtidSet
from tests.support.relay_logs import (
    UUID_A,
    UUID_B,
    BinlogFile,
    Event,
    Packet,
    packets_of,
)
from tests.support.relay_node import RelayNode


class Feed:
    """The present source, the receiver in front of it, and all files that ever were."""

    def __init__(self, node: RelayNode) -> None:
        self.node = node
        self.epoch = 0
        self.uuid = UUID_B
        self.files: dict[tuple[int, str], BinlogFile] = {}
        self._source: list[BinlogFile] = []
        self._numbers: dict[bytes, int] = {}
        self._queue: list[tuple[BinlogFile, Packet, int]] = []
        self._position = ("", 0)
        self._known = GtidSet()
        self.failover(0)

    # -- what happens at the source -----------------------------------------------------------

    def failover(self, copied: int) -> None:
        """A source with all that is executed here, the last `copied` of them in its own file."""
        state = self.node.relay.state
        self.epoch += 1
        self.uuid = UUID_A if self.uuid == UUID_B else UUID_B
        self._numbers = {UUID_A: 0, UUID_B: 0}
        for uuid, _, _, last in state.executed.runs():
            self._numbers[uuid] = last
        again = self.visible_transactions()[-copied:] if copied else []
        previous = state.executed.copy()
        for transaction in again:
            assert transaction[0].gtid is not None
            taken = GtidSet()
            taken.add(*transaction[0].gtid, transaction[0].gtid[2])
            previous = previous.subtract(taken)
        file = BinlogFile("binlog.000001", self.uuid, previous)
        for transaction in again:
            assert transaction[0].gtid is not None
            file.uuid = transaction[0].gtid[0]
            file.transaction(transaction[0].gtid[2])
        file.uuid = self.uuid
        self._source = []
        self._remember(file)
        self.node.cutter = None

    def _remember(self, file: BinlogFile) -> None:
        self._source.append(file)
        self.files[self.epoch, file.name] = file

    def commit(self, *sizes: int) -> None:
        """One transaction."""
        self._numbers[self.uuid] += 1
        self._source[-1].transaction(self._numbers[self.uuid], sizes)
        self._refill()

    def next_file(self, *, rotate: bool) -> None:
        """By FLUSH, or by a restart."""
        last = self._source[-1]
        name = f"binlog.{len(self._source) + 1:06}"
        if rotate:
            last.rotate(name)
        else:
            last.stop()
        previous = last.previous.copy()
        for event in last.events:
            if event.gtid:
                previous.add(*event.gtid, event.gtid[2])
        self._remember(BinlogFile(name, self.uuid, previous))
        self._refill()

    # -- what the receiver does ---------------------------------------------------------------

    def session(self) -> None:
        """A new receiver, wherever the one before was."""
        self.node.session(epoch=self.epoch, uuid=self.uuid)
        state = self.node.relay.state
        self._position = ("", 0)
        if state.files and state.files[-1].epoch == self.epoch:
            self._position = (state.visible.file_name, state.visible.position)
        self._known = state.executed.copy()
        self._queue = []
        self._refill()

    def _refill(self) -> None:
        if self.node.cutter is None:
            return
        name, position = self._position
        if self._queue:
            name, position = self._queue[-1][0].name, self._queue[-1][1].event.end
        for file in self._source:
            if file.name < name:
                continue
            gap, skipping = 0, False
            for event in file.events:
                if file.name == name and event.start < position:
                    continue
                if event.gtid is not None:
                    skipping = self._known.contains_gtid(*event.gtid)
                if skipping and event.in_transaction:
                    gap += len(event.data)
                    continue
                for packet in packets_of([event]):
                    self._queue.append((file, packet, gap))
                    gap = 0

    def send(self, count: int) -> None:
        """Up to `count` packets as one batch, if there is anything to send."""
        if self.node.cutter is None or not self._queue:
            return
        file, packet, gap = self._queue[0]
        if packet.event.start == 4:
            count = max(count, 2)  # a source writes the first two events of a file together
        chunk = [packet]
        for other, following, hole in self._queue[1:count]:
            if other is not file or hole:
                break
            chunk.append(following)
        del self._queue[: len(chunk)]
        self._position = (file.name, chunk[-1].event.end)
        self.node.batch(file, chunk, gap_before=gap)

    def send_all(self) -> None:
        """Everything that the source has."""
        if self.node.cutter is None:
            self.session()
        while self._queue:
            self.send(100)

    # -- what is to be seen -------------------------------------------------------------------

    def visible(self) -> list[tuple[str, list[Event]]]:
        """Per file of the relay, under its served name, the events that it shows."""
        shown = []
        for row in self.node.relay.state.files:
            events = [
                event
                for event in self.files[row.epoch, row.name].events
                if event.end <= row.end_position
                and not any(gap.start <= event.start < gap.end for gap in row.gaps)
            ]
            shown.append((row.served_name, events))
        return shown

    def visible_transactions(self) -> list[list[Event]]:
        """All of them in the order of the log, each as its events."""
        found: list[list[Event]] = []
        for _, events in self.visible():
            for event in events:
                if event.gtid is not None:
                    found.append([])
                if event.in_transaction:
                    found[-1].append(event)
        return found


step = st.one_of(
    st.tuples(st.just("commit"), st.lists(st.integers(0, 40), max_size=3)),
    st.tuples(st.just("commit"), st.lists(st.integers(0, 40), max_size=3)),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("next_file"), st.booleans()),
    st.tuples(st.just("session"), st.none()),
    st.tuples(st.just("failover"), st.integers(0, 3)),
)
"""One thing that happens."""

steps = st.lists(step, max_size=40)
"""Things that happen, one after the other, for `history`."""


def perform(feed: Feed, step: tuple[str, object]) -> None:
    """One step."""
    match step:
        case ("commit", sizes):
            feed.commit(*sizes)
        case ("send", count):
            feed.send(count)
        case ("next_file", rotate):
            feed.next_file(rotate=rotate)
        case ("session", _):
            feed.session()
        case ("failover", copied):
            feed.failover(copied)
            feed.session()


def begun(node: RelayNode | None = None) -> Feed:
    """A relay with the head of a file."""
    feed = Feed(node or RelayNode())
    feed.session()
    feed.commit(5)
    feed.send(3)
    return feed


def history(actions: Sequence[tuple[str, object]]) -> Feed:
    """A relay to which all that has happened."""
    feed = begun()
    for step in actions:
        perform(feed, step)
    return feed
