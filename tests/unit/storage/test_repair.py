"""Damaged stretches put right: byte for byte, or at least every entry; or refused."""

import struct
from random import Random

import pytest

from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.at_rest import AS_THEY_ARE
from kingbus.storage.errors import CorruptRecordError, StorageError
from kingbus.storage.record import RecordKind
from kingbus.storage.repair import CannotRepairError, repair_log
from kingbus.storage.segment import read_header
from kingbus.storage.verify import verify_log
from tests.unit.storage.conftest import Logs, append
from tests.unit.storage.simulated_disk import PowerLostError
from tests.unit.storage.test_log_model import FORMS, observe

SEGMENT_BYTES = 4096


class Member(Logs):
    """A closed log of several segments, with truncations; and a peer that has the same entries."""

    def __init__(self, *, seed=0, close=True, form=AS_THEY_ARE):
        super().__init__()
        random = Random(seed)
        store = self.open(segment_bytes=SEGMENT_BYTES, at_rest=form)
        last = committed = 0
        for term in range(1, 14):
            first = max(committed, last - random.randint(0, 2)) + 1
            sizes = [random.choice((0, 30, 300, 900)) for _ in range(random.randint(1, 6))]
            entries = [
                Entry(term, first + n, EntryType.NORMAL, random.randbytes(size))
                for n, size in enumerate(sizes)
            ]
            last = entries[-1].index
            committed = max(committed, last - 3)
            append(store, *entries, hard_state=HardState(term, 1, committed))
            if term % 4 == 0:
                store.note_idle()
        self.says = observe(store)
        self.peer = {e.index: e for e in store.read(1, last + 1, 1 << 30)}
        if close:
            store.close()
        else:
            self.disk.kill_process()
        self.asked = 0

    def fetch(self, lo, hi):
        self.asked += 1
        return [self.peer[index] for index in range(lo, min(hi, lo + 5)) if index in self.peer]

    def repair(self, fetch=None):
        return list(repair_log(self.directory, fetch or self.fetch, files=self.disk))

    def data(self, path):
        return self.disk.names_now[path].data

    def images(self):
        return {path: bytes(self.data(path)) for path in self.segment_paths()}

    def problem(self):
        return [report.problem for report in verify_log(self.directory, files=self.disk)][-1]

    def records(self, path):
        """Offset, kind and length of each record of a segment that is well."""
        data, at = self.data(path), read_header(self.disk, self.disk.open(path), path).size
        while any(data[at : at + 36]):
            length, kind = int.from_bytes(data[at + 12 : at + 16], "little"), data[at + 16]
            yield at, RecordKind(kind), length
            if kind == RecordKind.INDEX:
                return
            at += 36 + length

    def was_replaced(self, path, at):
        """Whether the entry there is none of those that the log has in the end."""
        index, term = struct.unpack_from("<QQ", self.data(path), at + 20)
        return index > self.says.last or self.says.term(index) != term

    def assert_well(self):
        assert self.problem() is None
        store = self.open(segment_bytes=SEGMENT_BYTES, cache_bytes=0)
        found = observe(store)
        assert (found.entries, found.hard_state) == (self.says.entries, self.says.hard_state)
        terms = [store.term(index) for index in range(1, self.says.last + 1)]
        assert terms == [self.says.term(index) for index in range(1, self.says.last + 1)]
        store.close()


def test_a_sound_log_is_left_alone():
    """Nothing is asked for and nothing is written."""
    member = Member()
    before = member.images()

    assert member.repair() == []

    assert member.images() == before
    assert member.asked == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_flipped_bit_of_a_record(seed):
    """In every record of every segment, head and body: entries, votes and terms are there again.

    In the last segment every byte is what it was. Refused are its head, which nothing proves, and
    entries there that were replaced, of which the peer knows nothing.
    """
    random = Random(seed)
    sound = Member(seed=seed)
    refused = repaired = 0
    for number, path in enumerate(sound.segment_paths()):
        is_last = path == sound.segment_paths()[-1]
        for at, kind, length in list(sound.records(path)):
            for place in (at + random.randrange(36), *([at + 36 + length // 2] if length else [])):
                member = Member(seed=seed)
                before = member.images()
                member.disk.flip_bit(path, place, random.randrange(8))
                refusal = None
                try:
                    done = member.repair()
                except CorruptRecordError as error:
                    refusal = error
                if refusal is not None:
                    assert refusal.path == path
                    assert is_last
                    assert kind in {RecordKind.LOG_START, RecordKind.HARD_STATE} or (
                        kind is RecordKind.ENTRY and sound.was_replaced(path, at)
                    ), (number, at)
                    refused += 1
                    continue
                assert done, (path, at, kind)
                if is_last:
                    assert member.images() == before
                member.assert_well()
                repaired += 1
    assert repaired > 30
    assert refused < repaired / 4


def test_lost_stretches_and_ends_of_closed_segments():
    """Zeros over many records, a file that ends early, an index that is gone too."""
    for spoil in (
        lambda data: data.__setitem__(slice(300, 1800), bytes(1500)),
        lambda data: data.__delitem__(slice(1500, None)),
        lambda data: (
            data.__setitem__(slice(300, 900), b"x" * 600),
            data.__setitem__(slice(-40, None), bytes(40)),
        ),
        lambda data: data.__setitem__(slice(-40, None), bytes(40)),
    ):
        member = Member(seed=1)
        assert len(member.segment_paths()) > 3
        path = member.segment_paths()[1]
        spoil(member.data(path))
        assert member.problem() is not None

        (done,) = member.repair()

        assert done.path == path
        member.assert_well()


def test_what_is_whole_does_not_need_the_peer():
    """The index at the end follows from the records; entries that verify are kept."""
    member = Member(seed=1)
    path = member.segment_paths()[1]
    member.data(path)[-10] ^= 1

    def nobody(lo, hi):
        raise AssertionError((lo, hi))

    (done,) = member.repair(nobody)
    assert "index" in done.what
    member.assert_well()


def test_a_peer_with_another_log_is_not_believed():
    """Other terms or lengths: refused, and the damaged file stays as it is."""
    for change in (
        lambda e: Entry(e.term + 1, e.index, e.type, e.data),
        lambda e: Entry(e.term, e.index, e.type, e.data + b"x" * 2000),
    ):
        member = Member(seed=1)
        path = member.segment_paths()[1]
        del member.data(path)[200:]
        before = member.images()
        member.peer = {index: change(entry) for index, entry in member.peer.items()}

        with pytest.raises(CannotRepairError):
            member.repair()
        assert member.images() == before

    member = Member(seed=1)
    del member.data(member.segment_paths()[1])[200:]
    member.peer = {}
    with pytest.raises(CannotRepairError, match="the peer does not give entry"):
        member.repair()


def test_a_vote_is_not_guessed():
    """Damage to the hard state of the last segment that cannot be proven ends it with the place."""
    member = Member(seed=2)
    path = member.segment_paths()[-1]
    start = next(at for at, kind, _ in member.records(path) if kind is RecordKind.SYNCED)
    data = member.data(path)
    end = len(bytes(data).rstrip(b"\0"))
    data[start:end] = bytes(end - start)

    with pytest.raises(StorageError) as raised:
        member.repair()
    assert str(path) in str(raised.value)


@pytest.mark.slow
def test_a_repair_that_was_cut_short_is_repeated():
    """At whatever call the power goes: repeated, it ends the same."""
    operations, done = 0, False
    while not done:
        member = Member(seed=1)
        path = member.segment_paths()[1]
        del member.data(path)[700:]
        del member.disk.names_durable[path].durable[700:]
        member.data(member.segment_paths()[2])[-10] ^= 1
        member.disk.random.seed(operations)
        member.disk.operations_left = operations
        try:
            member.repair()
            done = True
        except PowerLostError:
            member.disk.lose_power()
            member.repair()
        member.disk.operations_left = None
        member.assert_well()
        operations += 1
    assert operations > 4


@pytest.mark.parametrize("form", FORMS[1:])
def test_entries_of_another_form_are_not_made_of_a_peers(form):
    """Refused in one clear sentence, and nothing is changed."""
    for at_end in (False, True):
        member = Member(form=form)
        path = member.segment_paths()[-1 if at_end else 1]
        places = [at for at, kind, length in member.records(path) if kind == RecordKind.ENTRY]
        member.data(path)[places[-1] + 20] ^= 1
        before = member.images()

        with pytest.raises(CannotRepairError, match=r"compressed or sealed.*not available yet"):
            member.repair()

        assert member.images() == before
        assert not member.asked


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_an_entry_is_put_right_in_any_form(form):
    """The index of a closed segment, and a mark of the last one: byte for byte, without a peer."""
    member = Member(form=form)
    sound = member.images()
    closed, *_, last = member.segment_paths()
    ((at, _, length),) = [r for r in member.records(closed) if r[1] == RecordKind.INDEX]
    member.data(closed)[at + 36 + length // 2] ^= 1
    mark = next(at for at, kind, _ in member.records(last) if kind == RecordKind.SYNCED)
    member.data(last)[mark + 40] ^= 1

    assert len(member.repair()) == 2

    assert member.images() == sound
    assert not member.asked
