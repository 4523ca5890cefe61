"""A relay in memory whose closed files go to an archive, and which serves from there."""

from kingbus.archive import archiver
from kingbus.archive.archiver import Archiver
from kingbus.archive.catalogue import Catalogue
from kingbus.archive.dumper import ArchiveDumper
from kingbus.pb.command_pb2 import Command, Purge
from kingbus.replication.dump import DumpRefusedError, DumpRequest, run_dump
from tests.support.memory_store import MemoryStore
from tests.support.relay_node import RelayNode, Replica, run_inline


class ArchivedNode:
    """A node's relay with an archive at its side."""

    def __init__(
        self,
        node: RelayNode,
        *,
        store: MemoryStore | None = None,
        compression: str = "none",
        patience_seconds: float = 0.0,
    ) -> None:
        self.node = node
        self.store = store or MemoryStore()
        self.catalogue = Catalogue(self.store)
        self.leads = True
        self.archiver = Archiver(
            log=node.relay,
            catalogue=self.catalogue,
            runner=run_inline,
            leads=lambda: self.leads,
            compression=compression,
        )
        self.dumper = ArchiveDumper(
            log=node.relay,
            catalogue=self.catalogue,
            runner=run_inline,
            refresh=self.archiver.refresh,
            dumper=self._dump_log,
            identity=node,
            patience_seconds=patience_seconds,
        )
        self.dumps_of_log = 0

    async def _dump_log(self, request: DumpRequest, *, sink, progress) -> None:  # type: ignore[no-untyped-def]
        self.dumps_of_log += 1
        await run_dump(self.node.relay, request, sink=sink, identity=self.node, progress=progress)

    async def archive_all(self) -> None:
        while await self.archiver.step():
            pass

    def purge(self, count: int) -> None:
        """The oldest `count` files leave the log."""
        state = self.node.relay.state
        first_index = state.files[count].first_index
        self.node.command(Command(purge=Purge(first_index=first_index)))
        self.node.log.first = first_index

    async def dump(self, request: DumpRequest) -> Replica:
        replica = Replica(request)
        await self.attach(replica)
        replica.check()
        return replica

    async def attach(self, replica: Replica) -> None:
        try:
            await self.dumper(replica.request, sink=replica, progress=replica.progress)  # type: ignore[arg-type]
            replica.finished = True
        except DumpRefusedError as refusal:
            replica.refusal = refusal


def small_chunks(monkeypatch, size: int) -> None:  # type: ignore[no-untyped-def]
    """Chunks and parts of so many bytes, so that small files have several."""
    from kingbus.archive import catalogue

    monkeypatch.setattr(catalogue, "CHUNK_BYTES", size)
    monkeypatch.setattr(archiver, "CHUNK_BYTES", size)
    monkeypatch.setattr(archiver, "PART_BYTES", 2 * size)
