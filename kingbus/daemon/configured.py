"""Source and listener of the configuration, and how they get into the log.

The log counts: what is configured seeds it once, and later only a difference is told. A standalone
node's arguments win over what its log holds. Must not know how anything is replicated.
"""

from kingbus import log
from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.config import Config
from kingbus.daemon.options import Options
from kingbus.node.node import Node
from kingbus.pb.command_pb2 import SourceConfig, TlsOptions
from kingbus.replication.relay import Relay
from kingbus.secrets import Secret

_log = log.get_logger("daemon")


class ConfiguredSource:
    """The source that the configuration names, if it names one."""

    def __init__(
        self,
        options: Options,
        *,
        node: Node,
        relay: Relay,
        leader: LeaderOperations,
        keys: ClusterKeyKeeper,
    ) -> None:
        self._wanted = _source_config(options.config)
        self._password = options.credentials.source_password or Secret("")
        self._arguments_win = options.standalone
        self._node = node
        self._relay = relay
        self._leader = leader
        self._keys = keys
        self._is_seeded = False
        self._difference_logged = ""

    async def seed(self) -> None:
        """Once, on the leader of a log without a source; a standalone node's arguments win."""
        wanted = self._wanted
        if wanted is None or not self._node.leadership.is_ready or self._keys.secret is None:
            return
        if self._relay.state.source_config is None:
            await self._leader.seed_source(wanted, self._password.reveal())
        elif self._arguments_win and not self._is_seeded:
            await self._leader.replace_source(wanted, self._password.reveal())
        self._is_seeded = True
        difference = self.difference()
        if difference != self._difference_logged:
            self._difference_logged = difference
            if difference:
                _log.warning(difference)

    def difference(self) -> str:
        """That the log holds another source, in one sentence; empty if there is no difference."""
        wanted, stored = self._wanted, self._relay.state.source_config
        if wanted is None or stored is None or self._leader.is_stored(wanted, None):
            return ""
        return "source: in the configuration file differs from what the log holds; the log counts"


def _source_config(config: Config) -> SourceConfig | None:
    """The source as the log would hold it, without its password."""
    source = config.source
    if source is None:
        return None
    wanted = SourceConfig(
        started=True,
        addresses=[str(each) for each in source.addresses],
        user=source.user,
        semi_sync=source.semi_sync,
        server_id=source.server_id,
        server_uuid=source.server_uuid.lower(),
        start_from=source.start_from,
        mode=source.mode,
        flavor=source.flavor,
        compression="" if source.compression == "none" else source.compression,
    )
    tls = config.source_tls
    paths = {"ca": str(tls.ca or ""), "cert": str(tls.cert or ""), "key": str(tls.key or "")}
    wanted.tls.CopyFrom(TlsOptions(mode=tls.mode, **paths))
    return wanted


async def open_configured_listener(options: Options, listener: ListenerControl) -> None:
    """Before `ready` is said: the listener of the configuration, if the log has none yet.

    A standalone node's arguments win over what its log holds. KingbusErrors of binding.
    """
    server, password = options.config.server, options.credentials.server_password
    if server is None or server.addr is None or password is None:
        return
    if listener.stored is None or options.standalone:
        await listener.open(server.addr, server.user, password.reveal())
