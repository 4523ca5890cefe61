"""What is in the archive is the source's files, each with an entry that comes after it."""

import hashlib
import json

import pytest
import zstandard

from kingbus.archive.archiver import Archiver
from kingbus.archive.catalogue import ArchivedFile
from kingbus.archive.errors import ConflictError, DamagedError, StoreError
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.header import FILE_MAGIC
from tests.support.archived_node import ArchivedNode, small_chunks
from tests.support.memory_store import MemoryStore
from tests.support.relay_logs import UUID_A, BinlogFile, gtids
from tests.support.relay_node import RelayNode


def files_of(
    count: int, *, transactions: int = 5, size: int = 300, crc: bool = True
) -> list[BinlogFile]:
    """So many files, of which all but the last end with a ROTATE."""
    files: list[BinlogFile] = []
    number = 0
    for at in range(1, count + 1):
        before = gtids(f"a:1-{number}") if number else GtidSet()
        file = BinlogFile(f"binlog.{at:06}", UUID_A, before, crc=crc)
        for _ in range(transactions):
            number += 1
            file.transaction(number, (size + number,))
        if at < count:
            file.rotate(f"binlog.{at + 1:06}")
        files.append(file)
    return files


def archived(count: int = 3, **options: object) -> tuple[ArchivedNode, list[BinlogFile]]:
    files = files_of(count)
    node = RelayNode()
    node.hold(*files, size=4)
    return ArchivedNode(node, **options), files  # type: ignore[arg-type]


async def test_closed_files_are_archived_as_they_are() -> None:
    """Byte for byte, oldest first, each before its entry; the open one is not touched."""
    node, files = archived()
    await node.archive_all()
    assert node.store.order == [
        "files/binlog.000001",
        "catalogue/0000000001-binlog.000001.json",
        "files/binlog.000002",
        "catalogue/0000000002-binlog.000002.json",
    ]
    for file in files[:2]:
        assert node.store.objects[f"files/{file.name}"] == FILE_MAGIC + file.bytes()
    status = node.archiver.status()
    assert (status.files, status.files_behind, status.newest) == (2, 0, "binlog.000002")


async def test_an_entry_tells_what_is_to_be_known() -> None:
    """Name, epoch, ordinal, sums, sets and times; another node reads the same from it."""
    node, files = archived()
    await node.archive_all()
    key = "catalogue/0000000002-binlog.000002.json"
    entry = json.loads(node.store.objects[key])
    content = FILE_MAGIC + files[1].bytes()
    assert entry["name"] == "binlog.000002"
    assert (entry["epoch"], entry["ordinal"], entry["complete"]) == (1, 2, True)
    assert entry["size"] == len(content)
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert GtidSet.parse(entry["gtids_before"]) == gtids("a:1-5")
    assert GtidSet.parse(entry["gtids"]) == gtids("a:6-10")
    assert 0 < entry["first_time"] < entry["last_time"]
    other = ArchivedNode(node.node, store=node.store)
    await other.archiver.refresh()
    assert other.catalogue.files() == node.catalogue.files()
    assert other.catalogue.files()[1].row.start.server_version == files[1].version


async def test_compressed_files_can_be_unpacked_by_anybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are ordinary zstd files, of several frames, and each chunk can be had by itself."""
    small_chunks(monkeypatch, 500)
    node, files = archived(compression="zstd")
    await node.archive_all()
    content = FILE_MAGIC + files[0].bytes()
    stored = node.store.objects["files/binlog.000001.zst"]
    assert len(stored) < len(content)
    reader = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
    assert reader.read() == content
    file = node.catalogue.files()[0]
    assert len(file.chunks) > 3
    read = [file.chunk(node.store, at) for at in range(len(file.chunks))]
    assert b"".join(read) == content


@pytest.mark.parametrize("cut_after", range(1, 13))
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_store_that_goes_away_at_any_moment(
    monkeypatch: pytest.MonkeyPatch, cut_after: int, compression: str
) -> None:
    """There is never an entry without its file, and what was sent is not sent again."""
    small_chunks(monkeypatch, 500)
    node, files = archived(compression=compression)
    node.store.calls_left = cut_after
    with pytest.raises(StoreError):
        await node.archive_all()
    entries = [key for key in node.store.objects if key.startswith("catalogue/")]
    for key in entries:
        assert json.loads(node.store.objects[key])["object"] in node.store.objects
    node.store.calls_left = 1 << 30
    again = ArchivedNode(node.node, store=node.store, compression=compression)
    parts = {key: list(parts) for key, parts in node.store.parts.items()}
    await again.archive_all()
    assert [file.row.served_name for file in again.catalogue.files()] == [
        file.name for file in files[:2]
    ]
    for file, source in zip(again.catalogue.files(), files, strict=False):
        read = [file.chunk(node.store, at) for at in range(len(file.chunks))]
        assert b"".join(read) == FILE_MAGIC + source.bytes()
    for key, before in parts.items():
        assert node.store.objects[key].startswith(b"".join(before))


@pytest.mark.parametrize("is_long", [False, True])
async def test_another_object_is_never_replaced(is_long: bool) -> None:
    """The file of another cluster, or one that was damaged, stays as it is and is named, also
    where it has the same size."""
    node, files = archived()
    other = bytearray(FILE_MAGIC + files[0].bytes()) if is_long else bytearray(b"something else")
    other[-5] ^= 1
    node.store.objects["files/binlog.000001"] = bytes(other)
    for _ in range(2):
        with pytest.raises(ConflictError, match=r"files/binlog\.000001"):
            await node.archiver.step()
    assert node.store.objects["files/binlog.000001"] == bytes(other)
    assert not node.store.names("catalogue/")


async def test_the_same_object_without_an_entry_gets_one() -> None:
    """A crash between the two leaves it so; a longer one is another."""
    node, files = archived()
    content = FILE_MAGIC + files[0].bytes()
    node.store.objects["files/binlog.000001"] = content
    await node.archive_all()
    assert len(node.catalogue) == 2
    assert "files/binlog.000001" not in node.store.order

    node, _ = archived()
    node.store.objects["files/binlog.000001"] = content + b"x"
    with pytest.raises(ConflictError):
        await node.archiver.step()


async def test_an_entry_of_another_file_is_a_conflict() -> None:
    """Two clusters that count alike must not share an archive."""
    node, _ = archived()
    await node.archive_all()
    files = files_of(3, size=700)
    other = RelayNode()
    other.hold(*files, size=4)
    second = ArchivedNode(other, store=node.store)
    before = dict(node.store.objects)
    with pytest.raises(ConflictError, match="000001"):
        await second.archiver.step()
    assert node.store.objects == before


async def test_only_the_leader_archives() -> None:
    """The others read what it puts there; one that is deposed in the middle stops."""
    node, _ = archived()
    node.leads = False
    assert not await node.archiver.step()
    assert not node.store.objects
    assert node.archiver.status().files_behind == 2
    other = ArchivedNode(node.node, store=node.store)
    await other.archive_all()
    await node.archiver.refresh()
    assert node.archiver.status().files_behind == 0


async def test_what_two_leaders_archive_is_there_once() -> None:
    """The second finds the file and the entry of the first, whenever it looked."""
    node, _ = archived()
    other = ArchivedNode(node.node, store=node.store)
    other.catalogue.read_at = None
    await node.archive_all()
    before = dict(node.store.objects)
    # It has not seen the entry when it begins.
    await other.archiver._archive(node.node.relay.state.files[0])
    assert node.store.objects == before
    assert len(other.catalogue) == 1


async def test_a_damaged_entry_is_told_and_not_used() -> None:
    """By its name; the others are read all the same."""
    node, _ = archived()
    await node.archive_all()
    node.store.objects["catalogue/0000000001-binlog.000001.json"] = b"{}"
    other = ArchivedNode(node.node, store=node.store)
    await other.archiver.refresh()
    assert [file.row.ordinal for file in other.catalogue.files()] == [2]
    (told,) = other.archiver.status().damaged
    assert "0000000001-binlog.000001.json" in told


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"chunk_bytes": 7},
        {"chunks": []},
        {"chunk_crc32": []},
        {"compression": "lzma"},
        {"gtids_after": "nonsense"},
        {"size": None},
        {"ordinal": "first"},
    ],
)
async def test_what_is_no_entry_is_refused(change: dict[str, object]) -> None:
    """Every field that is used is looked at."""
    node, _ = archived()
    await node.archive_all()
    entry = json.loads(node.store.objects["catalogue/0000000001-binlog.000001.json"])
    with pytest.raises(DamagedError, match="the key"):
        ArchivedFile.decode(json.dumps(entry | change).encode(), "the key")


async def test_what_was_purged_before_it_was_archived_is_counted() -> None:
    """An operator sees that the archive has a hole."""
    node, _ = archived(count=5)
    await node.archiver.step()
    node.purge(3)
    await node.archive_all()
    assert [file.row.ordinal for file in node.catalogue.files()] == [1, 4]
    assert node.archiver.status().files_missing == 2


async def test_a_file_with_gaps_is_archived_as_it_is_held() -> None:
    """Its entry says so, and where."""
    from tests.support.relay_logs import packets_of

    (file, following) = files_of(2)
    packets = packets_of(file.events)
    relay = RelayNode()
    relay.session()
    relay.batch(file, packets[:2])
    relay.batch(file, packets[6:], gap_before=packets[6].event.start - packets[1].event.end)
    relay.hold(following)
    node = ArchivedNode(relay)
    await node.archive_all()
    entry = json.loads(node.store.objects["catalogue/0000000001-binlog.000001.json"])
    assert not entry["complete"]
    assert entry["gaps"] == [[packets[1].event.end, packets[6].event.start]]
    assert node.catalogue.files()[0].row.gaps == relay.relay.state.files[0].gaps


async def test_a_store_that_is_away_is_asked_again(autojump_clock: object) -> None:
    """With patience, without an end; the status says what is wrong until it is right again."""
    import trio

    node, _ = archived()
    node.store.calls_left = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.archiver.run)
        await trio.sleep(300)
        status = node.archiver.status()
        assert "away" in status.error
        assert 4 <= status.errors <= 12
        assert status.last_success is None
        node.store.calls_left = 1 << 30
        await trio.sleep(100)
        status = node.archiver.status()
        assert (status.error, status.files_behind) == ("", 0)
        assert status.last_success is not None
        nursery.cancel_scope.cancel()


def test_the_status_names_no_secrets() -> None:
    """What a store is called is shown."""
    node, _ = archived()
    assert isinstance(node.archiver, Archiver)
    assert node.archiver.status().target == MemoryStore.shown
