"""A real process that writes, killed with SIGKILL at any moment."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from kingbus.pb.record_pb2 import BatchRow
from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.directory import DataDirectory
from kingbus.storage.log import LogStore, LogWrite
from kingbus.storage.state_store import StateStore, StateWrite
from kingbus.storage.verify import verify_log

SEGMENT_BYTES = 1 << 16


def data_of(index, term):
    return Random(index * 1000 + term).randbytes(index * 733 % 6000)


def open_log(directory):
    return LogStore.open(directory.log_path, segment_bytes=SEGMENT_BYTES, reserve_bytes=1 << 30)


def write_for_ever(path, seed):
    """Acknowledge each write on standard output, once it is durable, as `first last term`."""
    random = Random(seed)
    directory = DataDirectory.open_or_create(path)
    log, state = open_log(directory), StateStore.open(directory.state_path)
    while True:
        held = log.initial_state()[0]
        first = max(held.commit, log.last_index() - random.randint(0, 3)) + 1
        last = first + random.randint(0, 8)
        term = held.term + 1
        entries = [
            Entry(term, index, EntryType.NORMAL, data_of(index, term))
            for index in range(first, last + 1)
        ]
        commit = random.randint(first - 1, last)
        write = LogWrite(entries=entries, hard_state=HardState(term, 1, commit))
        log.write(write)
        log.publish(write)
        rows = [(index, BatchRow(file=index)) for index in range(state.applied() + 1, commit + 1)]
        state.write(StateWrite(applied=commit, batches=rows))
        sys.stdout.write(f"{first} {last} {term} {commit}\n")
        sys.stdout.flush()


def segment_first_indexes(directory):
    """By the names: sequence number, first index."""
    return [
        int(path.stem.split("-")[1]) for path in directory.glob("*.segment") if "-" in path.stem
    ]


@pytest.mark.slow
def test_everything_acknowledged_survives_a_kill(tmp_path):
    """Whenever the process dies: all that it acknowledged is there, and the database fits."""
    terms, commit = {}, 0
    random = Random(5)
    for seed in range(6):
        process = subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with process:
            for _ in range(random.randint(1, 150)):
                line = process.stdout.readline()
                assert line, "the writer ended by itself"
                first, last, term, commit = map(int, line.split())
                terms = {index: held for index, held in terms.items() if index < first}
                terms |= dict.fromkeys(range(first, last + 1), term)
            process.kill()
            # What it wrote between our reading and its death counts too.
            for line in process.stdout.read().splitlines(keepends=True):
                if line.endswith("\n") and len(line.split()) == 4:
                    first, last, term, commit = map(int, line.split())
                    terms = {index: held for index, held in terms.items() if index < first}
                    terms |= dict.fromkeys(range(first, last + 1), term)

        assert [report.problem for report in verify_log(tmp_path / "log")][-1] is None
        with DataDirectory.open_or_create(tmp_path) as directory:
            log, state = open_log(directory), StateStore.open(directory.state_path)
            held = log.initial_state()[0]
            found = {e.index: e for e in log.read(1, log.last_index() + 1, 1 << 60)}
            applied = state.applied()
            rows = state.batch_rows(0, 0, 1 << 30)
            log.close()
            state.close()
        begun = max(segment_first_indexes(tmp_path / "log"))
        for index, term in terms.items():
            held_term = found[min(index, max(found))].term
            if index not in found or held_term != term:
                # Only a newer, unacknowledged write may have taken an uncommitted entry away; of
                # one that begins a segment there may be no more than the segment's name.
                assert index > commit
                assert held_term > term or begun == max(found) + 1
        assert all(e.data == data_of(e.index, e.term) for e in found.values())
        assert held.commit >= commit
        assert commit <= applied <= held.commit
        assert [index for index, _ in rows] == list(range(1, applied + 1))
        # The next process goes on from what is there, unacknowledged writes included.
        terms, commit = {index: e.term for index, e in found.items()}, held.commit


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), int(sys.argv[2]))
