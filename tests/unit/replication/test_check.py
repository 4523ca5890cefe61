"""A database against its log: what fits, and every kind of row that does not."""

import pytest

from kingbus.pb.record_pb2 import BatchRow
from kingbus.replication.check import StateDiffersError, check_state
from kingbus.storage.log import LogStore
from kingbus.storage.state_store import StateStore, StateWrite
from tests.damage.history import made
from tests.damage.member import Machine, Promised, live


@pytest.fixture(params=[3, 6], ids=["from the beginning", "behind a purge"])
def member(tmp_path, request):
    """A directory of real files; with more files the first ones were purged."""
    live(Machine(tmp_path), made(files=request.param, size=2500), Promised())
    return tmp_path


def check(path):
    """What is said of a directory: where it ends."""
    log = LogStore.open_for_reading(path / "log")
    database = StateStore.open_for_reading(path / "state")
    try:
        return list(check_state(database, log))[-1]
    finally:
        database.close()
        log.close()


def change(path, write):
    """Have something else written."""
    database = StateStore.open(path / "state")
    try:
        applied, term = database.applied_with_term()
        rows = database.batch_rows(0, 0, 1 << 20)
        files = database.file_rows(0)
        database.write(write(applied, term, rows, files, database))
    finally:
        database.close()


def test_what_a_member_writes_fits(member):
    """From its log's start on, and nothing is changed by looking."""
    before = {path: path.read_bytes() for path in member.rglob("*") if path.is_file()}

    done, last = check(member)

    assert done == last > 20
    after = {path: path.read_bytes() for path in member.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= {member / "log" / "LOCK"}


def other_row(applied, term, rows, files, _):
    index, row = rows[len(rows) // 2]
    row.end_position += 1
    return StateWrite(applied=applied, term=term, batches=[(index, row)])


def one_row_less(applied, term, rows, files, _):
    return StateWrite(applied=applied, term=term, deleted_batches=[rows[len(rows) // 2][0]])


def one_row_more(applied, term, rows, files, _):
    return StateWrite(applied=applied, term=term, batches=[(applied, BatchRow(file=1))])


def behind_the_last(applied, term, rows, files, _):
    return StateWrite(applied=applied, term=term, batches=[(applied + 9, BatchRow(file=1))])


def other_file(applied, term, rows, files, _):
    files[0].last_time += 1
    return StateWrite(applied=applied, term=term, files=[files[0]])


def other_state(applied, term, rows, files, database):
    record = database.checkpoint()
    record.epoch += 1
    return StateWrite(applied=applied, term=term, checkpoint=record)


def ahead(applied, term, rows, files, _):
    return StateWrite(applied=applied + 1000, term=term)


@pytest.mark.parametrize(
    "write",
    [other_row, one_row_less, one_row_more, behind_the_last, other_file, other_state, ahead],
)
def test_what_does_not_fit_is_named(member, write):
    """Rows that are other, missing or too many; files, state, and an index that cannot be."""
    change(member, write)

    with pytest.raises(StateDiffersError):
        check(member)
