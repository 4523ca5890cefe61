"""The receiver of one node, in steps: session, dump, batches under way, what ends a session.

It decides nothing by itself: plan, resume point, stream and fence are the production code's. It
runs only while its node leads, and what it has proposed is kept by the world for a while, so that
it can come again late: a deposed puller's events must be refused whoever repeats them.
"""

from collections import deque
from typing import TYPE_CHECKING

from kingbus.binlog.command import encode
from kingbus.binlog.errors import (
    DifferentFileError,
    ReplacedAtSourceError,
    SourceError,
    StreamEndedError,
    UnknownFileError,
)
from kingbus.binlog.ingest import IngestedBatch, IngestStream
from kingbus.node.proposals import Proposal
from kingbus.pb.command_pb2 import Command, ReceiverSession
from kingbus.raft.errors import ProposalDroppedError
from kingbus.replication.source_facts import SourceMissesError, by_gtid, plan_session
from tests.simulation.source import Connection

if TYPE_CHECKING:
    from tests.simulation.host import Host

UNDER_WAY_MAX = 16


class Receiver:
    """One node's receiver."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._world = host.world
        self._new_epoch = self._ask_by_gtid = False
        self._reset()

    def _reset(self) -> None:
        self._connection: Connection | None = None
        self._generation = 0
        self._opening: Proposal | None = None
        self._session = 0
        self._stream: IngestStream | None = None
        self._outbox: deque[IngestedBatch] = deque()
        self._waiting: deque[tuple[Proposal, int]] = deque()
        self._error: SourceError | None = None

    def stop(self) -> None:
        """The session is over, whatever it was doing."""
        self._reset()

    @property
    def is_idle(self) -> bool:
        """Nothing is under way."""
        return not self._waiting and not self._outbox

    def step(self) -> None:
        """A little of what there is to do; to be called every now and then."""
        host, state = self._host, self._host.relay.state
        if not host.ready_term or state.source_config is None or not state.source_config.started:
            self.stop()
        elif self._session:
            self._dump()
        elif self._opening is not None:
            self._open()
        else:
            self._begin()

    def _begin(self) -> None:
        host, source = self._host, self._world.source
        state, facts = host.relay.state, source.facts()
        assert state.source_config is not None
        try:
            plan = plan_session(state, state.source_config, facts, new_epoch=self._new_epoch)
        except SourceMissesError:
            # A leader that does not know yet that it was deposed may lack what others applied.
            newest = max(self._world.checks.leaders)
            assert newest > host.ready_term, "the source was set up for what is applied"
            return
        wanted = ReceiverSession(
            member_id=host.id,
            term=host.ready_term,
            epoch=plan.epoch,
            source_uuid=facts.server_uuid,
            source_id=facts.server_id,
            source_version=facts.version,
            flavor="mysql",
            start_set=plan.start_set.encode(),
            source_address=facts.address,
        )
        self._generation = source.generation
        try:
            self._opening = host.propose(encode(Command(receiver_session=wanted)))
        except ProposalDroppedError:
            return

    def _open(self) -> None:
        opening = self._opening
        assert opening is not None
        if not opening.is_settled:
            return
        state = self._host.relay.state
        self._opening = None
        if opening._error is not None or state.session != opening.index:
            return
        if self._world.source.generation != self._generation:
            return  # it was another server that was asked
        self._new_epoch = False
        self._session = opening.index
        point = state.resume_point()
        assert point.session == self._session
        if self._ask_by_gtid:
            point = by_gtid(point)
        self._stream = IngestStream(point, batch_bytes=self._world.options.batch_bytes)
        self._connection = self._world.source.connect(point)
        self._world.checks.note_pull(self._host.ready_term, self._host.id)

    def _dump(self) -> None:
        if not self._is_going_on():
            self.stop()
        elif self._error is not None:
            # What came before it counts; what is under way is not to be thrown away.
            if self.is_idle:
                self._deal_with(self._error)
                self.stop()
        elif len(self._waiting) < UNDER_WAY_MAX:
            self._read()
        if self._session:
            self._propose()

    def _is_going_on(self) -> bool:
        """Whether all that was proposed was taken as it was meant."""
        state = self._host.relay.state
        while self._waiting and self._waiting[0][0].is_settled:
            proposal, sequence = self._waiting.popleft()
            if proposal._error is not None or state.session != self._session:
                return False
            if state.next_sequence <= sequence:
                return False
            self._world.checks.note_acknowledged(self._host, proposal.index)
        return state.session == self._session

    def _read(self) -> None:
        assert self._connection is not None
        assert self._stream is not None
        data = self._connection.read(self._world.options.chunk_bytes)
        if data is None:
            self._error = StreamEndedError("the connection ended")
            return
        self._stream.receive(data)
        try:
            self._outbox += self._stream.take(idle=not data)
        except SourceError as error:
            self._error = error

    def _deal_with(self, error: SourceError) -> None:
        self._new_epoch = isinstance(error, DifferentFileError)
        self._ask_by_gtid = isinstance(error, UnknownFileError)
        known = (DifferentFileError, UnknownFileError, StreamEndedError, ReplacedAtSourceError)
        assert isinstance(error, known), f"the receiver of {self._host.id} stops: {error!r}"

    def _propose(self) -> None:
        while self._outbox and len(self._waiting) < UNDER_WAY_MAX:
            batch = self._outbox[0]
            data = encode(Command(event_batch=batch.meta), batch.packets)
            try:
                proposal = self._host.propose(data)
            except ProposalDroppedError:
                return  # too much is uncommitted, or leadership is on its way
            self._outbox.popleft()
            self._waiting.append((proposal, batch.meta.sequence))
            self._world.late_batches.append(data)
            self._ask_by_gtid = False
