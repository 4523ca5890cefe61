"""The log against a plain list, with crashes of the process and of the machine."""

import errno
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kingbus.raft.types import ConfState, Entry, EntryType, HardState, Snapshot
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AS_THEY_ARE, AtRest, Keyring, RestKey
from kingbus.storage.errors import FatalStorageError, NoRoomError
from kingbus.storage.log import LogStore, LogWrite
from tests.unit.storage.simulated_disk import PowerLostError, SimulatedDisk

DIRECTORY = Path("/log")
SEGMENT_BYTES = 2048
NO_LIMIT = 1 << 62
KEY = RestKey.of(ClusterSecret.of(bytes(range(32))))
FORMS = (AS_THEY_ARE, AtRest(level=1), AtRest(key=KEY), AtRest(level=1, key=KEY))


@dataclass(frozen=True)
class State:
    """What a log says: one value that can be compared."""

    start: int = 0
    start_term: int = 0
    entries: tuple = ()  # (index, term, type, data)
    hard_state: HardState = field(default_factory=HardState)
    conf: tuple = (0, ConfState())

    @property
    def last(self):
        return self.start + len(self.entries)

    def term(self, index):
        return self.entries[index - self.start - 1][1] if index > self.start else self.start_term

    def cut(self, index):
        return replace(self, entries=self.entries[: index - self.start - 1])

    def put(self, entry):
        kept = self.cut(entry.index)
        value = (entry.index, entry.term, entry.type, entry.data)
        return replace(kept, entries=(*kept.entries, value))


def observe(store):
    first, last = store.first_index(), store.last_index()
    entries = store.read(first, last + 1, NO_LIMIT)
    hard_state, conf_state = store.initial_state()
    return State(
        start=first - 1,
        start_term=store.term(first - 1),
        entries=tuple((e.index, e.term, e.type, e.data) for e in entries),
        hard_state=hard_state,
        conf=(store.conf_index, conf_state),
    )


WRITE_ARGUMENTS = {
    "sizes": st.lists(
        st.one_of(st.integers(0, 60), st.integers(0, 900), st.just(5000)), max_size=12
    ),
    "back": st.integers(0, 12),
    "new_term": st.integers(0, 1),
    "commit_share": st.sampled_from((0.0, 0.5, 1.0)),
    "vote": st.one_of(st.none(), st.integers(0, 3)),
}


class LogMachine(RuleBasedStateMachine):
    """Each rule does to the store and to the model the same.

    `states` are what the log may say after a power loss: every state since the last sync, record
    by record. The last one is what it says now. Each opening takes one of `forms`.
    """

    forms = (AS_THEY_ARE,)

    @initialize(seed=st.integers(0, 2**32), short_writes=st.booleans())
    def begin(self, seed, short_writes):
        self.random = Random(seed)
        self.disk = SimulatedDisk(seed=seed, short_writes=short_writes)
        self.states = [State()]
        self.store = None
        self.open()

    def open(self):
        self.store = LogStore.open(
            DIRECTORY,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=1 << 30,
            cache_bytes=self.random.choice((0, 2000, 1 << 20)),
            files=self.disk,
            at_rest=self.random.choice(self.forms),
            keys=Keyring([KEY]),
        )

    def body(self, size):
        return self.random.randbytes(size)

    @property
    def now(self):
        return self.states[-1]

    def plan(self, sizes, back, new_term, commit_share, vote):
        """A write of entries after taking `back` uncommitted ones away, and its states."""
        now = self.now
        floor = max(now.hard_state.commit, now.start)
        first = max(floor + 1, now.last + 1 - back)
        term = max(now.hard_state.term, 1) + new_term
        entries = []
        for number, size in enumerate(sizes):
            # In a truncation the terms of the new entries may be older than those replaced.
            entry_term = (
                term
                if first + number > now.last or back == 0
                else max(now.term(first - 1), term - self.random.randint(0, 1))
            )
            if entries:
                entry_term = max(entry_term, entries[-1].term)
            else:
                entry_term = max(entry_term, now.term(first - 1))
            entries.append(
                Entry(
                    entry_term,
                    first + number,
                    self.random.choice(tuple(EntryType)),
                    self.body(size),
                )
            )
        if self.random.random() < 0.2 and len(entries) > 1:
            # Two appends gathered into one write, the second replacing a part of the first.
            again = self.random.randint(0, len(entries) - 1)
            replaced = entries[again]
            entries.append(
                Entry(entries[-1].term + 1, replaced.index, EntryType.NORMAL, b"again" * 9)
            )
        last = entries[-1].index if entries else now.last
        top = max([term, *(entry.term for entry in entries)])
        commit = floor + int((last - floor) * commit_share) if last > floor else floor
        hard_state = None
        if vote is not None:
            hard_state = HardState(top, vote, max(commit, now.hard_state.commit))
        states = []
        conf = self.store.conf_index, self.store.initial_state()[1]
        for entry in entries:
            states += [now.cut(entry.index), now.put(entry)]
            now = states[-1]
        if conf != now.conf:
            now = replace(now, conf=conf)
            states.append(now)
        if hard_state is not None:
            now = replace(now, hard_state=hard_state)
            states.append(now)
        return entries, hard_state, states

    @rule(sync=st.booleans(), **WRITE_ARGUMENTS)
    def write(self, sync, **arguments):
        entries, hard_state, states = self.plan(**arguments)
        write = LogWrite(entries=entries, hard_state=hard_state, must_sync=sync)
        before = self.now
        self.store.write(write)
        assert before == observe_visible(self.store, before), "visible before publish"
        self.store.publish(write)
        self.states += states
        if sync:
            self.states = self.states[-1:]

    @rule(operations=st.integers(0, 25), **WRITE_ARGUMENTS)
    def write_and_lose_power(self, operations, **arguments):
        entries, hard_state, states = self.plan(**arguments)
        write = LogWrite(entries=entries, hard_state=hard_state)
        self.disk.operations_left = operations
        try:
            self.store.write(write)
        except PowerLostError:
            self.states += states
        else:
            self.states = (self.states + states)[-1:]
        self.lose_power()

    @rule(room=st.integers(0, 12_000), inside=st.booleans(), retry=st.booleans(), **WRITE_ARGUMENTS)
    def write_on_a_full_disk(self, room, inside, retry, **arguments):
        """Nothing of it shows; tried again it is as if it had gone through at once."""
        entries, hard_state, states = self.plan(**arguments)
        write = LogWrite(entries=entries, hard_state=hard_state)
        before = self.now
        self.disk.capacity = self.disk._used() + room
        if inside:
            self.disk.errors["pwritev"] = errno.ENOSPC
        refused = failed = False
        try:
            self.store.write(write)
        except NoRoomError:
            refused = True
        except FatalStorageError:
            failed = True
        self.disk.errors.clear()
        self.disk.capacity = 1 << 40
        if refused:
            assert observe_visible(self.store, before) == before
        if failed or (refused and not retry):
            self.states += states
            self.lose_power()
            return
        if refused:
            self.store.write(write)
        self.store.publish(write)
        self.states = (self.states + states)[-1:]

    @rule(index=st.integers(1, 40), voters=st.sets(st.integers(1, 5), min_size=1))
    def set_conf_state(self, index, voters):
        # It is visible at once and durable with the next write, which the model then learns.
        self.store.set_conf_state(self.now.conf[0] + index, ConfState(tuple(voters)))
        self.write(sync=True, sizes=[], back=0, new_term=0, commit_share=0.0, vote=None)

    @rule()
    def note_idle(self):
        self.store.note_idle()
        assert not self.store.note_idle()
        self.states = self.states[-1:]

    @rule()
    def close_and_open(self):
        self.store.close()
        self.open()
        self.states = self.states[-1:]

    @rule()
    def kill_and_open(self):
        self.disk.kill_process()
        self.open()
        self.states = self.states[-1:]

    @rule()
    def lose_power(self):
        self.disk.lose_power()
        self.open()
        found = observe(self.store)
        assert found in self.states
        self.states = [found]

    @precondition(lambda self: self.now.hard_state.commit > self.now.start)
    @rule(share=st.floats(0, 1), operations=st.one_of(st.none(), st.integers(0, 8)))
    def truncate_before(self, share, operations):
        now = self.now
        index = now.start + 1 + int((now.hard_state.commit - now.start) * share)
        index = min(index, now.last + 1)
        after = replace(
            now,
            start=index - 1,
            start_term=now.term(index - 1),
            entries=now.entries[index - 1 - now.start :],
        )
        self.disk.operations_left = operations
        try:
            self.store.truncate_before(index)
        except PowerLostError:
            self.states.append(after)
            self.lose_power()
            return
        finally:
            self.disk.operations_left = None
        if after != now:
            self.states = [after]

    @rule(
        ahead=st.integers(1, 50),
        size=st.integers(0, 200),
        operations=st.one_of(st.none(), st.integers(0, 12)),
    )
    def install_snapshot(self, ahead, size, operations):
        now = self.now
        index = max(now.hard_state.commit, now.conf[0], now.start) + ahead
        term = max(now.hard_state.term, 1)
        entry = Entry(term, index + 1, EntryType.NORMAL, self.random.randbytes(size))
        conf_state = ConfState((1, 2, 3))
        snapshot = Snapshot(index=index, term=term, conf_state=conf_state)
        write = LogWrite(entries=[entry], hard_state=HardState(term, 0, index), snapshot=snapshot)
        restarted = State(
            start=index,
            start_term=term,
            hard_state=HardState(term, 0, index),
            conf=(index, conf_state),
        )
        self.disk.operations_left = operations
        try:
            self.store.write(write)
        except PowerLostError:
            self.states += [restarted, restarted.put(entry)]
            self.lose_power()
            return
        finally:
            self.disk.operations_left = None
        self.store.publish(write)
        self.states = [restarted.put(entry)]

    @rule(share=st.floats(0, 1), length=st.integers(1, 20), max_size=st.integers(0, 3000))
    def read_some(self, share, length, max_size):
        now = self.now
        if now.last == now.start:
            return
        lo = now.start + 1 + int((now.last - now.start - 1) * share)
        hi = min(lo + length, now.last + 1)
        wanted = limited(now.entries[lo - now.start - 1 : hi - now.start - 1], max_size)
        for read in (self.store.read, self.store.entries):
            found = read(lo, hi, max_size)
            assert tuple((e.index, e.term, e.type, e.data) for e in found) == wanted

    @invariant()
    def keeps_no_file_that_it_does_not_need(self):
        names = [name for name in self.disk.names(DIRECTORY) if "-" in name]
        waiting = len(self.store._obsolete)
        assert len(names) == len(self.store._segments) + waiting

    @invariant()
    def says_what_the_model_says(self):
        now = self.now
        assert observe(self.store) == now
        for index in range(now.start, now.last + 1):
            assert self.store.term(index) == now.term(index)

    def teardown(self):
        if getattr(self, "store", None) is not None:
            self.store.close()


def observe_visible(store, before):
    """What readers see, but for a configuration that was just set and not written."""
    return replace(observe(store), conf=before.conf)


def limited(values, max_size):
    """The longest prefix within `max_size` bytes of `entry_size`, but at least one."""
    from kingbus.raft.types import entry_size

    found, size = [], 0
    for index, term, kind, data in values:
        size += entry_size(Entry(term, index, kind, data))
        if size > max_size and found:
            break
        found.append((index, term, kind, data))
    return tuple(found)


LogMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLog = pytest.mark.slow(LogMachine.TestCase)


class TransformedLogMachine(LogMachine):
    """The same over a disk on which the form changes from one opening to the next."""

    forms = FORMS

    def body(self, size):
        half = self.random.randbytes(size // 2)
        return half + (half if self.random.random() < 0.7 else self.random.randbytes(len(half)))


TransformedLogMachine.TestCase.settings = LogMachine.TestCase.settings
TestTransformedLog = pytest.mark.slow(TransformedLogMachine.TestCase)
