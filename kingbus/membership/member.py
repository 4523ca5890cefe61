"""A member: its id, name and addresses, and how ids come about.

Ids follow etcd: the first eight bytes of a SHA-1 over what identifies the member, so that every
initial member finds the same ids without asking anybody. What it must not know: who is reachable,
and how changes are agreed on.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import SplitResult, urlsplit

from kingbus.addresses import is_wildcard
from kingbus.membership.errors import MemberNameError, PeerUrlError
from kingbus.pb import command_pb2

# Raft gives 0 to nobody and the two highest ids to its storage tasks.
_RESERVED_IDS = frozenset((0, 2**64 - 1, 2**64 - 2))
NAME_CHARACTERS_MAX = 64  # fits a table column and a metric label
# A node without peers has a made-up peer URL of this domain, which never resolves (RFC 6761).
STANDALONE_DOMAIN = "standalone.invalid"
_NAME = re.compile(r"[^\s=,/\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A parsed URL: `scheme` is http or https, `host` is without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Self:
        """The address in a URL such as `http://10.0.0.1:9590`.

        PeerUrlError for another scheme, a wildcard address, a missing port, or anything behind it.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise PeerUrlError(f"{url!r} is not a URL: {error}") from None
        _check_shape(url, parts)
        if not host:
            raise PeerUrlError(f"{url!r} names no host")
        if not port:
            raise PeerUrlError(f"{url!r} names no port")
        if is_wildcard(host):
            raise PeerUrlError(
                f"{url!r} is a wildcard address: others cannot reach it",
                hint="Write the address that the other members dial.",
            )
        return cls(scheme=parts.scheme, host=host, port=port)


def _check_shape(url: str, parts: SplitResult) -> None:
    if parts.scheme not in {"http", "https"}:
        raise PeerUrlError(f"{url!r} does not begin with http:// or https://")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise PeerUrlError(f"{url!r} has more than a host and a port")


def normalize_url(url: str) -> str:
    """The one spelling of a peer or admin URL; PeerUrlError as PeerAddress.parse."""
    return str(PeerAddress.parse(url))


def normalize_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """Normal forms, sorted and without repeats."""
    return tuple(sorted({normalize_url(url) for url in urls}))


def check_name(name: str) -> str:
    """The name itself; MemberNameError when it cannot be one."""
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise MemberNameError(
            f"{name!r} cannot name a member",
            hint=f"Use 1 to {NAME_CHARACTERS_MAX} characters without spaces, '=', ',' and '/'.",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member. URLs are in normal form; `promote` marks a learner that awaits its promotion.

    While one voter replaces another, they vote in one half each of a joint configuration: the one
    that is `entering` in the new one, the one that is `leaving` in the old one.
    """

    id: int
    name: str
    peer_urls: tuple[str, ...]
    admin_urls: tuple[str, ...] = ()
    learner: bool = False
    promote: bool = False
    entering: bool = False
    leaving: bool = False

    @classmethod
    def from_context(cls, context: command_pb2.MemberContext) -> Self:
        """The member that a change or a record speaks of."""
        return cls(
            id=context.member_id,
            name=context.name,
            peer_urls=tuple(context.peer_urls),
            admin_urls=tuple(context.admin_urls),
            learner=context.learner,
            promote=context.promote,
            entering=context.entering,
            leaving=context.leaving,
        )

    def to_context(self) -> command_pb2.MemberContext:
        """The member as the context of a change, or inside a record."""
        return command_pb2.MemberContext(
            member_id=self.id,
            name=self.name,
            peer_urls=self.peer_urls,
            admin_urls=self.admin_urls,
            learner=self.learner,
            promote=self.promote,
            entering=self.entering,
            leaving=self.leaving,
        )

    @property
    def has_peer_port(self) -> bool:
        """False of a node that was started without one, whom no other member could reach."""
        hosts = (PeerAddress.parse(url).host for url in self.peer_urls)
        return not any(f".{host}".endswith(f".{STANDALONE_DOMAIN}") for host in hosts)

    def promoted(self) -> Self:
        """The same member as a voter."""
        return replace(self, learner=False, promote=False)


def derive_member_id(name: str, peer_urls: Sequence[str], *, index: int = 0) -> int:
    """The id of a member: `index` is that of the change that adds it, 0 for an initial member."""
    assert index >= 0
    parts = [name, *normalize_urls(peer_urls)]
    if index:
        parts.append(str(index))
    return _digest_id("\0".join(parts).encode())


def derive_cluster_id(member_ids: Iterable[int]) -> int:
    """The id of the cluster that these members begin, in whatever order they are named."""
    return _digest_id(b"".join(number.to_bytes(8, "big") for number in sorted(member_ids)))


def _digest_id(data: bytes) -> int:
    while True:
        digest = hashlib.sha1(data, usedforsecurity=False).digest()
        found = int.from_bytes(digest[:8], "big")
        if found not in _RESERVED_IDS:
            return found
        data = digest
