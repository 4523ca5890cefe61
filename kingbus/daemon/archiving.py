"""The archive of a node, where its configuration names one.

Owns which store is meant and how many threads may wait for it. Must not know what is put there, nor
how it is served.
"""

from collections.abc import Callable
from pathlib import Path

from kingbus.archive.archiver import Archiver
from kingbus.archive.catalogue import Catalogue
from kingbus.archive.directory import DirectoryStore
from kingbus.archive.dumper import ArchiveDumper
from kingbus.archive.store import Store
from kingbus.config import ArchiveSection
from kingbus.daemon.options import Options
from kingbus.daemon.worker import Worker
from kingbus.replication.binlog_server import Dumper
from kingbus.replication.relay import Relay
from kingbus.replication.served_facts import ServedFacts
from kingbus.secrets import Secret

WRITING_THREADS = 1
"""One file at a time, one part at a time."""
READING_THREADS = 4
"""Dumps wait for chunks; what is unpacked takes a processor anyway."""


def open_store(options: Options) -> Store:
    """Blocks: loading the client of S3 takes a second. Nothing is asked of the store yet."""
    archive = options.config.archive
    assert archive is not None
    if not archive.is_s3:
        return DirectoryStore(_path(archive), owner=options.config.name)
    from kingbus.archive.s3 import S3Store

    credentials = options.credentials
    return S3Store(
        bucket=archive.bucket,
        prefix=archive.prefix,
        endpoint=archive.endpoint,
        region=archive.region,
        access_key=credentials.archive_access_key or Secret(""),
        secret_key=credentials.archive_secret_key or Secret(""),
    )


def _path(archive: ArchiveSection) -> Path:
    return Path(archive.to)


class Archiving:
    """What a node has of its archive: who puts files there, and who serves from it."""

    def __init__(
        self,
        store: Store,
        archive: ArchiveSection,
        *,
        relay: Relay,
        leads: Callable[[], bool],
    ) -> None:
        self._relay = relay
        self._catalogue = Catalogue(store)
        self._serves = archive.serve
        self.archiver = Archiver(
            log=relay,
            catalogue=self._catalogue,
            runner=Worker(WRITING_THREADS, abandoned=True),
            leads=leads,
            compression=archive.compression,
            serving=archive.serve,
        )

    def served(self, dumper: Dumper, facts: ServedFacts) -> Dumper:
        """A dumper that serves from the archive too, if that is wished; replicas are told so."""
        if not self._serves:
            return dumper
        longer = ArchiveDumper(
            log=self._relay,
            catalogue=self._catalogue,
            runner=Worker(READING_THREADS, abandoned=True),
            refresh=self.archiver.refresh,
            dumper=dumper,
            identity=facts,
        )
        facts.before = longer
        return longer
