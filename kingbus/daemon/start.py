"""From options and a directory to what a node is built on: who it is, its log, its relay state.

Owns the order of it, see `member`, and what the start itself keeps in the directory: the made-up
peer URL of a standalone node, and the one that stands for a wildcard. Must not know the objects
and tasks of a running node.
"""

import random
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kingbus import log
from kingbus.addresses import Url
from kingbus.binlog.retention import index_share, segment_bytes_within
from kingbus.config import Config
from kingbus.daemon.options import Options, RefusedError
from kingbus.daemon.worker import Worker
from kingbus.joining import joined
from kingbus.membership.cluster import Cluster
from kingbus.node.bootstrap import BootstrapConfig, Prepared, check_not_stale, prepare
from kingbus.replication.relay import Relay
from kingbus.secrets import ClusterSecret
from kingbus.storage.at_rest import AtRest, RestKey
from kingbus.storage.ballast import Ballast, ballast_bytes
from kingbus.storage.directory import DataDirectory, Identity
from kingbus.storage.installing import finish_interrupted
from kingbus.storage.log import LogStore
from kingbus.storage.log_keys import KEY_FILE, log_keys
from kingbus.storage.recovery import discard_torn
from kingbus.storage.state_store import StateStore

if TYPE_CHECKING:
    from kingbus.archive.store import Store

_log = log.get_logger("daemon")

BALLAST_FILE = "ballast"
STANDALONE_FILE = "standalone-peer"
PEER_URL_FILE = "peer-url"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a node is built on. `options` are those it runs with, its peer URL settled."""

    options: Options
    prepared: Prepared
    directory: DataDirectory
    database: StateStore
    ballast: Ballast
    store: LogStore
    relay: Relay
    archive: "Store | None"


async def open_ground(options: Options, worker: Worker, stack: ExitStack) -> Ground:
    """Raises KingbusErrors; what is opened is closed by `stack`, in any case."""
    directory = await worker(DataDirectory.open_or_create, options.config.data_dir)
    stack.callback(directory.close)
    ballast = Ballast(
        options.config.data_dir / BALLAST_FILE, ballast_bytes(_segment_bytes(options.config))
    )
    database = await worker(_open_database, options.config, directory, ballast)
    stack.callback(database.close)
    key_file = options.config.cluster_key_file
    secret = await worker(ClusterSecret.load, key_file) if key_file is not None else None
    key_id = secret.key_id if secret is not None else ""
    await worker(_finish_install, options.config, directory, database, secret)
    options = await _joined(options, directory, key_id)
    options = await worker(_with_peer_url, options, directory, database)
    bootstrap = await worker(_bootstrap_config, options, directory, key_id)
    prepared = await prepare(bootstrap, directory, members=database.members(), runner=worker)
    for note in prepared.notes:
        _log.info(note)
    if prepared.path == "start" and await worker(discard_torn, directory.log_path):
        _log.warning("the first write of this member was never whole; it begins anew")
    store = await worker(_open_log, options.config, directory, prepared.identity, secret)
    stack.callback(store.close)
    if prepared.path == "restart":
        await check_not_stale(prepared, store.initial_state()[0], store.last_index())
    relay = await worker(
        partial(Relay.load, database=database, log=store, runner=worker, files=store)
    )
    return Ground(
        options=options,
        prepared=prepared,
        directory=directory,
        database=database,
        ballast=ballast,
        store=store,
        relay=relay,
        archive=await worker(_open_archive, options) if options.config.archive else None,
    )


def _open_database(config: Config, directory: DataDirectory, ballast: Ballast) -> StateStore:
    ballast.hold()
    share = index_share(config.reserve_data_size)
    return StateStore.open(directory.state_path, disk_bytes=share, ballast=ballast)


def _open_archive(options: Options) -> "Store":
    # Nothing of it is loaded where it is not wanted.
    from kingbus.daemon.archiving import open_store

    return open_store(options)


async def _joined(options: Options, directory: DataDirectory, key_id: str) -> Options:
    """The same, as the cluster knows this node once it was asked to add it, if that is wished."""
    if options.joining is None:
        return options
    assert options.peer_listen is not None, "a member has a peer port"
    config = await joined(
        options.joining,
        options.config,
        directory,
        listens=options.peer_listen,
        key_id=key_id,
    )
    return replace(options, config=config)


def _finish_install(
    config: Config, directory: DataDirectory, database: StateStore, secret: ClusterSecret | None
) -> None:
    """Before anything is decided by what log and database hold: they may not fit together yet."""
    if database.installing() is None:
        return
    assert directory.identity is not None, "a snapshot is installed by a member"
    store = _open_log(config, directory, directory.identity, secret)
    try:
        snapshot = finish_interrupted(database, store)
    finally:
        store.close()
    assert snapshot is not None
    _log.info("finished installing a snapshot", index=snapshot.index)


def _open_log(
    config: Config, directory: DataDirectory, identity: Identity, secret: ClusterSecret | None
) -> LogStore:
    seals = config.at_rest.encrypt != "none"
    assert secret is not None or not seals, "checked with the configuration"
    store = LogStore.open(
        directory.log_path,
        segment_bytes=_segment_bytes(config),
        reserve_bytes=config.reserve_data_size,
        index_bytes=index_share(config.reserve_data_size),
        cluster_id=identity.cluster_id,
        member_id=identity.member_id,
        former_ids=identity.former_ids,
        at_rest=AtRest(
            level=config.at_rest.zstd_level,
            key=RestKey.of(secret) if seals and secret is not None else None,
        ),
        keys=log_keys(directory.path, secret),
    )
    own_key = directory.path / KEY_FILE
    if seals and own_key.exists():
        store.warnings.append(
            f"{own_key} lies beside what at-rest.encrypt seals: remove it if it is the key in "
            "cluster-key-file, too"
        )
    for warning in store.warnings:
        _log.warning(warning)
    if store.recovery is not None:
        found = store.recovery
        _log.warning(
            "an unsynced tail was cut off",
            file=str(found.path),
            offset=found.offset,
            bytes=found.cut_bytes,
            reason=found.reason,
        )
    return store


def _segment_bytes(config: Config) -> int:
    return segment_bytes_within(config.reserve_data_size, config.segment_size)


def _with_peer_url(options: Options, directory: DataDirectory, database: StateStore) -> Options:
    """The same with the peer-url that the cluster knows in place of a wildcard. Blocks.

    It is kept in the directory when the node has just joined, for the time until the membership
    that names it is applied here.
    """
    config, file = options.config, directory.path / PEER_URL_FILE
    if options.peer_listen is None or not options.peer_listen.is_wildcard:
        return options
    if not config.peer_url.address.is_wildcard:
        directory.write_file(PEER_URL_FILE, f"{config.peer_url}\n".encode())
        return options
    members, identity = database.members(), directory.identity
    known = Cluster.from_record(members) if members is not None else None
    own = known.get(identity.member_id) if known is not None and identity is not None else None
    if own is None and not file.exists():
        raise RefusedError(
            f"peer-url: {config.peer_url} is a wildcard, and the cluster's view of it is not known",
            hint="Write the address that the other members dial.",
        )
    text = own.peer_urls[0] if own is not None else file.read_text(encoding="ascii").strip()
    return replace(options, config=config.model_copy(update={"peer_url": Url.parse(text)}))


def _bootstrap_config(options: Options, directory: DataDirectory, key_id: str) -> BootstrapConfig:
    """Blocks: a standalone node's made-up peer URL is kept in the directory."""
    config = options.config
    if not options.standalone:
        return BootstrapConfig(
            name=config.name,
            peer_url=str(config.peer_url),
            initial_cluster=config.cluster,
            is_new=config.initial_cluster_state == "new",
            lists_all=options.joining is None,
            key_id=key_id,
        )
    identity = directory.identity
    name = identity.name if identity is not None else config.name
    file = directory.path / STANDALONE_FILE
    if not file.exists():
        # Two nodes on hosts of one name must not take themselves for the same cluster.
        url = f"http://{random.SystemRandom().randbytes(8).hex()}.standalone.invalid:1"
        directory.write_file(STANDALONE_FILE, (url + "\n").encode())
    url = file.read_text(encoding="ascii").strip()
    return BootstrapConfig(name=name, peer_url=url, initial_cluster=((name, (url,)),))
