"""Builds what serves one named channel on this node, of the same classes as the default channel's.

Must not know when, nor in which tasks it runs: that is `channels`'. Dumps of named channels run in
the node's own process, and their files are not archived.
"""

import random
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from kingbus.admin.cluster_key import ClusterKeyKeeper
from kingbus.admin.leader import LeaderOperations
from kingbus.admin.listener import ListenerControl
from kingbus.admin.operations import Operations
from kingbus.admin.sql import SqlAdministration
from kingbus.daemon.channels import Parts, id_of_channel
from kingbus.daemon.configured import ConfiguredSource, open_listener_of_channel
from kingbus.daemon.options import Options
from kingbus.daemon.worker import Worker
from kingbus.mysql import auth
from kingbus.node.node import Node
from kingbus.pb.command_pb2 import ServerConfig
from kingbus.replication.binlog_server import BinlogServer
from kingbus.replication.dump import (
    CATCH_UP_SECONDS_MAX,
    DumpProgress,
    DumpRequest,
    DumpSink,
    run_dump,
)
from kingbus.replication.purger import Purger
from kingbus.replication.receiver import Receiver
from kingbus.replication.relay import Relay
from kingbus.replication.served_facts import ReceiverStatus, ServedFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsBuilder:
    """What the channels of a node have in common; `build` makes the parts of one.

    `relay` is the default channel's, `served_id` what the cluster's server id is derived from.
    """

    options: Options
    node: Node
    relay: Relay
    served_id: int
    operations: Callable[[], Operations]
    purger: Purger
    keys: ClusterKeyKeeper
    rsa_key: auth.PrivateKey
    runner: Worker
    is_full: Callable[[], bool]
    changed: Callable[[], trio.Event]
    replicas_seen: Callable[[int], Collection[str]]
    users_applied: Callable[[], None]

    def build(self, name: str, number: int, relay: Relay) -> Parts:
        """The parts of the channel of that name and number, which `relay` is of."""

        def own_receiver() -> ReceiverStatus:
            return receiver.status()

        administration = SqlAdministration(
            operations=self.operations,
            state=lambda: relay.state,
            receiver=own_receiver,
            own_users=lambda: listener.own_users,
            users_applied=self.users_applied,
            runner=self.runner,
            channel=name,
            cluster=lambda: self.relay.state,
        )
        facts = self._facts(name, relay, administration, lambda: server)
        receiver = Receiver(
            node=self.node,
            relay=relay,
            identity=facts,
            secret=lambda: self.keys.secret,
            is_full=self.is_full,
            changed=self.changed,
            attached=partial(self.replicas_seen, number),
            lowest_version=lambda: self.relay.state.lowest_version(
                member.id for member in self.node.cluster
            ),
            random=random.SystemRandom(),
            channel_name=name,
        )
        server = self._server(relay, facts)
        listener = ListenerControl(
            server=server,
            member_id=self.node.member_id,
            state=lambda: relay.state,
            store=self._store,
            runner=self.runner,
            channel=number,
            cluster=lambda: self.relay.state,
        )
        leader = LeaderOperations(
            node=self.node,
            relay=relay,
            receiver=receiver,
            identity=facts,
            keys=self.keys,
            purger=self.purger,
            channel=number,
            cluster=self.relay,
        )
        keep, difference = self._steps(name, relay, listener, leader)
        return Parts(
            name=name,
            number=number,
            relay=relay,
            facts=facts,
            administration=administration,
            receiver=receiver,
            server=server,
            listener=listener,
            leader=leader,
            keep=keep,
            difference=difference,
        )

    def _steps(
        self, name: str, relay: Relay, listener: ListenerControl, leader: LeaderOperations
    ) -> tuple[Mapping[str, Callable[[], Awaitable[None]]], Callable[[], str]]:
        """What is to be done again and again so that configured and stored come together, and what
        says that they did not.
        """
        section = next((each for each in self.options.config.channels if each.name == name), None)
        listener_of, source_of = f"listener of channel {name}", f"source of channel {name}"
        if section is None:
            return {listener_of: listener.settle}, str
        source = ConfiguredSource(
            self.options,
            node=self.node,
            relay=relay,
            leader=leader,
            keys=self.keys,
            channel=section,
        )
        configured = partial(open_listener_of_channel, self.options, section, listener)
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            f"configured {listener_of}": configured,
            listener_of: listener.settle,
            source_of: source.seed,
        }
        return steps, source.difference

    async def _store(self, wanted: ServerConfig) -> None:
        await self.operations().store_server(wanted)

    def _facts(
        self,
        name: str,
        relay: Relay,
        administration: SqlAdministration,
        server: Callable[[], BinlogServer],
    ) -> ServedFacts:
        section = self.options.config.server
        return ServedFacts(
            cluster_id=id_of_channel(self.served_id, relay.state.channel),
            relay=relay,
            receiver=administration.receiver,
            listening=lambda: server().address,
            hostname=socket.gethostname(),
            purge=administration.purge,
            administration=administration,
            until_purge=self.purger.until_purged,
            version=section.version if section is not None else "",
            semi_sync=section is None or section.semi_sync,
            channel_name=name,
        )

    def _server(self, relay: Relay, facts: ServedFacts) -> BinlogServer:
        config = self.options.config
        seconds = config.server.wait_for_catch_up if config.server else CATCH_UP_SECONDS_MAX

        async def dump(request: DumpRequest, *, sink: DumpSink, progress: DumpProgress) -> None:
            await run_dump(
                relay,
                request,
                sink=sink,
                identity=facts,
                progress=progress,
                catch_up=self.node,
                catch_up_seconds_max=seconds,
            )

        return BinlogServer(
            facts=facts,
            dumper=dump,
            rsa_key=self.rsa_key,
            ssl_context=self.options.credentials.server_tls,
            require_tls=config.tls.server is not None and config.tls.server.require,
            channel=relay.state.channel,
        )
