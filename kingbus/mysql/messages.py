"""The messages of the connection phase and the generic answers, as values.

Owns: greeting, handshake answer and SSLRequest, OK, ERR, EOF, auth switch, auth more data: fields,
encoding and decoding for both roles. Knows nothing of phases, of passwords or of framing. Follows
the manual's "Connection Phase Packets" and "Generic Response Packets", and, where real clients
differ from it, what they were seen to send: a handshake answer is read by the client's own flags
and never required to carry its trailing parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kingbus.mysql.constants import (
    CHARSET_UTF8MB4,
    CONNECTION_ATTRIBUTES_MAX,
    ERROR_TEXT_BYTES_MAX,
    PROTOCOL_VERSION,
    SALT_SIZE,
    Capability,
    ServerStatus,
)
from kingbus.mysql.errors import BadHandshakeError, MalformedPacketError, MySQLError
from kingbus.mysql.wire import Reader, Writer

_SALT_HEAD = 8
_SSL_REQUEST_SIZE = 32


def text_of(value: bytes) -> str:
    """Text that a peer sent, for showing and comparing; what is no UTF-8 is replaced."""
    return value.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The server's first packet (HandshakeV10). `salt` is 20 bytes without NUL."""

    server_version: str
    thread_id: int
    salt: bytes = field(repr=False)
    capabilities: Capability
    charset: int = CHARSET_UTF8MB4
    status: ServerStatus = ServerStatus.AUTOCOMMIT
    auth_plugin: str

    def encode(self) -> bytes:
        """The payload."""
        assert len(self.salt) == SALT_SIZE
        assert b"\0" not in self.salt, "the salt travels NUL-terminated"
        return (
            Writer()
            .uint(1, PROTOCOL_VERSION)
            .nul_bytes(self.server_version.encode())
            .uint(4, self.thread_id & 0xFFFFFFFF)
            .nul_bytes(self.salt[:_SALT_HEAD])
            .uint(2, self.capabilities & 0xFFFF)
            .uint(1, self.charset)
            .uint(2, self.status)
            .uint(2, self.capabilities >> 16)
            .uint(1, SALT_SIZE + 1)
            .raw(bytes(10))
            .nul_bytes(self.salt[_SALT_HEAD:])
            .nul_bytes(self.auth_plugin.encode())
            .finish()
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Greeting":
        """Raises MalformedPacketError."""
        reader = Reader(payload)
        version = reader.uint(1, "protocol version")
        if version != PROTOCOL_VERSION:
            raise MalformedPacketError(f"protocol version {version} is not {PROTOCOL_VERSION}")
        server_version = text_of(reader.nul_bytes("server version"))
        thread_id = reader.uint(4, "thread id")
        head = reader.take(_SALT_HEAD, "salt")
        reader.take(1, "filler")
        low = reader.uint(2, "capabilities")
        charset = reader.uint(1, "character set")
        status = ServerStatus(reader.uint(2, "status") & 0x3)
        high = reader.uint(2, "capabilities")
        reader.take(11, "filler")
        tail = reader.nul_bytes("salt")
        plugin = text_of(reader.nul_bytes_or_rest())
        return cls(
            server_version=server_version,
            thread_id=thread_id,
            salt=head + tail,
            capabilities=Capability(low | high << 16),
            charset=charset,
            status=status,
            auth_plugin=plugin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SslRequest:
    """The client wants TLS before it says who it is."""

    capabilities: Capability
    max_packet_size: int
    charset: int

    def encode(self) -> bytes:
        """The payload, 32 bytes."""
        return (
            Writer()
            .uint(4, self.capabilities)
            .uint(4, self.max_packet_size)
            .uint(1, self.charset)
            .raw(bytes(23))
            .finish()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeResponse:
    """The client's answer to the greeting (HandshakeResponse41).

    `capabilities` are the client's own, not masked by what was offered. `auth_response` is the
    scramble in the form of `auth_plugin`; `auth_plugin` is "" from a client without PLUGIN_AUTH.
    """

    capabilities: Capability
    max_packet_size: int = 0
    charset: int = CHARSET_UTF8MB4
    user: str
    auth_response: bytes = field(repr=False)
    database: str = ""
    auth_plugin: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    zstd_level: int = 0
    """0: the client does not say, or does not know zstd."""

    def encode(self) -> bytes:
        """The payload, in the form that `capabilities` announces."""
        writer = (
            Writer()
            .uint(4, self.capabilities)
            .uint(4, self.max_packet_size)
            .uint(1, self.charset)
            .raw(bytes(23))
            .nul_bytes(self.user.encode())
        )
        if self.capabilities & Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA:
            writer.lenenc_bytes(self.auth_response)
        elif self.capabilities & Capability.SECURE_CONNECTION:
            writer.short_bytes(self.auth_response)
        else:
            writer.nul_bytes(self.auth_response)
        if self.capabilities & Capability.CONNECT_WITH_DB:
            writer.nul_bytes(self.database.encode())
        if self.capabilities & Capability.PLUGIN_AUTH:
            writer.nul_bytes(self.auth_plugin.encode())
        if self.capabilities & Capability.CONNECT_ATTRS:
            inner = Writer()
            for key, value in self.attributes.items():
                inner.lenenc_bytes(key.encode()).lenenc_bytes(value.encode())
            writer.lenenc_bytes(inner.finish())
        if self.capabilities & Capability.ZSTD_COMPRESSION_ALGORITHM:
            writer.uint(1, self.zstd_level)
        return writer.finish()


def decode_handshake_response(payload: bytes) -> HandshakeResponse | SslRequest:
    """What a client answered to the greeting.

    Raises BadHandshakeError where a field that must be there is cut, or for a client that does not
    speak the protocol of MySQL 4.1 and later. Trailing parts (database, plugin, attributes) that
    its flags announce may be missing: real clients leave them out.
    """
    reader = Reader(payload)
    try:
        capabilities = Capability(reader.uint(4, "capabilities"))
        if not capabilities & Capability.PROTOCOL_41:
            raise BadHandshakeError("the client does not speak the 4.1 protocol")
        max_packet_size = reader.uint(4, "maximum packet size")
        charset = reader.uint(1, "character set")
        reader.take(23, "filler")
        if capabilities & Capability.SSL and len(payload) == _SSL_REQUEST_SIZE:
            return SslRequest(
                capabilities=capabilities, max_packet_size=max_packet_size, charset=charset
            )
        user = text_of(reader.nul_bytes("user name"))
        auth_response = _auth_response(reader, capabilities)
    except MalformedPacketError as error:
        raise BadHandshakeError(error.message.partition(": ")[2]) from None
    database = plugin = ""
    if capabilities & Capability.CONNECT_WITH_DB:
        database = text_of(reader.nul_bytes_or_rest())
    if capabilities & Capability.PLUGIN_AUTH:
        plugin = text_of(reader.nul_bytes_or_rest())
    attributes = {}
    if capabilities & Capability.CONNECT_ATTRS:
        attributes = _attributes(reader)
    zstd_level = 0
    if capabilities & Capability.ZSTD_COMPRESSION_ALGORITHM and reader.remaining:
        zstd_level = reader.uint(1, "zstd level")
    return HandshakeResponse(
        capabilities=capabilities,
        max_packet_size=max_packet_size,
        charset=charset,
        user=user,
        auth_response=auth_response,
        database=database,
        auth_plugin=plugin,
        attributes=attributes,
        zstd_level=zstd_level,
    )


def _auth_response(reader: Reader, capabilities: Capability) -> bytes:
    if capabilities & Capability.PLUGIN_AUTH_LENENC_CLIENT_DATA:
        return reader.lenenc_bytes("auth response")
    if capabilities & Capability.SECURE_CONNECTION:
        return reader.short_bytes("auth response")
    return reader.nul_bytes_or_rest()


def _attributes(reader: Reader) -> dict[str, str]:
    """Connection attributes as far as they can be read; nothing depends on them."""
    attributes: dict[str, str] = {}
    try:
        inner = Reader(reader.lenenc_bytes("connection attributes"))
        while inner.remaining and len(attributes) < CONNECTION_ATTRIBUTES_MAX:
            key = text_of(inner.lenenc_bytes("attribute name"))
            attributes[key] = text_of(inner.lenenc_bytes("attribute value"))
    except MalformedPacketError:
        return attributes
    return attributes


def encode_ok(
    *,
    affected_rows: int = 0,
    status: ServerStatus = ServerStatus.AUTOCOMMIT,
    warnings: int = 0,
    info: str = "",
) -> bytes:
    """An OK packet, in the form without session tracking."""
    return (
        Writer()
        .raw(b"\x00")
        .lenenc_int(affected_rows)
        .lenenc_int(0)
        .uint(2, status)
        .uint(2, warnings)
        .raw(info.encode())
        .finish()
    )


def encode_prepared(statement_id: int) -> bytes:
    """The answer to a prepare: no parameters; the columns are told with the rows."""
    return Writer().raw(b"\x00").uint(4, statement_id).raw(bytes(7)).finish()


def encode_eof(status: ServerStatus = ServerStatus.AUTOCOMMIT) -> bytes:
    """An EOF packet of 5 bytes: what ends a non-blocking dump, and result sets of old clients."""
    return Writer().raw(b"\xfe").uint(2, 0).uint(2, status).finish()


def encode_result_end(status: ServerStatus = ServerStatus.AUTOCOMMIT) -> bytes:
    """The OK packet with the header 0xFE that ends a result set under DEPRECATE_EOF."""
    return b"\xfe" + encode_ok(status=status)[1:]


def encode_err(error: MySQLError, *, with_sqlstate: bool = True) -> bytes:
    """An ERR packet; the text is cut at 511 bytes, between characters.

    `with_sqlstate` is False only before the greeting, when a client cannot yet know the 4.1 form.
    """
    text = error.message.encode("utf-8", errors="replace")[:ERROR_TEXT_BYTES_MAX]
    text = text.decode("utf-8", errors="ignore").encode()
    writer = Writer().raw(b"\xff").uint(2, error.code)
    if with_sqlstate:
        writer.raw(b"#").raw(error.sqlstate.encode("ascii"))
    return writer.raw(text).finish()


def decode_err(payload: bytes) -> MySQLError:
    """The error of an ERR packet. Raises MalformedPacketError."""
    reader = Reader(payload)
    if reader.uint(1, "packet type") != 0xFF:
        raise MalformedPacketError("not an ERR packet")
    code = reader.uint(2, "error number")
    text = reader.rest()
    if text[:1] == b"#":
        return MySQLError(
            max(code, 1), text[1:6].decode("ascii", "replace").ljust(5, "0"), text_of(text[6:])
        )
    return MySQLError(max(code, 1), "HY000", text_of(text))


def encode_auth_switch(plugin: str, salt: bytes) -> bytes:
    """A request to authenticate again with another plugin."""
    return Writer().raw(b"\xfe").nul_bytes(plugin.encode()).nul_bytes(salt).finish()


def decode_auth_switch(payload: bytes) -> tuple[str, bytes]:
    """Plugin name and salt of an auth switch request. Raises MalformedPacketError."""
    reader = Reader(payload)
    if reader.uint(1, "packet type") != 0xFE:
        raise MalformedPacketError("not an auth switch request")
    return text_of(reader.nul_bytes("plugin name")), reader.nul_bytes_or_rest()


def encode_auth_more_data(data: bytes) -> bytes:
    """Plugin data from the server in the middle of authentication."""
    return b"\x01" + data
