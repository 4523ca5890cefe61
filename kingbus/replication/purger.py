"""Keeps the log within its reserve: looks at sizes on every node, and purges from the leader.

Owns when retention is looked at, what the members tell each other for it, and the proposing of
`Purge`. What is purged is decided in `binlog/retention.py`; applying it is the relay state's and
cutting the log the node's. It must not know how the log lies on the disk, nor who serves replicas.

On every node, once a second while the log grows and every few seconds else: what the index takes is
measured and attached replicas are noted; the distance to the cut is computed when somebody asks for
metrics. On the leader it is decided as soon as the log has grown, but at most some times a second,
and once a second anyhow. Meanwhile each member is asked for the first index
that fits *its* disk and which replicas it has seen, and is told of all that are known. The smallest
reserve that any member has announced counts, too, as if its log lay on its disk as the leader's
does: for who does not answer.

With several channels each is looked at alike. One whose open file begins before what may stay is
cut if it has become quiet, or holds little; see decisions/0027-channels.md.
"""

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import trio

from kingbus import log, metrics
from kingbus.binlog.command import encode
from kingbus.binlog.relay_state import RelayState, VisibleEnd
from kingbus.binlog.retention import (
    Decision,
    Need,
    Policy,
    Usage,
    decide,
    file_time,
    index_share,
    purge_before,
    purge_to,
)
from kingbus.errors import KingbusError
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.pb.record_pb2 import FileRow
from kingbus.replication.proposing import Node
from kingbus.replication.replica_needs import ReplicaNeeds, decode_needs, encode_needs

_log = log.get_logger("purger")

CALL_METHOD: Final = "retention"
CALL_SECONDS_MAX: Final = 2.0
LOOK_SECONDS: Final = 1.0
"""Between two looks: at what grows with the log, and whether something is to be purged."""
IDLE_LOOK_SECONDS: Final = 5.0
"""Between two looks at the index while nothing new is visible."""
REPLICAS_SECONDS: Final = 5.0
"""Between two looks at all replicas, if nothing is purged: a thousand of them must cost little."""
PAUSE_SECONDS: Final = 0.1
"""Between two looks at one that does: a fraction of what it takes to fill a segment."""
ASK_SECONDS: Final = 0.5
"""Between two questions to a member while the log grows; each is a connection of its own."""
IDLE_ASK_SECONDS: Final = 5.0
"""The same while it does not."""
ATTACHED_SECONDS: Final = 5.0
"""Who was seen within these when a purge by hand looks is attached: it asks all members first, and
each looks at its own when it is asked. Without a question they look every REPLICAS_SECONDS."""


SLOW_SHARE: Final = 4
"""A channel that holds less than this part of what may stay does not fill the reserve by itself."""


MARKS: Final = 4
"""Of what may stay so many parts lie between two marks: about as much is left to a slow channel."""


class UnknownFileError(KingbusError):
    """The file to purge to is not held."""


class Relay(Protocol):
    """The applied log."""

    @property
    def state(self) -> RelayState: ...
    async def wait_beyond(self, visible: VisibleEnd) -> None: ...


class Channel(Protocol):
    """A named channel, or the default one, whose number is 0."""

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def state(self) -> RelayState: ...
    def attached(self) -> Iterable[tuple[str, str]]:
        """Uuid and file of the replicas that are attached here."""
        ...

    def end_overtaken(self) -> None:
        """End the dumps that are stuck in files which are not held."""

    def description(self, file: FileRow, /) -> Awaitable[bytes]:
        """The FORMAT_DESCRIPTION event of a file that is held."""
        ...

    def wait_beyond(self, visible: VisibleEnd, /) -> Awaitable[None]:
        """Until something is visible that was not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Default:
    """The default channel. It alone is described from outside, where there are others."""

    state: RelayState
    attached: Callable[[], Iterable[tuple[str, str]]]
    end_overtaken: Callable[[], None]
    description: Callable[[FileRow], Awaitable[bytes]]
    wait_beyond: Callable[[VisibleEnd], Awaitable[None]]
    name: str = ""
    number: int = 0


async def _not_described(_file: FileRow) -> bytes:
    return b""


class Reply(Protocol):
    """A member's answer."""

    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


class Calls(Protocol):
    """Questions to other members."""

    async def call(
        self,
        target: int | str,
        method: str,
        body: bytes = b"",
        timeout: float = 10.0,  # noqa: ASYNC109 - across processes, not within this one
    ) -> Reply: ...


class Disk(Protocol):
    """What this node's log and index take."""

    def usage(self) -> Usage:
        """As of now, at once."""
        ...

    async def measure(self) -> None:
        """Look at what cannot be known without looking; `usage` has it from then on."""
        ...


class Purger:
    """See the module. `run` belongs to the member's nursery.

    `others` are the ids of the other members, `attached` gives uuid and file of the replicas that
    are attached here, `end_overtaken` ends the dumps that are stuck in files which are not held,
    `policy` is this node's and counts while it leads, `clock` is the wall clock.
    """

    def __init__(
        self,
        *,
        node: Node,
        relay: Relay,
        disk: Disk,
        calls: Calls,
        others: Callable[[], Sequence[int]],
        attached: Callable[[], Iterable[tuple[str, str]]],
        end_overtaken: Callable[[Callable[[str], bool]], None],
        policy: Policy,
        clock: Callable[[], float] = time.time,
        channels: Callable[[], Iterable[Channel]] = tuple,
        description: Callable[[FileRow], Awaitable[bytes]] = _not_described,
    ) -> None:
        """`channels` gives the named ones, `description` is of the default channel's files."""
        self._channels = channels
        self._description = description
        self._node = node
        self._relay = relay
        self._disk = disk
        self._calls = calls
        self._others = others
        self._attached = attached
        self._end_overtaken = end_overtaken
        self._policy = policy
        self._clock = clock
        self._needs = ReplicaNeeds(trio.current_time)
        self._told: dict[int, int] = {}  # the first index that fits each member's disk
        self._has_asked = False
        self._proposing = trio.Lock()

    def until_purged(self, index: int) -> int:
        """Bytes that the log takes yet before the reserve makes the file go that begins there."""
        return self._usage().until_purged(index)

    def _is_held(self, file: str) -> bool:
        return self._relay.state.file_named(file) is not None

    def _all(self) -> list[Channel]:
        """All channels, the default one first."""
        default = _Default(
            state=self._relay.state,
            attached=self._attached,
            end_overtaken=lambda: self._end_overtaken(self._is_held),
            description=self._description,
            wait_beyond=self._relay.wait_beyond,
        )
        return [default, *self._channels()]

    @property
    def has_purged_all(self) -> bool:
        """The log begins with an open file, and that one is not to be cut: no purge makes room.

        What other channels hold behind its beginning would make none, either.
        """
        channels = self._all()
        held = [each for each in channels if each.state.files]
        if not held:
            return True
        oldest = min(held, key=lambda each: each.state.files[0].first_index)
        if len(oldest.state.files) > 1:
            return False
        return len(channels) == 1 or self._fills(oldest, self._reserve_index())

    def _seen(self) -> dict[int, VisibleEnd]:
        """What is visible of each channel, by number."""
        return {each.number: each.state.visible for each in self._all()}

    async def _wait_beyond(self, seen: Mapping[int, VisibleEnd]) -> None:
        """Until something is visible, of any channel, that was not."""
        channels = self._all()
        if any(each.number not in seen for each in channels):
            return
        async with trio.open_nursery() as nursery:

            async def wait(channel: Channel) -> None:
                await channel.wait_beyond(seen[channel.number])
                nursery.cancel_scope.cancel()

            for each in channels:
                nursery.start_soon(wait, each)

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after this node, and while it leads after all."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after_this)
            while True:
                term = await self._node.leadership.wait_ready()
                self._told.clear()
                self._has_asked = False
                async with trio.open_nursery() as leading:
                    leading.start_soon(self._keep_asking)
                    leading.start_soon(self._keep_purging)
                    await self._node.leadership.wait_lost(term)
                    leading.cancel_scope.cancel()

    async def _look_after_this(self) -> None:
        first, next_look = 0, trio.current_time()
        while True:
            seen, files = self._seen(), self._relay.state.files
            await self._disk.measure()
            if trio.current_time() >= next_look or (files and files[0].ordinal != first):
                self._look_at_replicas()
                first = files[0].ordinal if files else 0
                next_look = trio.current_time() + REPLICAS_SECONDS
            await trio.sleep(LOOK_SECONDS)
            with trio.move_on_after(IDLE_LOOK_SECONDS - LOOK_SECONDS):
                await self._wait_beyond(seen)

    def _look_at_replicas(self) -> None:
        self._note_attached()
        for each in self._all():
            each.end_overtaken()
        self._needs.forget(unseen_seconds=self._policy.replica_seconds)

    async def _keep_asking(self) -> None:
        while True:
            seen = self._seen()
            await self._ask_all()
            self._has_asked = True
            await trio.sleep(ASK_SECONDS)
            with trio.move_on_after(IDLE_ASK_SECONDS - ASK_SECONDS):
                await self._wait_beyond(seen)

    async def _keep_purging(self) -> None:
        while True:
            seen = self._seen()
            try:
                await self._purge_by_policy()
            except KingbusError as error:
                _log.info("a purge was put off", reason=error.explain())
            await trio.sleep(PAUSE_SECONDS)
            with trio.move_on_after(LOOK_SECONDS - PAUSE_SECONDS):
                await self._wait_beyond(seen)

    # -- what the members tell each other ---------------------------------------------------

    async def _ask_all(self) -> None:
        """Ask those that are there; nobody is waited for longer than a look takes."""
        body = json.dumps({"replicas": encode_needs(self._needs.all())}).encode()
        with trio.move_on_after(LOOK_SECONDS):
            async with trio.open_nursery() as nursery:
                for member_id in self._others():
                    nursery.start_soon(self._ask, member_id, body)

    async def _ask(self, member_id: int, body: bytes) -> None:
        try:
            reply = await self._calls.call(member_id, CALL_METHOD, body, timeout=CALL_SECONDS_MAX)
            if reply.status != 200:
                return  # an older version, which knows nothing of it
            answer = json.loads(reply.body)
            self._told[member_id] = int(answer["first_needed"])
            self._needs.merge(decode_needs(answer["replicas"]))
        except (KingbusError, ValueError, KeyError, TypeError) as error:
            _log.debug("a member does not say what it needs", member=f"{member_id:x}", why=error)

    async def handle_call(self, _caller: int, body: bytes) -> bytes:
        """The answer of this node to the one that leads."""
        asked: Any = json.loads(body)
        self._needs.merge(decode_needs(asked["replicas"]))
        self._note_attached()
        answer = {
            "first_needed": self._disk.usage().first_needed(),
            "replicas": encode_needs(self._needs.all()),
        }
        return json.dumps(answer).encode()

    def _note_attached(self) -> None:
        for each in self._all():
            for replica, file in each.attached():
                row = each.state.file_named(file)
                if replica and row is not None:
                    self._needs.see(replica, row.first_index, each.number)

    # -- deciding ---------------------------------------------------------------------------

    def _usage(self) -> Usage:
        """This node's, as if it had the smallest reserve of all."""
        usage, members = self._disk.usage(), self._relay.state.members
        reserves = [members[each].reserve_bytes for each in self._others() if each in members]
        smallest = min((each for each in reserves if each), default=usage.reserve_bytes)
        if smallest >= usage.reserve_bytes:
            return usage
        return replace(usage, reserve_bytes=smallest, index_bytes=index_share(smallest))

    def _reserve_index(self) -> int:
        """The first index that fits everywhere: on no disk may the log pass its reserve."""
        needed = [self._told[each] for each in self._others() if each in self._told]
        return max([self._usage().first_needed(), *needed])

    async def _purge_by_policy(self) -> None:
        async with self._proposing:
            channels = self._all()
            for each in channels:
                made = self._decide(each)
                if made.reason:  # seldom, and only then replicas are looked at
                    self._note_attached()
                    made = self._decide(each, self._needs_of(each))
                    await self._purge(each, made)
                if len(channels) > 1:
                    if made.is_too_large:
                        await self._give_way(each)
                    await self._mark(each)

    def _needs_of(self, channel: Channel) -> list[Need]:
        return [each for each in self._needs.all() if each.channel == channel.number]

    def _decide(self, channel: Channel, needs: Iterable[Need] = ()) -> Decision:
        return decide(
            channel.state.files,
            reserve_index=self._reserve_index(),
            # Age can wait until it is known which replicas the others have seen.
            policy=self._policy if self._has_asked else replace(self._policy, keep_seconds=None),
            needs=needs,
            now=self._clock(),
        )

    async def _give_way(self, channel: Channel) -> None:
        """The open file of a channel begins before what may stay; the others have not to stop."""
        row = channel.state.files[-1]
        description = await channel.description(row)
        state, index, usage = channel.state, self._reserve_index(), self._usage()
        if not description or row is not state.files[-1]:
            return
        is_empty = row.first_index > row.last_index  # it was cut, and nothing came since
        is_slow, is_marked = row.last_index >= index, False
        if is_slow:
            if self._fills(channel, index):
                return  # that is what `reserve-overflow` is for
            # Where it was marked, if that is behind what has to go; else all of it.
            is_marked = state.mark_index + 1 >= index
            index = (state.mark_index if is_marked else row.last_index) + 1
        if state.in_transaction and not is_marked:
            left = usage.target + usage.segment_bytes - usage.held_from(row.first_index)
            if is_slow and left > 0:
                return  # it may end yet
            await self._abandon(channel)
        cut = Purge(channel=channel.number, first_index=index, description=description)
        proposal = await self._node.propose(encode(Command(purge=cut)))
        await proposal.applied()
        if is_empty:
            return  # its place moved on with the log, and it lost nothing
        metrics.BINLOG_PURGES.labels("reserve").inc()
        _log.warning(
            "a channel was cut: its open file is held from here on",
            channel=channel.name,
            file=row.served_name,
            position=row.cut_position,
        )

    def _fills(self, channel: Channel, index: int) -> bool:
        """Whether its open file alone fills the reserve, `index` being the first that may stay.

        What is there of an open transaction counts, too: it would come again and again.
        """
        row = channel.state.files[-1]
        held = channel.state.open_end - max(row.start_position, row.cut_position)
        return row.last_index >= index and held * SLOW_SHARE > self._usage().target

    async def _abandon(self, channel: Channel) -> None:
        """End the session of a channel, and with it the transaction that was begun there.

        Its source may be dead, or waited for with all others because there is no room: then it
        would stay open, and what was held before it, too. The next session gets it from its start.
        """
        source = channel.state.source
        assert source is not None, "what is open belongs to a session"
        proposal = await self._node.propose(encode(Command(receiver_session=source)))
        await proposal.applied()
        _log.warning("a transaction that was not complete was dropped", channel=channel.name)

    async def _mark(self, channel: Channel) -> None:
        """Now and then, where a channel goes on in one file: so that it may be cut there later."""
        state = channel.state
        if not state.files or state.in_transaction:
            return
        row, usage = state.files[-1], self._usage()
        since = max(row.first_index, state.mark_index)
        if row.last_index <= since or usage.held_from(since) * MARKS < usage.target:
            return
        description = await channel.description(row)
        if description:
            mark = Purge(channel=channel.number, description=description, mark=True)
            proposal = await self._node.propose(encode(Command(purge=mark)))
            await proposal.applied()

    async def _purge(self, channel: Channel, made: Decision) -> None:
        if not made.reason or made.first is None:
            return
        if made.cut_off:
            _log.warning(
                "replicas are cut off",
                replicas=",".join(made.cut_off),
                reason=made.reason,
                first_file=made.first.served_name,
            )
        purge = Purge(channel=channel.number, first_index=made.first.first_index)
        command = Command(purge=purge)
        proposal = await self._node.propose(encode(command))
        await proposal.applied()
        metrics.BINLOG_PURGES.labels(made.reason).inc()
        _log.info("purged", first_file=made.first.served_name, reason=made.reason)

    # -- by hand, on the leader -------------------------------------------------------------

    def _channel(self, number: int) -> Channel:
        return next(each for each in self._all() if each.number == number)

    async def purge_to(self, name: str, *, channel: int = 0) -> None:
        """Purge all files before this one, but for those that replicas are reading.

        UnknownFileError; the node's errors when the log does not take it.
        """
        async with self._proposing:
            state = self._channel(channel).state
            wanted = state.file_named(name)
            if wanted is None:
                raise UnknownFileError(f"no such file: {name}")
            await self._ask_all()
            # What was purged meanwhile need not be purged again.
            of = self._channel(channel)
            wanted = of.state.file(wanted.ordinal)
            if wanted is not None:
                needs = self._by_now(of)
                made = purge_to(of.state.files, wanted, needs, ATTACHED_SECONDS)
                await self._purge(of, made)

    async def purge_before(self, seconds: float, *, channel: int = 0) -> None:
        """Purge the files that were last written before that time, in seconds since 1970."""
        async with self._proposing:
            await self._ask_all()
            of = self._channel(channel)
            made = purge_before(of.state.files, seconds, self._by_now(of), ATTACHED_SECONDS)
            await self._purge(of, made)

    def replicas_seen(self, channel: int = 0) -> set[str]:
        """The uuids of a channel's replicas at all members, as far as one look may be behind."""
        self._note_attached()
        return {
            need.replica
            for need in self._needs.all()
            if need.channel == channel and need.seen_seconds_ago <= 2 * IDLE_ASK_SECONDS
        }

    def _by_now(self, channel: Channel) -> list[Need]:
        self._note_attached()
        return self._needs_of(channel)

    # -- showing ----------------------------------------------------------------------------

    def show(self) -> None:
        """Set the metrics, as of now."""
        self._note_attached()
        usage, files = self._usage(), self._relay.state.files
        metrics.STORAGE_INDEX_BYTES.set(usage.index_bytes)
        metrics.BINLOG_FILES.set(len(files))
        metrics.BINLOG_BYTES_UNTIL_PURGE.set(
            usage.until_purged(files[0].first_index) if files else usage.target
        )
        metrics.BINLOG_FIRST_FILE.clear()
        if files:
            self._show_first(files[0])
        metrics.REPLICA_BYTES_UNTIL_CUT_OFF.clear()
        held = files[0].first_index if files else 0
        metrics.CHANNEL_REPLICA_BYTES_UNTIL_CUT_OFF.clear()
        named = {each.number: each for each in self._channels()}
        for each in named.values():
            metrics.CHANNEL_BINLOG_FILES.labels(each.name).set(len(each.state.files))
        for need in self._needs.all():
            if need.channel == 0:
                left = usage.until_purged(need.index) if need.index >= held else 0
                metrics.REPLICA_BYTES_UNTIL_CUT_OFF.labels(need.replica).set(left)
            elif need.channel in named:
                channel = named[need.channel]
                first = channel.state.files[0].first_index if channel.state.files else 0
                left = usage.until_purged(need.index) if need.index >= first else 0
                labels = metrics.CHANNEL_REPLICA_BYTES_UNTIL_CUT_OFF.labels
                labels(channel.name, need.replica).set(left)

    def _show_first(self, first: FileRow) -> None:
        metrics.BINLOG_FIRST_INDEX.set(first.first_index)
        metrics.BINLOG_FIRST_FILE.labels(first.served_name).set(1)
        began = first.first_time or file_time(first)
        age = max(0.0, self._clock() - began) if began else 0.0
        metrics.BINLOG_OLDEST_FILE_AGE_SECONDS.set(age)
