"""Both stores do what an archive needs of them: whole objects, never replaced, gone on with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kingbus.archive.directory import DirectoryStore
from kingbus.archive.errors import ConflictError, StoreError
from kingbus.archive.s3 import S3Store
from kingbus.archive.store import Store
from kingbus.secrets import Secret
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

PART = 8 << 20


def s3_store(server: S3Server, *, secret: str = SECRET_KEY, bucket: str = BUCKET) -> S3Store:
    return S3Store(
        bucket=bucket,
        prefix="cluster/one",
        endpoint=server.endpoint,
        region="us-east-1",
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret(secret),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3-server")) as running:
        yield running


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return DirectoryStore(tmp_path, owner="n1")
    running = request.getfixturevalue("server")
    assert isinstance(running, S3Server)
    made = s3_store(running)
    made._prefix = f"{tmp_path.name}/"
    return made


def test_small_objects(store: Store) -> None:
    """What was put is there, in any part; what was not is not."""
    assert store.size("catalogue/1.json") is None
    assert store.names("catalogue/") == []
    store.put("catalogue/2.json", b"two")
    store.put("catalogue/1.json", b"first")
    assert store.size("catalogue/1.json") == 5
    assert store.get("catalogue/1.json", 1, 3) == b"irs"
    assert store.get("catalogue/1.json", 3, 100) == b"st"
    assert store.names("catalogue/") == ["catalogue/1.json", "catalogue/2.json"]
    with pytest.raises(StoreError, match=r"catalogue/9\.json"):
        store.get("catalogue/9.json", 0, 10)


def test_an_object_is_never_replaced(store: Store) -> None:
    """Neither a small one nor a large one."""
    store.put("files/one", b"first")
    with pytest.raises(ConflictError, match="files/one"):
        store.put("files/one", b"second")
    upload = store.upload("files/one")
    upload.put(b"third")
    with pytest.raises(ConflictError, match="files/one"):
        upload.finish()
    assert store.get("files/one", 0, 100) == b"first"


def test_a_large_object_appears_whole(store: Store) -> None:
    """Not before its end; its parts are in order."""
    parts = [b"a" * PART, b"b" * PART, b"the rest"]
    upload = store.upload("files/large")
    for part in parts:
        assert store.size("files/large") is None
        assert store.names("files/") == []
        assert upload.put(part)
    upload.finish()
    whole = b"".join(parts)
    assert store.size("files/large") == len(whole)
    assert store.get("files/large", PART - 2, 4) == b"aabb"
    assert store.get("files/large", len(whole) - 4, 10) == b"rest"


def test_an_upload_is_gone_on_with(store: Store) -> None:
    """Parts that are there are not sent again."""
    first = store.upload("files/large")
    assert first.put(b"a" * PART)
    assert first.put(b"b" * PART)
    second = store.upload("files/large")
    assert not second.put(b"a" * PART)
    assert not second.put(b"b" * PART)
    assert second.put(b"end")
    second.finish()
    assert store.get("files/large", PART - 1, PART + 5) == b"a" + b"b" * PART + b"end"
    assert store.names("files/") == ["files/large"]


def test_an_upload_of_another_content_is_not_gone_on_with(store: Store) -> None:
    """What is right in the end is what came last, at the latest with the next try."""
    first = store.upload("files/large")
    first.put(b"a" * PART)
    first.put(b"b" * PART)
    parts = [b"a" * PART, b"c" * PART, b"end"]

    def send() -> None:
        second = store.upload("files/large")
        for part in parts:
            second.put(part)
        second.finish()

    if isinstance(store, S3Store):
        with pytest.raises(StoreError, match="another content"):
            send()
    send()
    assert store.get("files/large", 0, 3 * PART) == b"".join(parts)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It is a mount that is missing."""
    store = DirectoryStore(tmp_path / "archive", owner="n1")
    for call in (
        lambda: store.names("catalogue/"),
        lambda: store.put("files/one", b"x"),
        lambda: store.upload("files/one"),
    ):
        with pytest.raises(StoreError, match="archive is not there"):
            call()
    assert not (tmp_path / "archive").exists()


def test_two_owners_do_not_write_into_one_file(tmp_path: Path) -> None:
    """A deposed leader may go on for a moment; who is first wins, and nothing is mixed."""
    one = DirectoryStore(tmp_path, owner="n1").upload("files/one")
    other = DirectoryStore(tmp_path, owner="n2").upload("files/one")
    one.put(b"same")
    other.put(b"same")
    one.finish()
    with pytest.raises(ConflictError):
        other.finish()
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["one"]


def test_a_wrong_key_is_told_without_the_key(server: S3Server) -> None:
    """In the store's own words, with the object; and so is a bucket that is not there."""
    wrong = "wrong-secret-8kJ"
    with pytest.raises(StoreError) as caught:
        s3_store(server, secret=wrong).put("files/one", b"x")
    assert "files/one" in str(caught.value)
    assert wrong not in caught.value.explain()
    with pytest.raises(StoreError, match="nowhere"):
        s3_store(server, bucket="nowhere").names("catalogue/")


def test_a_store_that_is_away(tmp_path: Path) -> None:
    """An error that names it, after a few seconds at most."""
    gone = S3Server(tmp_path)
    with pytest.raises(StoreError, match=r"s3://binlogs/cluster/one/files/one"):
        s3_store(gone).size("files/one")
