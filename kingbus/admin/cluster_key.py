"""How every member comes to have the cluster's key.

The log only announces the key: its id, and a known text sealed with it. The first leader makes one
if none is announced (or takes the configured one) and keeps it in a file of its data directory,
mode 0600. Members without it ask the others on the peer connection, check what they get against
the announcement, and keep it too. A key that was configured must fit: a node whose key cannot open
the announced check does not go on, lest it notice at a failover.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import trio

from kingbus.admin.errors import UnavailableError
from kingbus.admin.listener import Runner
from kingbus.admin.protocols import Node, Transport
from kingbus.binlog.relay_state import RelayState
from kingbus.errors import KingbusError
from kingbus.log import get_logger
from kingbus.pb.command_pb2 import ClusterKey
from kingbus.secrets import ClusterSecret, SecretError, WrongKeyError
from kingbus.transport.errors import CallRefusedError

_log = get_logger("admin")

CALL_METHOD = "cluster-key"
_CALL_SECONDS_MAX = 3.0
WAIT_SECONDS_MAX = 5.0  # a new cluster's first leader announces within milliseconds


class Announcer(Protocol):
    """Proposes the announcement; the first one in the log counts."""

    def __call__(self, secret: ClusterSecret) -> Awaitable[None]: ...


class ClusterKeyKeeper:
    """See the module. `path` is the key file of the data directory."""

    def __init__(
        self,
        *,
        path: Path,
        configured: Path | None,
        node: Node,
        transport: Transport,
        state: Callable[[], RelayState],
        announce: Announcer,
        runner: Runner,
    ) -> None:
        self._path = path
        self._configured = configured
        self._node = node
        self._transport = transport
        self._state = state
        self._announce = announce
        self._runner = runner
        self._secret: ClusterSecret | None = None
        self._verified: ClusterKey | None = None
        self._turned = trio.Event()

    @property
    def secret(self) -> ClusterSecret | None:
        """The key, once it is known to be the announced one."""
        if self._secret is None or self._verified is None:
            return None
        return self._secret

    async def wait(self) -> ClusterSecret:
        """The key; UnavailableError when it does not come in time."""
        with trio.move_on_after(WAIT_SECONDS_MAX):
            while True:
                turned = self._turned
                if (secret := self.secret) is not None:
                    return secret
                await turned.wait()
        raise UnavailableError("this node does not have the cluster key yet")

    async def load(self) -> None:
        """Take the key that is configured, or kept in the data directory, if there is one.

        SecretError when the file is unusable; WrongKeyError when a configured key is not the one
        that the log announces.
        """
        announced = self._state().cluster_key
        path = self._configured or self._path
        if self._configured is None and not self._path.exists():
            return
        try:
            self._secret = await self._runner(ClusterSecret.load, path)
            if announced is not None:
                self._secret.verify(announced)
                self._verified = announced
        except SecretError as error:
            if self._configured is not None and isinstance(error, WrongKeyError):
                raise WrongKeyError(f"cluster-key-file {path}: {error}") from error
            if self._configured is not None or announced is None:
                raise
            # The others have the announced one: ask them rather than stay down.
            self._secret = None

    async def step(self) -> None:
        """Do what is to be done now; returns soon. WrongKeyError for a configured key."""
        announced = self._state().cluster_key
        if announced is None:
            if self._node.leadership.is_ready:
                await self._make()
            return
        if self._verified is announced:
            return
        if self._secret is not None:
            try:
                self._secret.verify(announced)
            except WrongKeyError as error:
                if self._configured is not None:
                    raise WrongKeyError(f"cluster-key-file {self._configured}: {error}") from error
                _log.warning("the cluster's key is another one; asking for it")
                self._secret = None
        if self._secret is None:
            self._secret = await self._ask(announced)
        if self._secret is not None:
            self._verified = announced
            self._turned.set()
            self._turned = trio.Event()

    async def _make(self) -> None:
        if self._secret is None:
            secret = ClusterSecret.generate()
            # Kept before it is announced: what is sealed with it must stay readable.
            await self._runner(secret.store, self._path)
            self._secret = secret
        await self._announce(self._secret)
        _log.info("cluster key announced", key_id=self._secret.key_id)

    async def _ask(self, announced: ClusterKey) -> ClusterSecret | None:
        status = self._node.status()
        others = [member.id for member in self._node.cluster if member.id != status.member_id]
        # The leader first: it has used the key already.
        others.sort(key=lambda member_id: member_id != status.leader_id)
        for member_id in others:
            try:
                reply = await self._transport.call(
                    member_id, CALL_METHOD, timeout=_CALL_SECONDS_MAX
                )
                if reply.status != 200:
                    continue
                secret = ClusterSecret.of(reply.body)
                secret.verify(announced)
            except KingbusError as error:
                _log.debug("no cluster key", peer=f"{member_id:x}", reason=str(error))
                continue
            await self._runner(secret.store, self._path)
            _log.info("cluster key received", key_id=secret.key_id)
            return secret
        return None

    async def handle_call(self, caller: int, _body: bytes) -> bytes:
        """Another member's question for the key; the transport lets only members ask."""
        secret = self.secret
        if secret is None:
            raise CallRefusedError(404, "this member does not have the cluster key yet")
        # Members have no TLS between them yet, so whoever listens there learns the key.
        _log.warning(
            "cluster key handed over unencrypted",
            peer=f"{caller:x}",
            remedy="give every member the same cluster-key-file",
        )
        return secret.key
