"""A flipped bit on one node's disk: found by the others, named, and put right from a peer."""

import shutil
from pathlib import Path

import pytest

from tests.support import workload
from tests.support.cluster import KingbusNode, run_kingbus
from tests.support.installations import Installation
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql

SETTINGS = {"segment_size": "1MB", "reserve_data_size": "64MB"}
SEGMENTS_MIN = 4


def segments(node: KingbusNode) -> list[Path]:
    """Its segment files, the oldest first."""
    return sorted((node.data_dir / "log").glob("*-*.segment"))


def flip(path: Path, at: int) -> None:
    """One bit becomes another."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_damage_is_found_named_and_repaired(world: World, modern: Installation) -> None:
    """`cluster scrub` on the running cluster, `storage verify` and `repair` on the stopped node."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(**SETTINGS)
    cluster.start_receiver(source)
    for _ in range(3):
        workload.large_transactions(source, 2)
        source.execute("FLUSH BINARY LOGS")
    cluster.wait_for_gtids(source.gtid_executed(), source)
    cluster.wait_equal()
    damaged, other = cluster.followers()
    assert len(segments(damaged)) >= SEGMENTS_MIN
    sound = other.command("cluster", "scrub")
    assert sound.returncode == 0, sound
    assert sound.stdout.count(": equal") >= SEGMENTS_MIN

    # A body of which the node itself has read nothing since: it is in no cache of its own.
    damaged.stop()
    damaged.start()
    flip(segments(damaged)[1], 300_000)
    scrubbed = other.command("cluster", "scrub")
    assert scrubbed.returncode == 1, scrubbed
    assert f"{damaged.name} is damaged" in scrubbed.stderr
    assert f"{segments(damaged)[1]}: corrupt at byte" in scrubbed.stderr
    assert other.name not in scrubbed.stderr
    running = run_kingbus("storage", "verify", "--data-dir", str(damaged.data_dir))
    assert running.returncode == 1
    assert "is in use" in running.stderr

    damaged.stop()
    words = ("--data-dir", str(damaged.data_dir))
    assert run_kingbus("storage", "verify", *words).returncode == 1
    repaired = run_kingbus("storage", "repair", *words, "--from", other.admin_url)
    assert repaired.returncode == 0, repaired
    assert str(segments(damaged)[1]) in repaired.stdout
    verified = run_kingbus("storage", "verify", *words)
    assert verified.returncode == 0, verified
    damaged.start()
    workload.small_transactions(source, 10)
    cluster.wait_for_gtids(source.gtid_executed(), source)
    again = wait_for(
        lambda: found if not (found := other.command("cluster", "scrub")).returncode else None,
        what="equal nodes",
    )
    assert again is not None


def test_an_older_copy_put_back_is_noticed(world: World) -> None:
    """The member ends with one clear line before it takes part; with its own files it goes on."""
    cluster = world.cluster()
    cluster.start_listeners()
    cluster.wait_equal()
    member = cluster.followers()[0]
    member.stop()
    older, newest = world.directory / "older", world.directory / "newest"
    shutil.copytree(member.data_dir, older)
    member.start()
    for number in range(3):
        cluster.leader().start_listener(password=f"secret-{number}")
    cluster.wait_equal()
    member.stop()
    member.data_dir.rename(newest)
    older.rename(member.data_dir)

    member.launch()
    assert member.wait_end() == 1
    assert "Bring the newest directory back" in member.output()
    assert "Traceback" not in member.output()
    assert "ready " not in member.output()
    member.kill9()

    shutil.rmtree(member.data_dir)
    newest.rename(member.data_dir)
    member.start()
    cluster.wait_equal()
