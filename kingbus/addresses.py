"""Where something listens or is reached: `HOST:PORT`, and `http://HOST:PORT` of a member.

Owns how they are written and read; nothing here resolves or connects. IPv6 addresses stand in
brackets, as in RFC 3986.
"""

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

# 0.0.0.0 as inet_aton reads it: one to four numbers, decimal, octal or hexadecimal.
_ZERO_IPV4 = re.compile(r"(0x0*|0+)(\.(0x0*|0+)){0,3}", re.IGNORECASE)


def is_wildcard(host: str) -> bool:
    """Whether a host, without brackets, is no address but "all of this machine", however spelled.

    Who dials it reaches itself.
    """
    host = unicodedata.normalize("NFKC", host)  # as resolvers do with full-width digits
    if host == "*" or _ZERO_IPV4.fullmatch(host.rstrip(".")):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_unspecified


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `HOST:PORT` or `[IPV6]:PORT`; raises ValueError saying what is wrong."""
        host, colon, port = str(text).strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not colon or not host or (":" in host and not bracketed):
            raise ValueError("must be HOST:PORT")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("the port must be a number up to 65535")
        if re.search(r"[\s/@]", host):
            raise ValueError("must be HOST:PORT")
        return cls(host=host, port=int(port))

    @property
    def is_wildcard(self) -> bool:
        """True of `*`, 0.0.0.0 and :: in every spelling."""
        return is_wildcard(self.host)

    @property
    def is_loopback(self) -> bool:
        """True of 127.0.0.0/8, ::1 and `localhost`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """`http://HOST:PORT`, where a member is reached; a wildcard only where that is asked for."""

    address: Address

    @classmethod
    def parse(cls, text: str, *, wildcard: bool = False) -> Self:
        """Raises ValueError saying what is wrong."""
        parts = urlsplit(str(text).strip())
        if parts.scheme == "https":
            raise ValueError("TLS on this face is not available yet; use http")
        if parts.scheme != "http":
            raise ValueError("must be http://HOST:PORT")
        if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
            raise ValueError("must be http://HOST:PORT and nothing more")
        address = Address.parse(parts.netloc)
        if address.is_wildcard and not wildcard:
            raise ValueError("must be an address that others can reach, not a wildcard")
        if address.port == 0:
            raise ValueError("needs a port")
        return cls(address=address)

    def __str__(self) -> str:
        return f"http://{self.address}"
