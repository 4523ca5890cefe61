"""Entries that are compressed or sealed on the disk: who reads the log does not notice it."""

import errno
import struct
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kingbus.crc import crc32
from kingbus.raft.types import Entry, EntryType, entry_size
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import (
    AS_THEY_ARE,
    COMPRESSED,
    FORM_BYTES_MAX,
    SEALED,
    AtRest,
    Keyring,
    Packer,
    RestKey,
    open_body,
)
from kingbus.storage.errors import (
    CorruptRecordError,
    NewerFormatError,
    NoRoomError,
    SealedLogError,
)
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.record import HEADER, HEADER_BYTES, RecordKind
from kingbus.storage.segment import read_header
from kingbus.storage.verify import verify_log
from tests.unit.storage.conftest import Logs, append, commit, entry
from tests.unit.storage.test_log_model import FORMS, KEY

NO_LIMIT = 1 << 60
SECRET = ClusterSecret.of(bytes(range(32)))
OTHER_KEY = RestKey.of(ClusterSecret.of(bytes(32)))
COMPRESSES, SEALS, BOTH = FORMS[1:]
TEXT = b"a customer's name, an address, a number of a card; " * 20
OPENING = {"segment_bytes": 64 << 10, "cache_bytes": 0}


def records(logs, path):
    """The entry records of a segment: offset, header fields, stored body."""
    data = bytes(logs.disk.names_now[path].data)
    header = read_header(logs.disk, logs.disk.open(path), path)
    at, found = header.size, []
    while at + HEADER_BYTES <= len(data):
        fields = HEADER.unpack_from(data, at)
        if not fields[0]:
            break
        body = data[at + HEADER_BYTES : at + HEADER_BYTES + fields[3]]
        if fields[4] == RecordKind.ENTRY:
            found.append((at, fields, body))
        at += HEADER_BYTES + fields[3]
    return found


def put_body(logs, path, record, body):
    """Replace what a record holds, and make sums and chain right, as an attacker would."""
    at, fields, old = record
    assert len(body) == len(old)
    data = logs.disk.names_now[path].data
    data[at + HEADER_BYTES : at + HEADER_BYTES + len(body)] = body
    fields = [*fields[:2], crc32(body), *fields[3:]]
    while True:
        rest = HEADER.pack(*fields)[4:]
        crc = crc32(rest)
        data[at : at + HEADER_BYTES] = struct.pack("<I", crc) + rest
        at += HEADER_BYTES + fields[3]
        if not any(data[at : at + HEADER_BYTES]):
            return
        fields = list(HEADER.unpack_from(data, at))
        fields[1] = crc


# Nobody above notices


bodies = st.one_of(
    st.binary(max_size=700),
    st.binary(min_size=1, max_size=200).map(lambda data: data * 60),
)


@settings(max_examples=60, deadline=None)
@given(
    lives=st.lists(
        st.tuples(st.sampled_from(FORMS), st.lists(bodies, min_size=1, max_size=4)),
        min_size=1,
        max_size=6,
    ),
    kinds=st.lists(st.sampled_from(tuple(EntryType)), min_size=1, max_size=3),
)
def test_what_was_written_comes_back_whatever_the_form(lives, kinds):
    """Type, term, data and checksum, of entries of all forms in one log, over any restarts."""
    logs, written = Logs(), []
    for term, (form, datas) in enumerate(lives, 1):
        store = logs.open(segment_bytes=4096, cache_bytes=0, at_rest=form, keys=Keyring([KEY]))
        for data in datas:
            made = Entry(term, len(written) + 1, kinds[len(written) % len(kinds)], data)
            append(store, made, hard_state=commit(made.index, term=term))
            written.append(made)
        found = store.read(1, len(written) + 1, NO_LIMIT)
        assert found == written
        assert [each.checksum for each in found] == [crc32(each.data) for each in written]
        store.close()

    *_, last = verify_log(logs.directory, files=logs.disk, keys=Keyring([KEY]))
    assert (last.problem, last.entries, last.unopened) == (None, len(written), 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_size_limit_counts_the_data_not_what_is_stored(logs, form):
    """A read is cut at the same entry from the disk as from memory, whatever the form."""
    store = logs.open(segment_bytes=64 << 10, at_rest=form)
    made = [entry(index, bytes([index]) * (700 * index)) for index in range(1, 6)]
    append(store, *made)
    size = sum(map(entry_size, made[1:4]))

    for read in (store.read, store.cached):
        assert [e.index for e in read(2, 6, size)] == [2, 3, 4]
        assert [e.index for e in read(2, 6, size - 1)] == [2, 3]
        assert [e.index for e in read(2, 6, 0)] == [2]


def test_a_form_at_rest_is_not_sent_unread(logs):
    """Entries of such segments have to be read; those written before and after need not be."""
    for form, index in ((AS_THEY_ARE, 1), (COMPRESSES, 2), (SEALS, 3), (AS_THEY_ARE, 4)):
        store = logs.open(segment_bytes=64 << 10, at_rest=form, keys=Keyring([KEY]))
        append(store, entry(index, TEXT))
        store.close()
    store = logs.open(segment_bytes=64 << 10, keys=Keyring([KEY]))
    store.read(1, 5, NO_LIMIT)

    assert [store.stored(index) is not None for index in range(1, 5)] == [True, False, False, True]
    assert [place.transformed for place in store.locate(range(1, 5))] == [False, True, True, False]


# On a full disk


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_adds_is_counted_before_a_write_is_begun(form):
    """However full the segment is: written, or refused and written once there is room."""
    written = refused = 0
    for filled in range(2400, 3900, 20):
        logs = Logs()
        logs.disk.capacity = 2 * 4096
        store = logs.open(at_rest=form)
        noise = logs.disk.random.randbytes
        entries = [entry(index, noise(40)) for index in range(2, 8)]
        try:
            append(store, entry(1, noise(filled)))
            write = LogWrite(entries=entries)
            store.write(write)
            written += 1
        except NoRoomError:
            if not store.last_index():
                break
            refused += 1
            assert store.last_index() == 1
            logs.disk.capacity = 1 << 20
            store.write(write)
        store.publish(write)
        assert store.read(2, 8, NO_LIMIT) == entries
    assert written
    assert refused


# A segment tells plain from transformed and one key from another; levels may mix in it.
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pair
        for pair in pairwise([*FORMS, AS_THEY_ARE])
        if len({(form.transforms, form.key_id) for form in pair}) == 2
    ],
)
def test_another_form_waits_for_room_for_its_segment(logs, before, after):
    """Though the entry would fit behind what is there; nothing is changed until then."""
    store = logs.open(at_rest=before, keys=Keyring([KEY]))
    append(store, entry(1, b"kept"))
    store.close()
    logs.disk.capacity = logs.disk._used() - 4096  # a start gives the segment ahead up

    store = logs.open(at_rest=after, keys=Keyring([KEY]))
    for _ in range(2):
        with pytest.raises(NoRoomError):
            append(store, entry(2, b"waits"))
        assert store.is_out_of_room
    assert len(logs.segment_paths()) == 1
    logs.disk.capacity = 1 << 20
    append(store, entry(2, b"waits"))

    assert len(logs.segment_paths()) == 2
    assert [each.data for each in store.read(1, 3, NO_LIMIT)] == [b"kept", b"waits"]


def test_a_write_that_was_taken_back_counts_once(logs):
    """In what the status tells of the saving."""
    store = logs.open(**OPENING, at_rest=BOTH)
    append(store, entry(1, TEXT))
    before = store.at_rest_status()
    for _ in range(3):
        logs.disk.errors["pwritev"] = errno.ENOSPC
        with pytest.raises(NoRoomError):
            append(store, entry(2, TEXT))
    append(store, entry(2, TEXT))

    status = store.at_rest_status()
    assert status.data_bytes == 2 * before.data_bytes
    assert status.stored_bytes <= 2 * before.stored_bytes + 1


@pytest.mark.parametrize("form", FORMS)
def test_who_goes_on_in_the_same_form_needs_no_new_segment(logs, form):
    """As a tool does, which cannot know what is configured."""
    store = logs.open(at_rest=form)
    append(store, entry(1, b"first"))
    store.close()
    store = LogStore.open_for_reading(logs.directory, files=logs.disk, keys=Keyring([KEY]))
    found = store.form()
    store.close()

    store = logs.open(at_rest=found, keys=Keyring([KEY]))
    append(store, Entry(1, 2, EntryType.CONF_CHANGE_V2, b"second"))

    assert len(logs.segment_paths()) == 1
    assert [each.data for each in store.read(1, 3, NO_LIMIT)] == [b"first", b"second"]


def test_a_tool_without_the_key_is_told_which_one_it_lacks(logs):
    """At once, not when it reads."""
    store = logs.open(at_rest=SEALS)
    append(store, entry(1, b"first"))
    store.close()
    for keys in (None, Keyring([OTHER_KEY])):
        with pytest.raises(SealedLogError, match=KEY.key_id):
            LogStore.open_for_reading(logs.directory, files=logs.disk, keys=keys)
    store = LogStore.open_for_reading(logs.directory, files=logs.disk, keys=Keyring([KEY]))
    assert store.read(1, 2, NO_LIMIT)[0].data == b"first"


# What lies on the disk


def test_what_shrinks_is_compressed_and_the_rest_is_as_it_is(logs):
    """The files are smaller for text; what does not shrink, or is small, is found in them."""
    store = logs.open(**OPENING, at_rest=COMPRESSES)
    before = store.bytes_used
    append(store, entry(1, TEXT))
    assert store.bytes_used - before < len(TEXT) // 2
    noise, small = logs.disk.random.randbytes(2000), b"small " * 20
    append(store, entry(2, noise), entry(3, small))

    (path,) = logs.segment_paths()
    data = bytes(logs.disk.names_now[path].data)
    assert noise in data
    assert small in data
    assert [fields[6] for _, fields, _ in records(logs, path)] == [COMPRESSED, 0, 0]


@pytest.mark.parametrize("form", [SEALS, BOTH])
def test_nothing_of_sealed_entries_is_in_the_files(logs, form):
    """No piece of their data, not their checksum, nor the key or the one made of it."""
    datas = [TEXT, b"short one", logs.disk.random.randbytes(3000)]
    store = logs.open(**OPENING, at_rest=form)
    append(store, *[entry(index, data) for index, data in enumerate(datas, 1)])
    store.close()

    whole = b"".join(bytes(logs.disk.names_now[path].data) for path in logs.segment_paths())
    for data in datas:
        assert data[:8] not in whole
        assert data[-8:] not in whole
        assert struct.pack("<I", crc32(data)) not in whole
    assert RestKey.of(SECRET) == KEY
    for key in (SECRET.key, KEY.key):
        assert key not in whole
        assert key.hex().encode() not in whole
    assert whole.count(bytes.fromhex(KEY.key_id)) == 1


def test_the_nonces_of_a_segment_are_all_different(logs):
    """Also those of records that are written again where a crash took others away."""
    store = logs.open(**OPENING, at_rest=SEALS)
    found = []
    for life in range(5):
        for index in range(1, 20):
            append(store, entry(index, b"the same", term=life + 1), must_sync=index < 10)
        (path,) = logs.segment_paths()
        found += [body for _, _, body in records(logs, path)]
        logs.disk.lose_power()
        store = logs.open(**OPENING, at_rest=SEALS)

    assert len({body[4:16] for body in found}) == len(set(found)) > 90


def test_another_form_begins_another_segment(logs):
    """Once, with the first write; the same form goes on where it was, whatever the level."""
    files = []
    for form in (AS_THEY_ARE, COMPRESSES, AtRest(level=9), BOTH, SEALS, AS_THEY_ARE, AS_THEY_ARE):
        store = logs.open(**OPENING, at_rest=form, keys=Keyring([KEY]))
        files.append(len(logs.segment_paths()))
        append(store, entry(store.last_index() + 1, TEXT))
        append(store, entry(store.last_index() + 1, TEXT))
        files.append(len(logs.segment_paths()))
        store.close()

    assert files == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4]


def test_the_form_by_default_is_that_of_before(logs):
    """Without a setting segments stay of the version that older programs read."""
    store = logs.open(**OPENING)
    append(store, entry(1, TEXT))

    (path,) = logs.segment_paths()
    data = bytes(logs.disk.names_now[path].data)
    assert struct.unpack_from("<II", data, 8) == (1, 92)
    assert TEXT in data
    assert store.at_rest_status().transformed_segments == 0


def test_a_segment_of_another_form_says_so_to_older_programs(logs):
    """Its version is 2, which they refuse; as this one refuses 3."""
    store = logs.open(**OPENING, at_rest=COMPRESSES)
    append(store, entry(1, TEXT))
    store.close()
    (path,) = logs.segment_paths()
    data = logs.disk.names_now[path].data
    assert struct.unpack_from("<I", data, 8) == (2,)
    struct.pack_into("<I", data, 8, 3)

    with pytest.raises(NewerFormatError, match="has format 3; this version knows up to 2"):
        logs.open(**OPENING)


def test_the_status_tells_form_saving_and_segments(logs):
    """Bytes before and behind, processor time, and how much of what is held has the form."""
    store = logs.open(**OPENING)
    append(store, entry(1, TEXT))
    store.close()
    store = logs.open(**OPENING, at_rest=BOTH)
    append(store, entry(2, TEXT), Entry(1, 3, EntryType.CONF_CHANGE_V2, b"a configuration"))
    status = store.at_rest_status()

    assert (status.level, status.key_id, status.data_bytes) == (1, KEY.key_id, len(TEXT))
    assert 36 < status.stored_bytes < len(TEXT) // 4
    assert status.seconds >= 0
    assert (status.segments, status.transformed_segments, status.sealed_segments) == (2, 1, 1)


# Keys


def test_a_log_whose_key_is_not_here_does_not_open(logs):
    """Whatever is to be written from now on; the file and both key ids are named."""
    store = logs.open(**OPENING, at_rest=SEALS)
    append(store, entry(1, TEXT))
    store.close()
    (path,) = logs.segment_paths()

    for options, held in (
        ({}, "none"),
        ({"keys": Keyring([OTHER_KEY])}, OTHER_KEY.key_id),
        ({"at_rest": AtRest(key=OTHER_KEY)}, OTHER_KEY.key_id),
    ):
        with pytest.raises(SealedLogError) as caught:
            logs.open(**OPENING, **options)
        assert f"{path} is sealed with cluster key {KEY.key_id}" in str(caught.value)
        assert f"this node has {held}" in str(caught.value)
        assert "cluster-key-file" in caught.value.explain()
    assert logs.open(**OPENING, keys=Keyring([KEY, OTHER_KEY])).read(1, 2, NO_LIMIT)[0].data == TEXT


def test_a_node_keeps_the_keys_that_it_needs_only(logs):
    """What is handed to worker processes opens this log and no other."""
    store = logs.open(**OPENING, keys=Keyring([KEY, OTHER_KEY]))
    assert list(store.keys) == []
    store.close()
    store = logs.open(**OPENING, at_rest=SEALS, keys=Keyring([OTHER_KEY]))
    assert list(store.keys) == [KEY]


def test_two_keys_can_have_sealed_one_log(logs):
    """Each segment says which: a key may be replaced while what it sealed is still held."""
    for index, key in enumerate((KEY, OTHER_KEY, KEY), 1):
        store = logs.open(**OPENING, at_rest=AtRest(key=key), keys=Keyring([KEY, OTHER_KEY]))
        append(store, entry(index, TEXT + bytes([index])))
        store.close()
    store = logs.open(**OPENING, keys=Keyring([KEY, OTHER_KEY]))

    found = store.read(1, 4, NO_LIMIT)
    assert [each.data for each in found] == [TEXT + bytes([index]) for index in (1, 2, 3)]
    assert store.at_rest_status().sealed_segments == 3


# Damage, and worse


@pytest.mark.parametrize("form", [COMPRESSES, SEALS, BOTH])
def test_every_changed_bit_of_a_stored_body_is_refused(logs, form):
    """By the sum of what is stored, with the file and the place; its neighbours are served."""
    store = logs.open(**OPENING, at_rest=form)
    append(store, entry(1, TEXT), entry(2, TEXT + b"2"), entry(3, TEXT))
    (path,) = logs.segment_paths()
    _, (at, _, body), _ = records(logs, path)

    for offset in range(0, len(body), max(1, len(body) // 40)):
        logs.disk.flip_bit(path, at + HEADER_BYTES + offset, offset % 8)
        with pytest.raises(CorruptRecordError) as caught:
            store.read(2, 3, NO_LIMIT)
        assert (caught.value.path, caught.value.offset) == (path, at)
        logs.disk.flip_bit(path, at + HEADER_BYTES + offset, offset % 8)
    assert [each.data for each in store.read(1, 4, NO_LIMIT)] == [TEXT, TEXT + b"2", TEXT]


@pytest.mark.parametrize("form", [SEALS, BOTH])
def test_a_seal_holds_where_the_sums_were_made_right(logs, form):
    """Whoever changes a body and its sums, or puts another record's there, is found out."""
    store = logs.open(**OPENING, at_rest=form)
    append(store, entry(1, TEXT), entry(2, TEXT), entry(3, TEXT))
    store.close()
    (path,) = logs.segment_paths()
    first, second, _ = records(logs, path)
    for forged in (bytes([second[2][0] ^ 1]) + second[2][1:], second[2][:-1] + b"x", first[2]):
        put_body(logs, path, second, forged)
        store = logs.open(**OPENING, keys=Keyring([KEY]))
        assert store.read(1, 2, NO_LIMIT)[0].data == TEXT
        with pytest.raises(CorruptRecordError, match="entry 2: its seal does not open") as caught:
            store.read(2, 3, NO_LIMIT)
        assert (caught.value.path, caught.value.offset) == (path, second[0])
        store.close()
        *_, last = verify_log(logs.directory, files=logs.disk, keys=Keyring([KEY]))
        assert last.problem is not None
        assert "entry 2: its seal does not open" in str(last.problem)
        put_body(logs, path, second, second[2])


def test_a_record_does_not_open_in_another_segment(logs):
    """The same entry of the same term, sealed with the same cluster key, in another file."""
    other = Logs()
    other.disk.random.seed(99)
    for each in (logs, other):
        store = each.open(**OPENING, at_rest=SEALS)
        append(store, entry(1, TEXT))
        store.close()
    (path,) = logs.segment_paths()
    put_body(logs, path, records(logs, path)[0], records(other, path)[0][2])
    store = logs.open(**OPENING, at_rest=SEALS)

    with pytest.raises(CorruptRecordError, match="its seal does not open"):
        store.read(1, 2, NO_LIMIT)


def test_without_the_key_verify_says_what_it_did_not_open(logs):
    """The sums are judged, and the entries counted that could not be looked into."""
    store = logs.open(**OPENING, at_rest=BOTH)
    append(store, entry(1, TEXT), entry(2, TEXT))
    store.close()

    *_, last = verify_log(logs.directory, files=logs.disk)
    assert (last.problem, last.entries, last.unopened) == (None, 2, 2)


def test_a_frame_cannot_ask_for_more_room_than_is_noted():
    """A frame that says that it is larger than the entry is refused before it is opened."""
    frame = zstandard.compress(bytes(10_000_000))
    stored = struct.pack("<II", 100, 0) + frame
    with pytest.raises(ValueError, match="not of the length"):
        open_body(stored, COMPRESSED, None, index=1, term=1, entry_type=0)


@given(stored=st.binary(max_size=100), flags=st.integers(0, 7))
def test_no_bytes_open_by_chance(stored, flags):
    """Whatever lies there: ValueError, no other failure and no data."""
    cipher = Keyring([KEY]).cipher(KEY.key_id, bytes(16))
    if flags & (COMPRESSED | SEALED):
        with pytest.raises(ValueError, match=r"it|too short"):
            open_body(stored, flags, cipher, index=1, term=1, entry_type=0)


@given(data=st.binary(min_size=1, max_size=2000), form=st.sampled_from(FORMS[1:]))
def test_a_form_adds_a_few_bytes_at_most(data, form):
    """What is told beforehand is what is stored, and never much more than the data."""
    packer = Packer(form, Keyring([KEY]), bytes)
    packed = packer.pack(data, None)
    if packed is not None:
        stored, checksum = packer.finish(packed, bytes(16), index=1, term=1, entry_type=0)
        assert len(stored) == packed.size <= len(data) + FORM_BYTES_MAX
        assert checksum == crc32(stored)


def test_each_segment_seals_with_a_key_of_its_own():
    """So that the nonces of one segment are all that may not meet."""
    keys = Keyring([KEY])
    packer = Packer(SEALS, keys, bytes)  # the same nonce each time
    stored = []
    for segment in (b"a" * 16, b"b" * 16):
        packed = packer.pack(TEXT, None)
        assert packed is not None
        stored.append(packer.finish(packed, segment, index=1, term=1, entry_type=0)[0])
    assert all(one[16:] != other[16:] for one, other in pairwise(stored))


@pytest.mark.slow
def test_it_works_on_a_real_file_system(tmp_path: Path) -> None:
    """Compressed and sealed, over segments, purge, truncation and restarts."""

    def open_log(form):
        return LogStore.open(
            tmp_path / "log", segment_bytes=1 << 16, reserve_bytes=1 << 30, at_rest=form
        )

    store = open_log(BOTH)
    data = {index: TEXT * (index % 40) + bytes([index]) for index in range(1, 151)}
    for index, body in data.items():
        append(store, entry(index, body), hard_state=commit(index - 1))
    data[150] = b"again"
    append(store, entry(150, data[150], term=2))
    store.truncate_before(20)
    store.close()
    store = open_log(SEALS)
    for index in range(151, 200):
        data[index] = TEXT * 9
        append(store, entry(index, data[index], term=2))
    first = store.first_index()
    found = store.read(first, 200, NO_LIMIT)
    store.close()

    assert first > 1
    assert [each.data for each in found] == [data[index] for index in range(first, 200)]
    names = LocalFileSystem().names(tmp_path / "log")
    assert all(
        TEXT[:30] not in (tmp_path / "log" / name).read_bytes() for name in names if "-" in name
    )
