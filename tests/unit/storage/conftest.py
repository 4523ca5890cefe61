"""Logs to look at: on a simulated disk, small enough that every byte can be damaged."""

from pathlib import Path

import pytest

from kingbus.raft.types import Entry, EntryType, HardState
from kingbus.storage.log import LogStore, LogWrite
from tests.unit.storage.simulated_disk import SimulatedDisk


class Logs:
    """Opens and writes logs on one simulated disk."""

    def __init__(self):
        self.disk = SimulatedDisk()
        self.directory = Path("/log")

    def open(self, *, segment_bytes=4096, reserve_bytes=1 << 30, **options):
        return LogStore.open(
            self.directory,
            segment_bytes=segment_bytes,
            reserve_bytes=reserve_bytes,
            files=self.disk,
            **options,
        )

    def segment_paths(self):
        return [self.directory / name for name in self.disk.names(self.directory) if "-" in name]

    def size(self, path):
        return len(self.disk.names_now[path].data)


def append(store, *entries, hard_state=None, **options):
    write = LogWrite(entries=entries, hard_state=hard_state, **options)
    store.write(write)
    store.publish(write)


def entry(index, data=b"", *, term=1):
    return Entry(term, index, EntryType.NORMAL, data)


def commit(index, *, term=1):
    return HardState(term, 1, index)


@pytest.fixture
def logs():
    return Logs()
