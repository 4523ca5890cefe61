"""One node: builds the object graph, owns the tree of tasks and the order in which they stop.

    member nursery                      a crash here ends the process, exit 1
     |- node.run                        Raft; ends by itself when this member was removed
     |- transport.run, transport.serve  lanes to the peers, and what they dial
     |- receiver.run                    pulls while this node leads; restarts its sessions itself
     |- channels.run                 the same for each named channel, and its listener
     |- purger.run                   keeps the log within its reserve, everywhere while it leads
     |- dump_workers.run                processes that perform dumps, where some are wanted
     |- archiver.run                    copies closed files while this node leads, if wanted
     |- binlog_server.run               a task for each replica; its errors end that replica only
     |- admin, metrics                  HTTP; a request's errors end that request only
     |- room                            looks for room on a full disk, and hands leadership over
     |- keeper                          cluster key, seeding, attributes, listener as stored
     '- proof                           that a new voter is new, where no peer could tell
    signals                             beside it: SIGTERM and SIGINT begin the stop

Start: sockets; directory lock, format and identity; database; being added to a cluster, if that is
wished; the bootstrap decision; log, relay state; the object graph and the cluster key; then the
tasks, and one `ready` line on stderr. Addresses are bound before anything is written, so a port in
use changes nothing, but the peer port listens only when it can be served: a peer that asks in vain
must be refused at once and not wait.

Stop, within 10 s: (1) leadership is handed over, if this node leads; (2) the listener and its dumps
close; (3) HTTP replies under way end; (4) receiver, node and transport are cancelled; (5) log,
database and directory are closed, by `process`, which has opened them.

Must not know where the options came from, nor what is decided within a task.
"""

import gc
import random
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from kingbus import __version__, log, metrics
from kingbus.admin.cluster_key import CALL_METHOD as KEY_METHOD
from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.admin.operations import CALL_METHOD as ADMIN_METHOD
from kingbus.admin.operations import Operations
from kingbus.admin.serving import start_listening
from kingbus.admin.sql import SqlAdministration
from kingbus.admin.storage import StorageQuestions
from kingbus.binlog.command import COMMAND_VERSION
from kingbus.binlog.retention import Policy, reserve_warning
from kingbus.daemon.attributes import OwnAttributes
from kingbus.daemon.channel_parts import PartsBuilder
from kingbus.daemon.channels import Channels, Parts, description_of
from kingbus.daemon.configured import (
    ConfiguredChannels,
    ConfiguredSource,
    open_configured_listener,
)
from kingbus.daemon.disk import NodeDisk
from kingbus.daemon.endpoints import Endpoints
from kingbus.daemon.keeper import keep
from kingbus.daemon.newness import Newness
from kingbus.daemon.room import Room
from kingbus.daemon.signals import Stop
from kingbus.daemon.sockets import Sockets
from kingbus.daemon.start import Ground
from kingbus.daemon.watched import Feeding, Watched
from kingbus.daemon.worker import Worker
from kingbus.errors import KingbusError
from kingbus.mysql import auth
from kingbus.node.calls import register_calls
from kingbus.node.node import Node, NodeSettings, Removed
from kingbus.pb.command_pb2 import MemberAttributes, ServerConfig
from kingbus.replication.binlog_server import BinlogServer, Dumper
from kingbus.replication.dump import DumpProgress, DumpRequest, DumpSink, run_dump
from kingbus.replication.file_content import read_chunk
from kingbus.replication.pump import RESERVE_FULL
from kingbus.replication.purger import CALL_METHOD as RETENTION_METHOD
from kingbus.replication.purger import Purger
from kingbus.replication.receiver import Receiver
from kingbus.replication.served_facts import ReceiverStatus, ServedFacts
from kingbus.replication.snapshots import RelaySnapshots
from kingbus.secrets import ClusterSecret
from kingbus.storage.log_keys import KEY_FILE
from kingbus.transport.transport import Transport

if TYPE_CHECKING:
    from kingbus.daemon.archiving import Archiving
    from kingbus.replication.worker_pool import DumpWorkers

_log = log.get_logger("daemon")

ARCHIVE = "archive"
"""Its name among the replicas that a purge goes by."""
STOP_SECONDS_MAX = 8.0  # of the 10 that are promised
HANDOVER_SECONDS_MAX = 3.0


class Member:
    """The object graph of one node. `sockets` are bound; they and the ground are closed outside."""

    def __init__(self, ground: Ground, sockets: Sockets, worker: Worker) -> None:
        self._options = ground.options
        self._config = ground.options.config
        self._directory = ground.directory
        self._store = ground.store
        self._relay = ground.relay
        self._identity = ground.prepared.identity
        self._sockets = sockets
        self._worker = worker
        self._build_node(ground)
        self._archiving = self._make_archiving(ground)
        self._build_replication()
        self._build_purger(ground)
        self._build_admin()
        self._build_channels()
        self._build_keeping(ground)

    def _build_node(self, ground: Ground) -> None:
        config, prepared = self._config, ground.prepared
        member_id, generator = self._identity.member_id, random.SystemRandom()
        self._dump_workers: DumpWorkers | None = None
        self._room = Room(store=ground.store, ballast=ground.ballast, runner=self._worker)
        if self._workers_wanted:
            self._watched: Watched = Feeding(self._relay, member_id, self._note_applied)
        else:
            self._watched = Watched(self._relay, member_id)
        self._transport = Transport(
            member_id=member_id,
            cluster=prepared.foreseen or prepared.cluster,
            random=generator,
            command_version=COMMAND_VERSION,
        )
        self._node = Node(
            member_id=member_id,
            cluster=prepared.cluster,
            log=self._store,
            machine=self._watched,
            transport=self._transport,
            random=generator,
            runner=Worker(4),  # appends never wait behind readers for a thread
            settings=NodeSettings(
                heartbeat_seconds=config.heartbeat_interval,
                election_seconds=config.election_timeout,
            ),
            bootstrap=prepared.bootstrap,
            foreseen=prepared.foreseen,
            snapshots=RelaySnapshots(
                relay=self._relay,
                database=ground.database,
                runner=self._worker,
                installed=self._watched.notify,
            ),
            room=self._room,
        )
        self._transport.attach(self._node)

    def _build_replication(self) -> None:
        config = self._config
        self._sql = SqlAdministration(
            operations=lambda: self._operations,
            state=lambda: self._relay.state,
            receiver=self._own_receiver,
            own_users=lambda: self._listener.own_users,
            users_applied=self._apply_users,
            runner=self._worker,
        )
        self._facts = ServedFacts(
            cluster_id=self._identity.served_id,
            relay=self._relay,
            receiver=self._sql.receiver,
            listening=lambda: self._server.address,
            hostname=socket.gethostname(),
            purge=self._sql.purge,
            administration=self._sql,
            until_purge=self._until_purged,
            version=config.server.version if config.server is not None else "",
            semi_sync=config.server is None or config.server.semi_sync,
        )
        self._receiver = Receiver(
            node=self._node,
            relay=self._relay,
            identity=self._facts,
            secret=lambda: self._keys.secret,
            is_full=self._is_full,
            changed=lambda: self._watched.changed,
            attached=self._replicas_seen,
            lowest_version=lambda: self._relay.state.lowest_version(
                member.id for member in self._node.cluster
            ),
            random=random.SystemRandom(),
        )
        self._rsa_key = auth.PrivateKey.generate()
        dumper: Dumper = self._dump
        if self._workers_wanted:
            dumper = self._dump_workers = self._make_dump_workers()
        if self._archiving is not None:
            dumper = self._archiving.served(dumper, self._facts)
        self._server = BinlogServer(
            facts=self._facts,
            dumper=dumper,
            rsa_key=self._rsa_key,
            ssl_context=self._options.credentials.server_tls,
            require_tls=config.tls.server is not None and config.tls.server.require,
        )

    def _build_purger(self, ground: Ground) -> None:
        retain = self._config.retain
        self._disk = NodeDisk(
            store=self._store,
            database=ground.database,
            runner=self._worker,
            exceeds=self._config.reserve_overflow == "exceed",
        )
        self._purger = Purger(
            node=self._node,
            relay=self._relay,
            disk=self._disk,
            calls=self._transport,
            others=lambda: [
                each.id for each in self._node.cluster if each.id != self._identity.member_id
            ],
            attached=self._attached,
            end_overtaken=self._server.end_overtaken,
            policy=Policy(
                keep_seconds=retain.keep_for,
                files_min=retain.files_min,
                replica_seconds=retain.replicas_for,
            ),
            channels=self._channels_served,
            description=partial(description_of, self._relay),
        )
        self._transport.register(RETENTION_METHOD, self._purger.handle_call)

    def _replicas_seen(self, channel: int = 0) -> set[str]:
        """A channel's replicas at all members; the purger comes into being after the receiver."""
        return self._purger.replicas_seen(channel)

    def _attached(self) -> Iterator[tuple[str, str]]:
        """Who reads which file here; the archive reads as a replica would, on the leader."""
        yield from self._server.reading()
        files = self._relay.state.files
        if self._archiving is not None and files and self._node.leadership.is_ready:
            behind = self._archiving.archiver.behind()
            yield ARCHIVE, (behind or files[-1:])[0].served_name

    def _make_archiving(self, ground: Ground) -> "Archiving | None":
        if ground.archive is None or self._config.archive is None:
            return None
        from kingbus.daemon.archiving import Archiving

        return Archiving(
            ground.archive,
            self._config.archive,
            relay=self._relay,
            leads=lambda: self._node.leadership.is_ready,
        )

    @property
    def _workers_wanted(self) -> int:
        return self._config.server.workers if self._config.server is not None else 0

    def _make_dump_workers(self) -> "DumpWorkers":
        # Nothing of it is loaded where it is not wanted.
        from kingbus.replication.worker_pool import DumpWorkers

        server = self._config.server
        assert server is not None
        return DumpWorkers(
            count=server.workers,
            relay=self._relay,
            log=self._store,
            directory=self._directory.log_path,
            identity=self._facts,
            runner=self._worker,
            local=self._dump,
            catch_up=self._node,
            catch_up_seconds_max=server.wait_for_catch_up,
        )

    def _note_applied(self) -> None:
        if self._dump_workers is not None:
            self._dump_workers.note()

    def _build_admin(self) -> None:
        config, relay, node = self._config, self._relay, self._node
        self._keys = ClusterKeyKeeper(
            path=self._directory.path / KEY_FILE,
            configured=config.cluster_key_file,
            node=node,
            transport=self._transport,
            state=lambda: relay.state,
            announce=self._announce_key,
            runner=self._worker,
        )
        archive = self._archiving.archiver if self._archiving is not None else None
        self._leader = LeaderOperations(
            node=node,
            relay=relay,
            receiver=self._receiver,
            identity=self._facts,
            keys=self._keys,
            purger=self._purger,
            archive=archive,
            named=self._channels_led,
        )
        self._listener = ListenerControl(
            server=self._server,
            member_id=node.member_id,
            state=lambda: relay.state,
            store=self._store_server,
            runner=self._worker,
        )
        self._operations = Operations(
            name=self._identity.name,
            version=__version__,
            node=node,
            relay=relay,
            listener=self._listener,
            transport=self._transport,
            leader=self._leader,
            identity=self._facts,
            election_timeout=config.election_timeout,
            events=self._facts.binlog_events,
            content=partial(read_chunk, relay),
            archive=archive,
            warnings=self._warnings,
            at_rest=self._store.at_rest_status,
            disk_full=lambda: self._room.reason,
            storage=StorageQuestions(
                log=self._store,
                applied=lambda: relay.applied_index,
                digest_at=relay.digest_at,
                runner=self._worker,
            ),
            channels=self._channels_shown,
            digest=relay.digest,
        )
        register_calls(
            self._transport,
            node,
            took_part=lambda each: each in relay.state.members,
            key_id=self._announced_key_id,
            origin_id=self._identity.origin_id,
        )
        self._transport.register(ADMIN_METHOD, self._operations.handle_call)
        self._transport.register(KEY_METHOD, self._keys.handle_call)

    def _build_channels(self) -> None:
        builder = PartsBuilder(
            options=self._options,
            node=self._node,
            relay=self._relay,
            served_id=self._identity.served_id,
            operations=lambda: self._operations,
            purger=self._purger,
            keys=self._keys,
            rsa_key=self._rsa_key,
            runner=self._worker,
            is_full=self._is_full,
            changed=lambda: self._watched.changed,
            replicas_seen=self._replicas_seen,
            users_applied=self._apply_users,
        )
        self._channels = Channels(
            relay=self._relay, build=builder.build, changed=lambda: self._watched.changed
        )
        self._facts.named = self._channels.facts
        self._server.server_of = self._channels.server_of
        self._sql.named = self._channels.administrations

    def _build_keeping(self, ground: Ground) -> None:
        """What keeps together what is configured and what is stored."""
        self._endpoints = Endpoints(self._options, self._sockets)
        self._newness = Newness(
            ground.prepared,
            ground.directory,
            node=self._node,
            relay=self._relay,
            runner=self._worker,
            proven=self._watched.notify,
        )
        self._source = ConfiguredSource(
            self._options,
            node=self._node,
            relay=self._relay,
            leader=self._leader,
            keys=self._keys,
        )
        self._configured_channels = ConfiguredChannels(
            self._config, node=self._node, relay=self._relay, leader=self._leader
        )
        self._attributes = OwnAttributes(
            MemberAttributes(
                member_id=self._identity.member_id,
                admin_urls=[self._endpoints.admin_url],
                version=__version__,
                command_version=COMMAND_VERSION,
                reserve_bytes=self._config.reserve_data_size,
            ),
            node=self._node,
            relay=self._relay,
            newness=self._newness,
            store=self._operations.store_attributes,
        )

    # These stand between objects that need each other.

    async def _dump(self, request: DumpRequest, *, sink: DumpSink, progress: DumpProgress) -> None:
        server = self._config.server
        await run_dump(
            self._relay,
            request,
            sink=sink,
            identity=self._facts,
            progress=progress,
            catch_up=self._node,
            catch_up_seconds_max=server.wait_for_catch_up if server is not None else 30.0,
        )

    def _is_full(self) -> bool:
        if self._room.reason:
            return True  # no purge is due and no setting helps: the disk itself has no room
        pending = self._node.uncommitted_bytes
        return self._disk.is_full(pending, only_open_left=lambda: self._purger.has_purged_all)

    def _until_purged(self, index: int) -> int:
        return self._purger.until_purged(index)

    def _own_receiver(self) -> ReceiverStatus:
        return self._receiver.status()

    def _apply_users(self) -> None:
        self._listener.apply_users()
        for parts in self._channels.all():
            parts.listener.apply_users()

    async def _store_server(self, wanted: ServerConfig) -> None:
        await self._operations.store_server(wanted)

    async def _announce_key(self, secret: ClusterSecret) -> None:
        await self._leader.announce_key(secret)

    def _channels_served(self) -> Iterable[Parts]:
        return self._channels.all()

    def _channels_led(self) -> Mapping[str, LeaderOperations]:
        return self._channels.leaders()

    def _channels_shown(self) -> Mapping[str, Parts]:
        return self._channels.doors()

    def _announced_key_id(self) -> str:
        announced = self._relay.state.cluster_key
        return announced.key_id if announced is not None else ""

    async def load_key(self) -> None:
        """The cluster key as far as it is here; raises SecretErrors."""
        await self._keys.load()

    def _warnings(self) -> Iterator[str]:
        yield from self._config.warnings()
        yield from self._store.warnings
        if self._room.reason:
            yield self._room.reason
        channels = list(self._channels.all())
        receivers = [self._receiver, *(each.receiver for each in channels)]
        is_full = any(each.status().error == RESERVE_FULL for each in receivers)
        if is_full and not self._room.reason:
            yield "reserve-data-size is used up: the receiver takes nothing more"
        largest = max(each.source_binlog_size for each in receivers)
        too_small = reserve_warning(self._config.reserve_data_size, largest)
        if too_small:
            yield too_small
        for difference in (self._source.difference, *(each.difference for each in channels)):
            if told := difference():
                yield told

    # --- running --------------------------------------------------------------------------------

    async def run(self, stop: Stop) -> Removed | None:
        """Run until SIGTERM, SIGINT or removal. Raises what ended a task."""
        removed: Removed | None = None

        async def run_node() -> None:
            nonlocal removed
            removed = await self._node.run()
            self._operations.node_ended.set()
            stop.requested.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(self._transport.run)
            await self._serve_peers(nursery)
            nursery.start_soon(run_node)
            if self._dump_workers is not None:
                await nursery.start(self._dump_workers.run)
            await nursery.start(self._server.run)
            nursery.start_soon(self._receiver.run)
            nursery.start_soon(self._purger.run)
            if self._archiving is not None:
                nursery.start_soon(self._archiving.archiver.run)
            await self._listener.reconcile()
            await open_configured_listener(self._options, self._listener)
            await nursery.start(self._channels.run)
            await nursery.start(self._endpoints.run, self._operations, self._refresh_metrics)
            nursery.start_soon(self._keep)
            nursery.start_soon(self._room.run, self._node, self._watched.notify)
            nursery.start_soon(self._newness.prove)
            nursery.start_soon(self._watch_leadership)
            # What is there now stays. To look at it again and again would stop the loop for 40 ms
            # each time that the collector goes through everything.
            gc.freeze()
            self._say_ready()
            await stop.requested.wait()
            with trio.move_on_after(STOP_SECONDS_MAX) as patience:
                await self._wind_down(removed=removed is not None)
            if patience.cancelled_caught:
                _log.warning("the stop took too long; what is left is cut off")
            nursery.cancel_scope.cancel()
        return removed

    async def _serve_peers(self, nursery: trio.Nursery) -> None:
        opened, address = self._sockets.peer, self._options.peer_listen
        if opened is None or address is None:
            return
        start_listening(opened, address, what="peer-url")
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
        await nursery.start(self._transport.serve, listener)

    async def _keep(self) -> None:
        """Everything that follows from the applied configuration, or has to get into it."""
        steps = {
            "cluster key": self._keys.step,
            "listener": self._listener.settle,
            "attributes": self._attributes.announce,
            "source": self._source.seed,
            "channels": self._configured_channels.seed,
        }
        await keep(steps, lambda: self._watched.changed)

    async def _watch_leadership(self) -> None:
        while True:
            term = await self._node.leadership.wait_ready()
            self._watched.notify()
            await self._node.leadership.wait_lost(term)

    def _say_ready(self) -> None:
        listening = self._server.address
        peer = "none" if self._options.standalone else str(self._config.peer_url)
        status = self._node.status()
        sys.stderr.write(
            f"ready name={self._identity.name} id={status.member_id:x} role={status.role} "
            f"peer={peer} admin={self._endpoints.admin_url} "
            f"listen={listening if listening is not None else 'none'}\n"
        )
        sys.stderr.flush()

    def _refresh_metrics(self) -> None:
        metrics.STORAGE_BYTES.set(self._store.bytes_used)
        metrics.STORAGE_RESERVE_BYTES.set(self._store.reserve_bytes)
        metrics.BUILD_INFO.labels(__version__).set(1)
        metrics.READY.set(self._operations.is_ready)
        self._purger.show()

    async def _wind_down(self, *, removed: bool) -> None:
        if self._node.leadership.is_ready and len(self._node.cluster.voters) > 1 and not removed:
            with trio.move_on_after(HANDOVER_SECONDS_MAX):
                try:
                    await self._node.handover.transfer(None)
                except KingbusError as error:
                    _log.warning("leadership was not handed over", reason=str(error))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.stop)
            nursery.start_soon(self._channels.stop_serving)
        await self._endpoints.stop()
