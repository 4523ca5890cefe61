"""What the admin API shows, computed from values: no I/O, nothing that waits.

Each function takes the applied state (and what other layers say of themselves) and gives one of
`schema`'s data models.
"""

from collections.abc import Iterable, Mapping

from kingbus.admin import schema
from kingbus.admin.protocols import (
    Archive,
    AtRest,
    CatchUp,
    Identity,
    NodeStatus,
    ReceiverStatus,
    Replica,
)
from kingbus.binlog.gtid import GtidSet
from kingbus.binlog.relay_state import FIRST_POSITION, RelayState
from kingbus.membership.cluster import Cluster
from kingbus.membership.member import Member
from kingbus.pb import record_pb2
from kingbus.pb.command_pb2 import ServerConfig
from kingbus.replication.file_content import gaps_of


def channels(state: RelayState, named: Mapping[str, RelayState]) -> list[schema.ChannelData]:
    """All channels, the default one first; of those that are not in `named` only the name."""
    found = [_channel("", 0, state)]
    for name, number in state.channels.items():
        found.append(_channel(name, number, named.get(name) or RelayState(channel=number)))
    return found


def _channel(name: str, number: int, state: RelayState) -> schema.ChannelData:
    config = state.source_config
    return schema.ChannelData(
        name=name,
        number=number,
        source=list(config.addresses) if config is not None else [],
        started=config is not None and config.started,
        flavor=state.flavor,
        files=len(state.files),
        executed_gtid_set=str(state.executed),
    )


def members(cluster: Cluster, state: RelayState) -> list[schema.MemberData]:
    """All members, in the order of their names."""
    return [
        schema.MemberData(
            id=schema.member_id_text(member.id),
            name=member.name,
            peer_urls=list(member.peer_urls),
            admin_urls=_admin_urls(member, state),
            is_learner=member.learner,
            version=_version(member, state),
        )
        for member in sorted(cluster, key=lambda member: member.name)
    ]


def cluster_members(
    cluster: Cluster, state: RelayState, leader_id: int
) -> list[schema.ClusterMemberData]:
    """All members with who leads."""
    leader = schema.member_id_text(leader_id)
    return [
        schema.ClusterMemberData(**dict(member), is_leader=member.id == leader)
        for member in members(cluster, state)
    ]


def _admin_urls(member: Member, state: RelayState) -> list[str]:
    """What the member itself announced, else what it was added with."""
    attributes = state.members.get(member.id)
    urls = list(attributes.admin_urls) if attributes is not None else []
    return urls or list(member.admin_urls)


def _version(member: Member, state: RelayState) -> str | None:
    attributes = state.members.get(member.id)
    return attributes.version or None if attributes is not None else None


def syncer_status(
    state: RelayState, receiver: ReceiverStatus, identity: Identity
) -> schema.SyncerStatusData:
    """The receiver; only the leader's answer says what it is doing."""
    config = state.source_config
    addresses = list(config.addresses) if config is not None else []
    source = state.source
    return schema.SyncerStatusData(
        status=receiver.status,
        error=receiver.error,
        mysql_addr=addresses[0] if addresses else "",
        mysql_addrs=addresses,
        current_addr=receiver.address or None,
        mysql_user=config.user if config is not None else "",
        semi_sync=config.semi_sync if config is not None else False,
        syncer_id=identity.server_id,
        syncer_uuid=identity.server_uuid,
        current_gtid=state.last_gtid,
        last_binlog_file=state.visible.served_name,
        last_file_position=state.visible.position,
        executed_gtid_set=str(state.executed),
        purged_gtid_set=str(state.purged),
        seconds_behind_source=receiver.seconds_behind_source,
        semi_sync_active=receiver.semi_sync_active,
        acknowledged_file=receiver.acknowledged[0],
        acknowledged_position=receiver.acknowledged[1],
        source_uuid=source.source_uuid if source is not None else None,
        source_version=source.source_version if source is not None else None,
        epoch=source.epoch if source is not None else None,
    )


def server_status(
    state: RelayState, config: ServerConfig | None, replicas: Iterable[Replica], *, running: bool
) -> schema.ServerStatusData:
    """This node's replica-facing listener."""
    users = list(config.users) if config is not None else []
    return schema.ServerStatusData(
        status="running" if running else "stopped",
        addr=config.address if config is not None else "",
        user=users[0].name if users else "",
        slaves=[_replica(replica) for replica in replicas],
        current_gtid=state.last_gtid,
        last_binlog_file=state.visible.served_name,
        last_file_position=state.visible.position,
        executed_gtid_set=str(state.executed),
        purged_gtid_set=str(state.purged),
    )


def _replica(replica: Replica) -> schema.ReplicaData:
    return schema.ReplicaData(
        uuid=replica.uuid,
        server_id=replica.server_id,
        host=replica.host,
        port=replica.port or None,
        state=replica.state,
        connect_time=schema.time_text(replica.connect_time),
        last_gtid=replica.last_gtid or None,
        lag_bytes=replica.lag_bytes,
        lag_transactions=replica.lag_transactions,
        lag_seconds=replica.lag_seconds,
        heartbeat_period=replica.heartbeat_period,
        bytes_until_cut_off=replica.bytes_until_cut_off,
        semi_sync=replica.semi_sync,
        acknowledged_file=replica.acknowledged_file,
        acknowledged_position=replica.acknowledged_position,
    )


def files(state: RelayState, archive: Archive | None) -> list[schema.FileData]:
    """The files held, oldest first."""
    return [
        _file(state, row, archived=archive.has(row) if archive is not None else None)
        for row in state.files
    ]


def archive_status(archive: Archive) -> schema.ArchiveData:
    """The archive as this node knows it."""
    status = archive.status()
    return schema.ArchiveData(
        target=status.target,
        serving=status.serving,
        archiving=status.archiving,
        files=status.files,
        files_behind=status.files_behind,
        files_missing=status.files_missing,
        oldest=status.oldest or None,
        newest=status.newest or None,
        last_success=schema.time_text(status.last_success),
        error=status.error,
        errors=status.errors,
        damaged=list(status.damaged),
    )


def archived_files(archive: Archive) -> list[schema.ArchivedFileData]:
    """What is in the archive, oldest first."""
    return [
        schema.ArchivedFileData(
            name=file.row.served_name,
            size=file.row.end_position,
            epoch=file.row.epoch,
            complete=is_complete(file.row),
            first_index=file.row.first_index,
            previous_gtids=str(file.before),
            gtids=str(file.after.subtract(file.before)),
            first_time=schema.time_text(file.row.first_time),
            last_time=schema.time_text(file.row.last_time),
            object=file.key,
            sha256=file.sha256,
            compression=file.compression,
        )
        for file in archive.files()
    ]


def is_complete(row: record_pb2.FileRow) -> bool:
    """Whether a file is held as the source has it, without a gap."""
    return not (row.gaps or row.cut_position) and row.start_position <= FIRST_POSITION


def _file(state: RelayState, row: record_pb2.FileRow, *, archived: bool | None) -> schema.FileData:
    encoded = state.previous_gtids(row)
    previous = GtidSet.decode(encoded) if encoded else GtidSet()
    return schema.FileData(
        name=row.served_name,
        size=row.end_position,
        epoch=row.epoch,
        complete=is_complete(row),
        first_index=row.first_index,
        previous_gtids=str(previous),
        first_time=schema.time_text(row.first_time),
        last_time=schema.time_text(row.last_time),
        closed=row.closed,
        gaps=list(gaps_of(row)),
        archived=archived,
    )


def node_status(
    name: str,
    status: NodeStatus,
    state: RelayState,
    *,
    cluster_id: int,
    version: str,
    warnings: Iterable[str],
    at_rest: AtRest | None = None,
    state_hash: str,
) -> schema.NodeStatusData:
    """This node's own view."""
    return schema.NodeStatusData(
        name=name,
        id=schema.member_id_text(status.member_id),
        role=status.role,
        term=status.term,
        leader=schema.member_id_text(status.leader_id),
        commit_index=status.committed,
        applied_index=status.applied,
        first_index=status.first_index,
        last_index=status.last_index,
        state_hash=state_hash,
        executed_gtid_set=str(state.executed),
        purged_gtid_set=str(state.purged),
        version=version,
        cluster_id=schema.member_id_text(cluster_id),
        warnings=list(warnings),
        catch_up=_catch_up(status.catch_up),
        at_rest=_at_rest(at_rest) if at_rest is not None else None,
    )


def _at_rest(status: AtRest) -> schema.AtRestData:
    counts = bool(status.level or status.key_id)
    return schema.AtRestData(
        compress="zstd" if status.level else "none",
        level=status.level or None,
        encrypt="cluster-key" if status.key_id else "none",
        key_id=status.key_id or None,
        data_bytes=status.data_bytes if counts else None,
        stored_bytes=status.stored_bytes if counts else None,
        ratio=round(status.stored_bytes / status.data_bytes, 4) if status.data_bytes else None,
        seconds=round(status.seconds, 3) if counts else None,
        segments=status.segments,
        transformed_segments=status.transformed_segments,
        sealed_segments=status.sealed_segments,
    )


def _catch_up(catch_up: CatchUp | None) -> schema.CatchUpData | None:
    if catch_up is None:
        return None
    return schema.CatchUpData(
        installing=catch_up.installing,
        from_index=catch_up.begin,
        to_index=catch_up.end,
        share=round(catch_up.share, 4),
    )
