"""Source and listener of the configuration, and how they get into the log.

The log counts: what is configured seeds it once, and later only a difference is told. A standalone
node's arguments win over what its log holds. Must not know how anything is replicated.
"""

from kingbus import log
from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.config import ChannelSection, Config, SourceSection
from kingbus.config import TlsOptions as ConfiguredTls
from kingbus.daemon.options import Options
from kingbus.node.node import Node
from kingbus.pb.command_pb2 import SourceConfig, TlsOptions
from kingbus.replication.relay import Relay
from kingbus.secrets import Secret

_log = log.get_logger("daemon")


class ConfiguredSource:
    """The source that the configuration names, if it names one; for one channel."""

    def __init__(
        self,
        options: Options,
        *,
        node: Node,
        relay: Relay,
        leader: LeaderOperations,
        keys: ClusterKeyKeeper,
        channel: ChannelSection | None = None,
    ) -> None:
        """`channel` is the section of a named one, `relay` and `leader` are then its."""
        config, credentials = options.config, options.credentials
        source = config.source if channel is None else channel.source
        password = credentials.source_password
        if channel is not None:
            password = credentials.channels[channel.name].source_password
        self._wanted = _source_config(source, config.tls_of(source), relay.state.channel)
        self._password = password or Secret("")
        self._what = "" if channel is None else f"channels.{channel.name}."
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
        return (
            f"{self._what}source: in the configuration file differs from what the log holds; "
            "the log counts"
        )


class ConfiguredChannels:
    """The named channels of the configuration; those that are not in the log are added, once."""

    def __init__(
        self, config: Config, *, node: Node, relay: Relay, leader: LeaderOperations
    ) -> None:
        self._names = [channel.name for channel in config.channels]
        self._node = node
        self._relay = relay
        self._leader = leader

    async def seed(self) -> None:
        """On the leader; KingbusErrors while a member does not know channels."""
        if not self._node.leadership.is_ready:
            return
        for name in self._names:
            if name not in self._relay.state.channels:
                await self._leader.perform("POST", "/channels", {"name": name})


def _source_config(
    source: SourceSection | None, tls: ConfiguredTls, channel: int
) -> SourceConfig | None:
    """The source as the log would hold it, without its password."""
    if source is None:
        return None
    wanted = SourceConfig(
        channel=channel,
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


async def open_listener_of_channel(
    options: Options, channel: ChannelSection, listener: ListenerControl
) -> None:
    """The same for a named channel; `settle` has it stored. KingbusErrors of binding."""
    server = channel.server
    password = options.credentials.channels[channel.name].server_password
    if server is None or password is None or listener.stored is not None or listener.is_running:
        return
    await listener.open(server.addr, server.user, password.reveal())
